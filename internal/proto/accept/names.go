package accept

import (
	"log/slog"
	"net/netip"
)

// names counts the sessions of each client's name by the address from which they came. A name is
// one machine's: two machines that use one end each other's sessions, or are taken for two paths of
// one machine.
type names map[string]map[netip.Addr]int

// add notes a session, and returns the address of another machine that uses the name, if there is
// one.
func (n names) add(client string, from netip.Addr) (other netip.Addr) {
	if n[client] == nil {
		n[client] = make(map[netip.Addr]int)
	}
	for a := range n[client] {
		if a != from {
			other = a
		}
	}
	n[client][from]++
	return other
}

func (n names) remove(client string, from netip.Addr) {
	if n[client][from]--; n[client][from] <= 0 {
		delete(n[client], from)
	}
	if len(n[client]) == 0 {
		delete(n, client)
	}
}

// address is where the peer is, without its port.
func address(p netip.AddrPort) netip.Addr { return p.Addr().Unmap().WithZone("") }

// SharedName logs that two addresses use the name of one client. The lines are as few as those of
// refusals.
func (l *Loop) SharedName(client string, peer, other netip.Addr) {
	l.log.Log(slog.LevelWarn, l.Protocol+": one name is used from two addresses", "client", client, "peer", peer, "other", other,
		"why", "a machine has two addresses, or two machines have one identity: look for equal MAC addresses and for a name that is in the image or a layer")
}
