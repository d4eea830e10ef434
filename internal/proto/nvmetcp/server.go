package nvmetcp

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"

	"netroot/internal/proto/accept"
)

// Limits of Server when its options are zero.
const (
	DefaultMaxConns  = 16384
	DefaultMaxQueues = 8
	DefaultMaxBuffer = 256 << 20 // bytes
)

// Server serves subsystems. Its fields are set before Serve and not changed after it; a Server may
// serve several listeners at once, and then an admin connection may come to one and its I/O
// connections to another.
type Server struct {
	accept.Options
	// Lookup opens the subsystem of that name. It is called for each controller, from many
	// goroutines.
	Lookup func(ctx context.Context, nqn string) (*Subsystem, error)
	// List names what the discovery subsystem lists; only NQN is used. Nil lists nothing.
	List func(ctx context.Context) ([]Subsystem, error)
	// Advertise is the address that discovery tells. The zero value is the one to which the asking
	// host connected, which is right unless something between translates addresses.
	Advertise netip.AddrPort
	// MaxQueues bounds the I/O connections of one controller, of which Linux makes one for each
	// processor it has. 0 means DefaultMaxQueues.
	MaxQueues int

	once        sync.Once
	loop        *accept.Loop
	bufs        *accept.Buffers
	mu          sync.Mutex
	controllers map[uint16]*controller
	newID       func() uint16 // a number to try
}

// Active returns the hosts that have a subsystem attached now, in no order: one session for each
// controller, of which Number is the controller's and Connections is the number of its I/O
// connections. Discovery has no sessions.
func (s *Server) Active() []accept.Session { s.once.Do(s.setup); return s.loop.Active() }

// Counters returns what the server has done since its start.
func (s *Server) Counters() accept.Counters { s.once.Do(s.setup); return s.loop.Counters() }

// Serve accepts hosts until ctx ends, then closes l and every connection, waits for them, and
// returns nil. Replies under way get a second to leave. It returns an error when the Server lacks
// something or the listener fails.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	if s.Lookup == nil {
		return errors.New("nvmetcp: no Lookup function is set")
	}
	s.once.Do(s.setup)
	return s.loop.Run(ctx, l)
}

func (s *Server) setup() {
	if s.MaxQueues <= 0 {
		s.MaxQueues = DefaultMaxQueues
	}
	if s.newID == nil {
		s.newID = randomID
	}
	s.bufs = accept.NewBuffers(maxTransfer, headRoom+tailRoom)
	s.loop = accept.NewLoop("nvmetcp", s.Options, accept.Limits{
		MaxConns: DefaultMaxConns, MaxBuffer: DefaultMaxBuffer, LeastBuffer: s.bufs.Size(maxTransfer),
		ConnBuffer: connInFlight * s.bufs.Size(maxTransfer), ConnRequests: connInFlight,
	})
	s.loop.Serve = s.serve
	s.controllers = make(map[uint16]*controller)
}

// serve serves one connection.
func (s *Server) serve(ctx context.Context, nc *accept.Conn) {
	c := newConn(s, nc)
	defer c.leave()
	defer c.Survive("connection")
	c.end(c.run(ctx))
}
