package iscsi

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"netroot/internal/proto/accept"
)

// Limits of Server when its fields are zero.
const (
	DefaultMaxConns  = 4096
	DefaultMaxBuffer = 256 << 20 // bytes
)

// Times that bound a peer's slowness.
const (
	requestTimeout = 10 * time.Second // for each request of a login
	loginTimeout   = time.Minute      // for all of them
	listTimeout    = time.Minute      // between the requests of a discovery session
)

// Server serves targets. Its fields are set before Serve and left alone after; a Server may serve several
// listeners at once.
type Server struct {
	// Lookup opens the target of that iSCSI name. It is called for each login, before authentication, from many
	// goroutines. An error that wraps ErrUnknown tells the initiator that there is no such target, others that
	// the target has an error; their text goes to Log, since a login response has none.
	Lookup func(ctx context.Context, name string) (*Target, error)
	// List names what a discovery session is told; only Name is used. Nil refuses discovery sessions.
	List func(ctx context.Context) ([]Target, error)
	// Log gets one line for each initiator that logs in, leaves or is refused. Nil discards.
	Log *slog.Logger
	// MaxConns bounds the connections; MaxBuffer the bytes of replies held in memory for all of them together,
	// beside 128 KiB for each connection that has commands running. 0 means the defaults above.
	MaxConns  int
	MaxBuffer int64
	// Observe, when set, is told when an initiator logs in to a target and when it leaves.
	Observe func(Stat)

	once     sync.Once
	conns    accept.Loop         // connections, logged in or not
	memory   *semaphore.Weighted // of MaxBuffer bytes
	bufs     buffers
	mu       sync.Mutex
	sessions map[uint16]*conn // logged in, by TSIH
	lastTSIH uint16
}

// Stat is what one initiator has read of one target.
type Stat struct {
	Peer      string // address and port
	Initiator string // its name
	Target    string
	Since     time.Time
	Reads     uint64 // READ commands that were answered with data
	Bytes     uint64 // of that data
	Done      bool   // the initiator has left
}

// Active returns the initiators that are logged in to a target now, in no order.
func (s *Server) Active() []Stat {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Stat, 0, len(s.sessions))
	for _, c := range s.sessions {
		if c.target != nil {
			all = append(all, c.stat())
		}
	}
	return all
}

// Serve accepts initiators until ctx ends, then closes l and every connection, waits for them, and returns nil.
// Replies under way get a second to leave. It returns an error when the Server lacks something or the
// listener fails.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	if s.Lookup == nil {
		return errors.New("iscsi: no Lookup function is set")
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
	s.conns = accept.Loop{
		Protocol: "iscsi", Log: s.Log, Max: s.MaxConns,
		Serve:   func(ctx context.Context, nc net.Conn) { s.serve(ctx, nc, false) },
		Surplus: func(ctx context.Context, nc net.Conn) { s.serve(ctx, nc, true) },
	}
	s.memory = semaphore.NewWeighted(s.MaxBuffer)
	s.sessions = make(map[uint16]*conn)
}

// serve is the life of one connection. A surplus one is told that there are too many.
func (s *Server) serve(ctx context.Context, nc net.Conn, surplus bool) {
	c := newConn(s, nc)
	defer c.close()
	defer c.survive("connection")

	l := newLogin(c)
	if surplus {
		l.closed = refuse(StatusNoResources, "%w", s.conns.TooMany())
	}
	err := l.run(ctx)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		s.refused(c.peer, c.initiator, err)
	case c.target == nil:
		err := c.requests(ctx)
		s.Log.Info("iscsi: discovery", "peer", c.peer, "initiator", c.initiator, "why", leaving(err))
	default:
		s.attached(ctx, c)
	}
}

// attached serves commands until the initiator leaves.
func (s *Server) attached(ctx context.Context, c *conn) {
	s.Log.Info("iscsi: logged in", "peer", c.peer, "initiator", c.initiator, "target", c.target.Name)
	s.observe(c.stat())
	defer func() {
		st := c.stat()
		st.Done = true
		s.observe(st)
	}()
	err := c.requests(ctx)
	why := leaving(err)
	c.close()
	st := c.stat()
	s.Log.Info("iscsi: left", "peer", c.peer, "initiator", c.initiator, "target", c.target.Name,
		"reads", st.Reads, "bytes", st.Bytes, "after", time.Since(st.Since).Round(time.Millisecond), "why", why)
}

func leaving(err error) string {
	switch {
	case err == nil:
		return errLoggedOut.Error()
	case errors.Is(err, io.EOF):
		return "connection closed without a logout"
	}
	return err.Error()
}

// errAgain ends a session whose initiator logged in anew, as after a loss of the network (RFC 7143 §6.3.5).
var errAgain = errors.New("the initiator logged in again")

// enter adds a connection that is about to be logged in, and ends the session that it takes the place of. It
// fails when all 65535 handles are taken.
func (s *Server) enter(c *conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, old := range s.sessions {
		if old.sameSession(c) {
			s.Log.Info("iscsi: session taken over", "peer", c.peer, "from", old.peer, "initiator", c.initiator, "target", c.targetName())
			delete(s.sessions, old.tsih)
			old.fail(errAgain)
		}
	}
	for n := 0; c.tsih == 0; n++ {
		if s.lastTSIH++; s.lastTSIH != 0 && s.sessions[s.lastTSIH] == nil {
			c.tsih = s.lastTSIH
		} else if n > 1<<16 {
			return refuse(StatusNoResources, "all session handles are taken")
		}
	}
	c.since = time.Now()
	s.sessions[c.tsih] = c
	return nil
}

func (s *Server) leave(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[c.tsih] == c {
		delete(s.sessions, c.tsih)
	}
}

func (s *Server) observe(st Stat) {
	if s.Observe != nil {
		s.Observe(st)
	}
}

func (s *Server) refused(peer, initiator string, why error) {
	s.Log.Warn("iscsi: refused", "peer", peer, "initiator", clip(initiator), "why", why)
}
