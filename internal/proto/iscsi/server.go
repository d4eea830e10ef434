package iscsi

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"netroot/internal/proto/accept"
)

// Limits of Server when its options are zero.
const (
	DefaultMaxConns  = 4096
	DefaultMaxBuffer = 256 << 20 // bytes
)

// Times that bound a peer's slowness.
const (
	loginTimeout = time.Minute // for all requests of a login, each of which may take accept.FirstRequest
	listTimeout  = time.Minute // between the requests of a discovery session
)

// Server serves targets. Its fields are set before Serve and not changed after it; a Server may
// serve several listeners at once.
type Server struct {
	accept.Options
	// Lookup opens the target of that iSCSI name. It is called for each login, before
	// authentication, from many goroutines. An error that wraps ErrUnknown tells the initiator that
	// there is no such target, others that the target has an error; their text goes to Log, since a
	// login response has none.
	Lookup func(ctx context.Context, name string) (*Target, error)
	// List returns what a discovery session is told; only Name is used. Nil refuses discovery
	// sessions.
	List func(ctx context.Context) ([]Target, error)

	once     sync.Once
	loop     *accept.Loop
	bufs     *accept.Buffers
	mu       sync.Mutex
	sessions map[uint16]*conn // logged in, by TSIH
	lastTSIH uint16
}

// Active returns the initiators that are logged in to a target now, in no order. Number is the
// session's TSIH.
func (s *Server) Active() []accept.Session { s.once.Do(s.setup); return s.loop.Active() }

// Counters returns what the server has done since its start.
func (s *Server) Counters() accept.Counters { s.once.Do(s.setup); return s.loop.Counters() }

// Serve accepts initiators until ctx ends, then closes l and every connection, waits for them, and
// returns nil. Replies under way get a second to leave. It returns an error when the Server lacks
// something or the listener fails.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	if s.Lookup == nil {
		return errors.New("iscsi: no Lookup function is set")
	}
	s.once.Do(s.setup)
	return s.loop.Run(ctx, l)
}

func (s *Server) setup() {
	s.bufs = accept.NewBuffers(maxBuffer, headRoom)
	s.loop = accept.NewLoop("iscsi", s.Options, accept.Limits{
		MaxConns: DefaultMaxConns, MaxBuffer: DefaultMaxBuffer, LeastBuffer: s.bufs.Size(maxBuffer),
		ConnBuffer: maxRunning * s.bufs.Size(maxBuffer), ConnRequests: maxRunning,
	})
	s.loop.Serve, s.loop.TellSurplus = s.serve, true
	s.sessions = make(map[uint16]*conn)
}

// serve serves one connection. A surplus one is told that there are too many.
func (s *Server) serve(ctx context.Context, nc *accept.Conn) {
	c := newConn(s, nc)
	defer c.close()
	defer c.Survive("connection")

	l := newLogin(c)
	if c.Surplus != nil {
		l.closed = refuse(StatusNoResources, "%w", c.Surplus)
	}
	err := l.run(ctx)
	switch {
	case c.Stopping(), c.Probed(err):
	case err != nil:
		c.Refused(c.Cause(err), "client", clip(c.initiator))
	case c.target == nil:
		err := c.requests(ctx)
		s.loop.Log.Info("iscsi: discovery", "peer", c.PeerName(), "client", c.initiator, "why", c.reason(err))
	default:
		c.serve(ctx)
	}
}

// serve serves commands until the initiator leaves.
func (c *conn) serve(ctx context.Context) {
	c.session = c.Attach(accept.Session{Client: c.initiator, Export: c.target.Name, Number: int(c.tsih)})
	why := "connection failed"
	defer func() { c.session.Detach(why) }()
	err := c.requests(ctx)
	why = c.reason(err)
	c.close()
}

func (c *conn) reason(err error) string { return c.Reason(err, "connection closed without a logout") }

// errAgain ends a session whose initiator logged in anew, as after a loss of the network (RFC 7143
// §6.3.5).
var errAgain = errors.New("the initiator logged in again")

// enter adds a connection that is about to be logged in, and ends the session that it takes the
// place of. It fails when all 65535 handles are taken.
func (s *Server) enter(c *conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, old := range s.sessions {
		if old.sameSession(c) {
			s.loop.Log.Info("iscsi: session taken over", "peer", c.PeerName(), "from", old.PeerName(),
				"client", c.initiator, "export", c.targetName())
			if from := old.Peer.Addr(); from != c.Peer.Addr() {
				s.loop.SharedName(c.initiator, c.Peer.Addr(), from)
			}
			delete(s.sessions, old.tsih)
			old.Fail(errAgain)
		}
	}
	for n := 0; c.tsih == 0; n++ {
		if s.lastTSIH++; s.lastTSIH != 0 && s.sessions[s.lastTSIH] == nil {
			c.tsih = s.lastTSIH
		} else if n > 1<<16 {
			return refuse(StatusNoResources, "all session handles are taken")
		}
	}
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
