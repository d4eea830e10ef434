package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"netroot/internal/proto/accept"
)

// ErrUnknown says that no export has the name asked for. Lookup wraps it to have its text sent to
// the client; Handshake wraps it when a server says so.
var ErrUnknown = errors.New("unknown export")

// Limits of Server when its options are zero.
const (
	DefaultMaxConns  = 4096
	DefaultMaxBuffer = 256 << 20 // bytes
)

// haggleTimeout bounds a handshake of many options, each of which may take accept.FirstRequest.
const haggleTimeout = time.Minute

// Server serves exports. Its fields are set before Serve and not changed after it; a Server may
// serve several listeners at once.
type Server struct {
	accept.Options
	// Lookup opens the export of that name ("" is the default export). It is called for each
	// client, from many goroutines. The text of an error that wraps ErrUnknown goes to the client;
	// other errors only to Log.
	Lookup func(ctx context.Context, name string) (*Export, error)
	// List returns what NBD_OPT_LIST tells; only Name and Description are used. Nil refuses the
	// option.
	List func(ctx context.Context) ([]Export, error)
	// TLS, when set, answers NBD_OPT_STARTTLS; RequireTLS refuses everything before it.
	TLS        *tls.Config
	RequireTLS bool

	once sync.Once
	loop *accept.Loop
	bufs *accept.Buffers
}

// Active returns the clients that have an export attached now, in no order.
func (s *Server) Active() []accept.Session { s.once.Do(s.setup); return s.loop.Active() }

// Counters returns what the server has done since its start.
func (s *Server) Counters() accept.Counters { s.once.Do(s.setup); return s.loop.Counters() }

// Serve accepts clients until ctx ends, then closes l and every connection, waits for them, and
// returns nil. Replies under way get a second to leave. It returns an error when the Server lacks
// something or the listener fails.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	if s.Lookup == nil {
		return errors.New("nbd: no Lookup function is set")
	}
	if s.RequireTLS && s.TLS == nil {
		return errors.New("nbd: TLS is required and no certificate is configured")
	}
	s.once.Do(s.setup)
	return s.loop.Run(ctx, l)
}

func (s *Server) setup() {
	s.loop = accept.NewLoop("nbd", s.Options, accept.Limits{
		MaxConns: DefaultMaxConns, MaxBuffer: DefaultMaxBuffer, LeastBuffer: headRoom + maxPiece,
		ConnBuffer: connMemory, ConnRequests: connInFlight,
	})
	s.loop.Serve = s.serve
	s.bufs = accept.NewBuffers(maxPiece, headRoom)
}

// serve serves one connection.
func (s *Server) serve(ctx context.Context, nc *accept.Conn) {
	c := newConn(s, nc)
	defer c.close()
	defer c.Survive("connection")

	attached, err := c.haggle(ctx)
	switch {
	case c.Stopping(), c.Probed(err):
	case err != nil:
		c.Refused(err)
	case attached:
		c.serve(ctx)
	}
}

// serve serves requests until the client leaves.
func (c *conn) serve(ctx context.Context) {
	c.session = c.Attach(accept.Session{Export: c.name})
	why := "connection failed"
	defer func() { c.session.Detach(why) }()
	err := c.transmit(ctx)
	why = c.Reason(err, "connection closed without a disconnect")
	c.close()
}
