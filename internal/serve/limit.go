package serve

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"

	"netroot/internal/proto/accept"
)

// maxHTTPConns bounds the connections of the HTTP server, as the other servers' are.
const maxHTTPConns = 16384

// connections are those of an HTTP server: at most limit, of which one address has its share.
type connections struct {
	limit   int
	refused func(peer string, why error)

	mu    sync.Mutex
	open  int
	peers map[string]int // by address
}

func newConnections(limit int, refused func(peer string, why error)) *connections {
	return &connections{limit: limit, refused: refused, peers: make(map[string]int)}
}

// state is told of each connection (http.Server.ConnState), and refuses those above a limit with
// status 503.
func (c *connections) state(nc net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		accept.Tune(nc)
		if why := c.enter(nc); why != nil {
			c.refused(nc.RemoteAddr().String(), why)
			// The client has not sent a request yet, but the answer is the same to all. It fits
			// into the socket's buffer.
			io.WriteString(nc, "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 10\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			nc.Close()
		}
	case http.StateClosed, http.StateHijacked:
		c.leave(nc)
	}
}

// enter counts a connection, and returns why it is above a limit.
func (c *connections) enter(nc net.Conn) error {
	peer := addressOf(nc)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open++
	c.peers[peer]++
	switch share := accept.Share(c.limit); {
	case c.open > c.limit:
		return fmt.Errorf("more than %d connections", c.limit)
	case c.peers[peer] > share:
		return fmt.Errorf("more than %d connections from one address", share)
	}
	return nil
}

func (c *connections) leave(nc net.Conn) {
	peer := addressOf(nc)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
	if c.peers[peer]--; c.peers[peer] == 0 {
		delete(c.peers, peer)
	}
}

// addressOf is the peer's address without its port.
func addressOf(nc net.Conn) string {
	host, _, err := net.SplitHostPort(nc.RemoteAddr().String())
	if err != nil {
		return nc.RemoteAddr().String()
	}
	return host
}
