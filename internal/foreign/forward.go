package foreign

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A server listens in a network namespace of its own, so that nothing on this host reaches it. The
// keeper, which is in the namespace, has a socket to this process: each message on it is an address
// in the namespace, with the descriptor of a connection that the keeper then connects to it. When
// the socket closes, the keeper ends.

// controlPair returns both ends of that socket. The keeper's is its standard input.
func controlPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs = os.NewFile(uintptr(fds[1]), "control")
	if ours, err = unixConn(os.NewFile(uintptr(fds[0]), "control")); err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// unixConn takes over a file that is a Unix socket.
func unixConn(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("%s is not a Unix socket", f.Name())
	}
	return u, nil
}

// hand gives a connection to the keeper, for an address in its namespace.
func hand(control *net.UnixConn, address string, conn *os.File) error {
	_, _, err := control.WriteMsgUnix([]byte(address), unix.UnixRights(int(conn.Fd())), nil)
	return err
}

// enter connects to an address in the keeper's namespace.
func enter(control *net.UnixConn, address string) (net.Conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), address)
	defer theirs.Close()
	ours, err := unixConn(os.NewFile(uintptr(fds[0]), address))
	if err != nil {
		return nil, err
	}
	if err := hand(control, address, theirs); err != nil {
		ours.Close()
		return nil, err
	}
	return ours, nil
}

// forward gives the connections of a listener to the keeper, for the address in its namespace that
// is the listener's here. It returns when the listener is closed.
func forward(control *net.UnixConn, l net.Listener) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // a client that left, or a full table
		}
		if tcp, ok := conn.(*net.TCPConn); ok {
			if f, err := tcp.File(); err == nil {
				hand(control, l.Addr().String(), f) // the keeper that is gone cannot be told
				f.Close()
			}
		}
		conn.Close()
	}
}

// receive is the keeper's half: it connects what comes until the socket closes.
func receive(control *net.UnixConn) {
	address, rights := make([]byte, 64), make([]byte, unix.CmsgSpace(4))
	for {
		n, m, _, _, err := control.ReadMsgUnix(address, rights)
		if err != nil || n == 0 {
			return
		}
		conn, err := received(rights[:m])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			continue
		}
		go connect(conn, string(address[:n]))
	}
}

// received is the connection that came with a message.
func received(rights []byte) (net.Conn, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("a message without a connection: %v", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fds[0]), "connection")
	defer f.Close()
	return net.FileConn(f)
}

// connect connects conn to the server at address.
func connect(conn net.Conn, address string) {
	defer conn.Close()
	server, err := net.Dial("tcp", address)
	if err != nil {
		return // the client sees that nobody is there
	}
	defer server.Close()
	var both sync.WaitGroup
	both.Go(func() { pump(server, conn) })
	both.Go(func() { pump(conn, server) })
	both.Wait()
}

// pump copies until from ends, which to is told. After an error both end.
func pump(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
		err = half.CloseWrite()
	}
	if err != nil {
		to.Close()
		from.Close()
	}
}
