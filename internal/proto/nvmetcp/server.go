package nvmetcp

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"netroot/internal/proto/accept"
)

// Limits of Server when its fields are zero.
const (
	DefaultMaxConns  = 16384
	DefaultMaxQueues = 8
	DefaultMaxBuffer = 256 << 20 // bytes
)

// Times that bound a peer's slowness.
const (
	connectTimeout = 10 * time.Second // until a connection is a queue
)

// Server serves subsystems. Its fields are set before Serve and left alone after; a Server may serve several listeners
// at once, and then an admin connection may come to one and its I/O connections to another.
type Server struct {
	// Lookup opens the subsystem of that name. It is called for each controller, from many goroutines.
	Lookup func(ctx context.Context, nqn string) (*Subsystem, error)
	// List names what the discovery subsystem lists; only NQN is used. Nil lists nothing.
	List func(ctx context.Context) ([]Subsystem, error)
	// Log gets one line for each host that attaches, leaves or is refused. Nil discards.
	Log *slog.Logger
	// Advertise is the address that discovery tells. The zero value is the one to which the asking host connected,
	// which is right unless something between translates addresses.
	Advertise netip.AddrPort
	// MaxConns bounds the connections; MaxQueues the I/O connections of one controller, of which Linux makes one
	// for each processor it has; MaxBuffer the bytes of data held in memory for all of them together, beside
	// 64 KiB for each connection that has a request. 0 means the defaults above.
	MaxConns  int
	MaxQueues int
	MaxBuffer int64
	// Observe, when set, is told when a host attaches a subsystem and when it leaves.
	Observe func(Stat)

	once        sync.Once
	conns       accept.Loop         // connections
	memory      *semaphore.Weighted // of MaxBuffer bytes
	bufs        buffers
	mu          sync.Mutex
	controllers map[uint16]*controller
	newID       func() uint16 // a number to try
}

// Stat is what one controller, which is one host's use of one subsystem, has read.
type Stat struct {
	Peer       string // address and port of its admin connection
	Host       string // NQN
	NQN        string // of the subsystem
	Controller uint16
	Queues     int // I/O connections
	Since      time.Time
	Reads      uint64 // commands that were answered with data
	Bytes      uint64 // of that data
	Done       bool   // the host has left
}

// Active returns the controllers of subsystems that there are now, in no order. Discovery has none.
func (s *Server) Active() []Stat {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Stat, 0, len(s.controllers))
	for _, k := range s.controllers {
		if !k.discovery() {
			all = append(all, k.stat())
		}
	}
	return all
}

// Serve accepts hosts until ctx ends, then closes l and every connection, waits for them, and returns nil. Replies
// under way get a second to leave. It returns an error when the Server lacks something or the listener fails.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	if s.Lookup == nil {
		return errors.New("nvmetcp: no Lookup function is set")
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
	if s.MaxQueues <= 0 {
		s.MaxQueues = DefaultMaxQueues
	}
	if s.MaxBuffer <= 0 {
		s.MaxBuffer = DefaultMaxBuffer
	}
	if s.newID == nil {
		s.newID = randomID
	}
	s.conns = accept.Loop{Protocol: "nvmetcp", Log: s.Log, Max: s.MaxConns, Serve: s.serve}
	s.memory = semaphore.NewWeighted(s.MaxBuffer)
	s.controllers = make(map[uint16]*controller)
}

// serve is the life of one connection.
func (s *Server) serve(ctx context.Context, nc net.Conn) {
	c := newConn(s, nc)
	defer c.leave(ctx)
	defer c.survive("connection")
	c.end(c.run(ctx))
}

func (s *Server) observe(st Stat) {
	if s.Observe != nil {
		s.Observe(st)
	}
}

func (s *Server) refused(peer string, why error) {
	s.Log.Warn("nvmetcp: refused", "peer", peer, "why", why)
}
