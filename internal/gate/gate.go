// Package gate has servers on this host's loopback serve one process of this host, and none of the
// other processes and users that reach the same address.
//
// For each connection the kernel is asked which socket is its other end, and the process whether it
// has that socket among its descriptors. The package does not start the process, and says nothing
// about connections from other hosts: those are refused.
package gate

import (
	"errors"
	"net"
	"strconv"
	"sync"
)

// Gate guards listeners. The zero value admits nobody, and connections wait.
type Gate struct {
	// Refused, when set, is called for the first connection that is refused, but not for one that
	// its other end has closed already: a stranger cannot fill the user's terminal. It is set
	// before the first Guard.
	Refused func(why error)

	once  sync.Once
	opens sync.Once
	open  chan struct{}
	tell  sync.Once
	owns  func(inode uint64) bool // valid when open is closed
}

// Open has connections admitted whose other end is a socket that the owner has. inode is the number
// of the socket's file (stat(2)). Only the first call counts.
func (g *Gate) Open(owns func(inode uint64) bool) {
	g.opens.Do(func() {
		g.owns = owns
		close(g.opened())
	})
}

func (g *Gate) opened() chan struct{} {
	g.once.Do(func() { g.open = make(chan struct{}) })
	return g.open
}

// Guard returns a listener of the connections of l that are admitted. Those that are made before
// Open wait.
func (g *Gate) Guard(l net.Listener) net.Listener {
	return &guarded{Listener: l, gate: g, closed: make(chan struct{})}
}

type guarded struct {
	net.Listener
	gate   *Gate
	once   sync.Once
	closed chan struct{}
}

func (l *guarded) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case <-l.gate.opened():
		case <-l.closed:
		}
		why := l.gate.check(conn)
		if why == nil {
			return conn, nil
		}
		conn.Close()
		if l.gate.Refused != nil && !errors.Is(why, errNoSocket) && !errors.Is(why, net.ErrClosed) {
			l.gate.tell.Do(func() { l.gate.Refused(why) })
		}
	}
}

func (l *guarded) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

var errStranger = errors.New("only the machine that was started may connect")

// check returns why a connection is refused.
func (g *Gate) check(conn net.Conn) error {
	select {
	case <-g.opened():
	default:
		return net.ErrClosed // the listener was closed before the owner was known
	}
	s, err := otherEnd(conn)
	if err == nil && !g.owns(s.inode) {
		err = errStranger
	}
	if err != nil {
		return &Error{Local: conn.LocalAddr(), UID: s.uid, Err: err}
	}
	return nil
}

// Error is why a connection was refused.
type Error struct {
	Local net.Addr // address of the server
	UID   uint32   // of the process that connected, if Err says that it is a process of this host
	Err   error
}

func (e *Error) Error() string {
	if e.Err == errStranger {
		return "a process of user " + strconv.Itoa(int(e.UID)) + " was refused at " + e.Local.String() + ": " + e.Err.Error()
	}
	return "a connection was refused at " + e.Local.String() + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }
