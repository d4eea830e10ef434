package nbd

import (
	"bufio"
	"net"
	"sync/atomic"
	"time"

	"netroot/internal/proto/accept"
)

const (
	connInFlight = 16                            // requests of one connection under way
	connMemory   = 8<<20 + connInFlight*headRoom // bytes of their buffers
	readAhead    = 1 << 10                       // bytes of requests read at once: 36 of them

	// headRoom is the part of a buffer in front of the data, so that a reply's header and data
	// leave in one write, without a copy and, under TLS, in one record.
	headRoom = 32

	// maxPiece is how many bytes of a reply are read before they are sent. A larger reply goes out
	// in pieces.
	maxPiece = 4 << 20

	quickRead   = 256 << 10              // bytes up to which a read is quick,
	slowBackend = 200 * time.Microsecond // unless the last one took longer
)

// conn is one client.
type conn struct {
	*accept.Conn
	srv *Server
	nc  net.Conn // Conn, or TLS over it
	r   *bufio.Reader

	replies *accept.Replies // of the transmission, on nc

	// What the haggling settles.
	name       string // as the client gave it
	export     *Export
	size       int64 // of the export when it was looked up
	structured bool
	tls        bool
	context    *string // the export for which base:allocation was selected

	session *accept.Attachment
	slow    atomic.Bool // the backend's last read took long
	told    string      // why an option was refused last
}

func newConn(s *Server, nc *accept.Conn) *conn {
	return &conn{Conn: nc, srv: s, nc: nc, r: bufio.NewReaderSize(nc, readAhead)}
}

// close closes the connection and releases the export. Requests must be over. It may be called
// twice.
func (c *conn) close() {
	c.nc.Close() // TLS sends its alert for at most 5 s
	c.forget()
}
