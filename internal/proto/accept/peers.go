package accept

import "fmt"

// peer is an address that has connections.
type peer struct {
	conns  int
	memory *budget // its share of the loop's
}

// Share is how many of a server's connections one peer address may have: a quarter, or so few that
// one machine may need them.
func Share(conns int) int { return max(conns/peerShare, leastPeerConns) }

// peerMemory is how many bytes of the loop's memory one address may hold.
func (l *Loop) peerMemory() int64 {
	return min(l.MaxBuffer, max(l.MaxBuffer/peerShare, l.limits.ConnBuffer))
}

// key is what peers are told apart by: the address, without the port.
func (c *Conn) key() string {
	if c.Peer.IsValid() {
		return c.Peer.Addr().String()
	}
	return c.RemoteAddr().String()
}

// tooMany returns why c is above a limit. It needs l.mu.
func (l *Loop) tooMany(c *Conn) error {
	if len(l.conns)-l.surplus >= l.MaxConns {
		return fmt.Errorf("more than %d connections", l.MaxConns)
	}
	if p := l.peers[c.key()]; p != nil && p.conns >= Share(l.MaxConns) {
		return fmt.Errorf("more than %d connections from one address", Share(l.MaxConns))
	}
	return nil
}

// enter adds c. It needs l.mu.
func (l *Loop) enter(c *Conn) {
	l.conns[c] = struct{}{}
	if c.Surplus != nil {
		l.surplus++
		return
	}
	p := l.peers[c.key()]
	if p == nil {
		p = &peer{memory: newBudget(l.peerMemory())}
		l.peers[c.key()] = p
	}
	p.conns++
	c.peer = p
}

// leave removes c.
func (l *Loop) leave(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
	l.past.add(c)
	if c.Surplus != nil {
		l.surplus--
	} else if c.peer.conns--; c.peer.conns == 0 {
		delete(l.peers, c.key())
	}
}
