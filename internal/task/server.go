package task

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"
)

// Accepting returns a listener that calls ready when it is asked for a connection: then its server
// runs.
func Accepting(l net.Listener, ready func()) net.Listener { return &accepting{l, ready} }

type accepting struct {
	net.Listener
	ready func()
}

func (a *accepting) Accept() (net.Conn, error) {
	a.ready()
	return a.Listener.Accept()
}

// Receiving returns a datagram socket that calls ready when it is asked for a datagram.
func Receiving(p net.PacketConn, ready func()) net.PacketConn { return &receiving{p, ready} }

type receiving struct {
	net.PacketConn
	ready func()
}

func (r *receiving) ReadFrom(p []byte) (int, net.Addr, error) {
	r.ready()
	return r.PacketConn.ReadFrom(p)
}

// closeGrace is how long transfers may go on when an HTTP server ends.
const closeGrace = time.Second

// HTTP runs an HTTP server on l as Task.Run does. When ctx ends, transfers that are under way have
// a second to finish.
func HTTP(ctx context.Context, server *http.Server, l net.Listener, ready func()) error {
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(Accepting(l, ready)) }()
	select {
	case err := <-failed:
		return fmt.Errorf("%s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
	defer cancel()
	if server.Shutdown(grace) != nil {
		server.Close()
	}
	<-failed
	return nil
}
