package nbd

import (
	"bufio"
	"errors"
	"net"
	"runtime/debug"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"netroot/internal/proto/accept"
)

const (
	connInFlight = 16      // requests of one connection under way
	connMemory   = 8 << 20 // bytes of their buffers, but for a single larger one
	smallRead    = 128 << 10
	readAhead    = 1 << 10 // bytes of requests read at once: 36 of them

	quickRead   = 256 << 10              // bytes up to which a read is quick,
	slowBackend = 200 * time.Microsecond // unless the last one took longer
)

// conn is one client.
type conn struct {
	srv  *Server
	peer string
	raw  net.Conn
	nc   net.Conn // raw, or TLS over it
	r    *bufio.Reader

	replies *accept.Replies // of the transmission, on nc

	// What the haggling settles.
	name       string // as the client gave it
	export     *Export
	size       int64 // of the export when it was looked up
	structured bool
	tls        bool
	context    *string // the export for which base:allocation was selected

	inFlight *semaphore.Weighted // of connMemory, see admit
	slow     atomic.Bool         // the backend's last read took long
	told     string              // why an option was refused last
	wrong    bool                // a request was refused, and that was logged
	since    time.Time           // it attached the export
	reads    atomic.Uint64
	bytes    atomic.Uint64
	ioFailed atomic.Bool           // a backend error was logged
	cause    atomic.Pointer[error] // why this side closed the connection
}

func newConn(s *Server, nc net.Conn) *conn {
	return &conn{
		srv: s, peer: nc.RemoteAddr().String(), raw: nc, nc: nc,
		r:        bufio.NewReaderSize(nc, readAhead),
		inFlight: semaphore.NewWeighted(connMemory),
	}
}

// close closes the connection and lets go of the export. Requests must be over. It may be called twice.
func (c *conn) close() {
	c.nc.Close() // TLS says goodbye within 5 s of its own
	c.forget()
}

// fail ends the connection from any of its goroutines; the first cause is kept.
func (c *conn) fail(err error) {
	c.cause.CompareAndSwap(nil, &err)
	c.raw.Close()
}

// survive keeps a panic of this connection, or of its backend, from ending the server.
func (c *conn) survive(what string) {
	if p := recover(); p != nil {
		c.srv.Log.Error("nbd: panic, connection closed", "in", what, "peer", c.peer, "export", c.name,
			"panic", p, "stack", string(debug.Stack()))
		c.fail(errors.New("panic"))
	}
}

func (c *conn) stat() Stat {
	return Stat{Peer: c.peer, Export: c.name, Since: c.since, Reads: c.reads.Load(), Bytes: c.bytes.Load()}
}
