package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"netroot/internal/proto/accept"
)

// ErrUnknown says that no export has the name asked for. Lookup wraps it to have its text sent to the
// client; Handshake wraps it when a server says so.
var ErrUnknown = errors.New("unknown export")

// Limits of Server when its fields are zero.
const (
	DefaultMaxConns  = 4096
	DefaultMaxBuffer = 256 << 20 // bytes
)

// Times that bound a peer's slowness.
const (
	optionTimeout = 10 * time.Second // for each option
	haggleTimeout = time.Minute      // for all of them
)

// Server serves exports. Its fields are set before Serve and left alone after; a Server may serve several
// listeners at once.
type Server struct {
	// Lookup opens the export of that name ("" is the default export). It is called for each client, from
	// many goroutines. Text of an error that wraps ErrUnknown goes to the client; other errors only to Log.
	Lookup func(ctx context.Context, name string) (*Export, error)
	// List names what NBD_OPT_LIST tells; only Name and Description are used. Nil refuses the option.
	List func(ctx context.Context) ([]Export, error)
	// Log gets one line for each client that attaches, leaves or is refused. Nil discards.
	Log *slog.Logger
	// TLS, when set, answers NBD_OPT_STARTTLS; RequireTLS refuses everything before it.
	TLS        *tls.Config
	RequireTLS bool
	// MaxConns bounds the connections; MaxBuffer the bytes of replies held in memory for all of them
	// together (at least 32 MiB, one largest request), beside 128 KiB for each connection that has a
	// request. 0 means the defaults above.
	MaxConns  int
	MaxBuffer int64
	// Observe, when set, is told when a client attaches an export and when it leaves.
	Observe func(Stat)

	once   sync.Once
	conns  accept.Loop         // connections, attached or not
	memory *semaphore.Weighted // of MaxBuffer bytes
	bufs   buffers
	mu     sync.Mutex
	active map[*conn]struct{} // attached
}

// Stat is what one client has read of one export.
type Stat struct {
	Peer   string // address and port
	Export string
	Since  time.Time
	Reads  uint64 // requests that were answered with data
	Bytes  uint64 // of that data
	Done   bool   // the client has left
}

// Active returns the clients that have an export attached now, in no order.
func (s *Server) Active() []Stat {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Stat, 0, len(s.active))
	for c := range s.active {
		all = append(all, c.stat())
	}
	return all
}

// Serve accepts clients until ctx ends, then closes l and every connection, waits for them, and returns nil.
// Replies under way get a second to leave. It returns an error when the Server lacks something or the
// listener fails.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	if s.Lookup == nil {
		return errors.New("nbd: no Lookup function is set")
	}
	if s.RequireTLS && s.TLS == nil {
		return errors.New("nbd: TLS is required and no certificate is configured")
	}
	s.once.Do(s.setup)
	return s.conns.Run(ctx, l)
}

func (s *Server) setup() {
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	if s.MaxConns <= 0 {
		s.MaxConns = DefaultMaxConns
	}
	if s.MaxBuffer <= 0 {
		s.MaxBuffer = DefaultMaxBuffer
	}
	s.conns = accept.Loop{Protocol: "nbd", Log: s.Log, Max: s.MaxConns, Serve: s.serve}
	s.memory = semaphore.NewWeighted(max(s.MaxBuffer, maxPayload))
	s.active = make(map[*conn]struct{})
}

// serve is the life of one connection.
func (s *Server) serve(ctx context.Context, nc net.Conn) {
	c := newConn(s, nc)
	defer c.close()
	defer c.survive("connection")

	attached, err := c.haggle(ctx)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		s.refused(c.peer, err)
	case attached:
		s.attached(ctx, c)
	}
}

// attached serves requests until the client leaves.
func (s *Server) attached(ctx context.Context, c *conn) {
	c.since = time.Now()
	s.mu.Lock()
	s.active[c] = struct{}{}
	s.mu.Unlock()
	s.Log.Info("nbd: attached", "peer", c.peer, "export", c.name)
	s.observe(c.stat())

	defer func() {
		s.mu.Lock()
		delete(s.active, c)
		s.mu.Unlock()
		st := c.stat()
		st.Done = true
		s.observe(st)
	}()
	why := leaving(ctx, c.transmit(ctx))
	c.close()
	st := c.stat()
	s.Log.Info("nbd: left", "peer", c.peer, "export", c.name, "reads", st.Reads, "bytes", st.Bytes,
		"after", time.Since(st.Since).Round(time.Millisecond), "why", why)
}

func leaving(ctx context.Context, err error) string {
	switch {
	case ctx.Err() != nil:
		return "the server stops"
	case err == nil:
		return "disconnected"
	case errors.Is(err, io.EOF):
		return "connection closed without a disconnect"
	}
	return err.Error()
}

func (s *Server) observe(st Stat) {
	if s.Observe != nil {
		s.Observe(st)
	}
}

func (s *Server) refused(peer string, why error) {
	s.Log.Warn("nbd: refused", "peer", peer, "why", why)
}
