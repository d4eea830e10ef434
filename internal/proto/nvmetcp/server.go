package nvmetcp

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
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
	writeTimeout   = time.Minute      // for one PDU to be taken; a frozen machine must connect again
	keepAlivePause = 30 * time.Second // of silence before the kernel asks whether the peer is there
	closeGrace     = time.Second      // for replies under way when Serve ends, and for a host to read why it must go
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
	open        atomic.Int64        // connections
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
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var hosts sync.WaitGroup
	err := s.accept(ctx, l, &hosts)
	cancel()
	hosts.Wait()
	return err
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
	s.memory = semaphore.NewWeighted(s.MaxBuffer)
	s.controllers = make(map[uint16]*controller)
}

func (s *Server) accept(ctx context.Context, l net.Listener, hosts *sync.WaitGroup) error {
	for {
		nc, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				nc.Close()
			}
			return nil
		case transient(err):
			s.Log.Error("nvmetcp: cannot accept, trying again", "why", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		case err != nil:
			return fmt.Errorf("nvmetcp: accept on %s: %w", l.Addr(), err)
		case s.open.Add(1) > int64(s.MaxConns):
			s.open.Add(-1)
			s.refused(nc.RemoteAddr().String(), fmt.Errorf("more than %d connections", s.MaxConns))
			nc.Close()
		default:
			hosts.Go(func() {
				defer s.open.Add(-1)
				s.serve(ctx, nc)
			})
		}
	}
}

// transient errors of accept(2) pass: a host that left before it was accepted, or a full table.
func transient(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// serve is the life of one connection.
func (s *Server) serve(ctx context.Context, nc net.Conn) {
	tune(nc)
	c := newConn(s, nc)
	left := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		nc.SetReadDeadline(time.Now()) // no further commands
		select {
		case <-left:
		case <-time.After(closeGrace):
			nc.Close()
		}
	})
	defer stop()
	defer close(left)
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

// tune makes the kernel notice a peer that vanished: when idle by keepalive, with data under way by TCP_USER_TIMEOUT
// (tcp(7)), without which retransmission goes on for a quarter of an hour. Failures are of no consequence. Nagle's
// algorithm is off by Go's default.
func tune(nc net.Conn) {
	tc, ok := nc.(*net.TCPConn)
	if !ok {
		return
	}
	tc.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: keepAlivePause, Interval: 10 * time.Second, Count: 3})
	if raw, err := tc.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(writeTimeout.Milliseconds()))
		})
	}
}
