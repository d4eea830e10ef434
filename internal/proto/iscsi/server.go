package iscsi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
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
	writeTimeout   = time.Minute      // for one reply to be taken; a frozen machine must log in again
	keepAlivePause = 30 * time.Second // of silence before the kernel asks whether the peer is there
	closeGrace     = time.Second      // for replies under way when Serve ends
)

const spareConns = 64 // above MaxConns, which are told so

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
	open     atomic.Int64        // connections, logged in or not
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
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var clients sync.WaitGroup
	err := s.accept(ctx, l, &clients)
	cancel()
	clients.Wait()
	return err
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
	s.memory = semaphore.NewWeighted(s.MaxBuffer)
	s.sessions = make(map[uint16]*conn)
}

func (s *Server) accept(ctx context.Context, l net.Listener, clients *sync.WaitGroup) error {
	for {
		nc, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				nc.Close()
			}
			return nil
		case transient(err):
			s.Log.Error("iscsi: cannot accept, trying again", "why", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		case err != nil:
			return fmt.Errorf("iscsi: accept on %s: %w", l.Addr(), err)
		default:
			n := s.open.Add(1)
			if n > int64(s.MaxConns)+spareConns {
				s.open.Add(-1)
				s.refused(nc.RemoteAddr().String(), "", s.tooMany())
				nc.Close()
				continue
			}
			clients.Go(func() {
				defer s.open.Add(-1)
				s.serve(ctx, nc, n > int64(s.MaxConns))
			})
		}
	}
}

func (s *Server) tooMany() error { return fmt.Errorf("more than %d connections", s.MaxConns) }

// transient errors of accept(2) pass: a client that left before it was accepted, or a full table.
func transient(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// serve is the life of one connection. A surplus one is told that there are too many.
func (s *Server) serve(ctx context.Context, nc net.Conn, surplus bool) {
	tune(nc)
	c := newConn(s, nc)
	left := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		nc.SetReadDeadline(time.Now()) // no further requests
		select {
		case <-left:
		case <-time.After(closeGrace):
			nc.Close()
		}
	})
	defer stop()
	defer close(left)
	defer c.close()
	defer c.survive("connection")

	l := newLogin(c)
	if surplus {
		l.closed = refuse(StatusNoResources, "%w", s.tooMany())
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

// tune makes the kernel notice a peer that vanished: when idle by keepalive, with data under way by
// TCP_USER_TIMEOUT (tcp(7)), without which retransmission goes on for a quarter of an hour. Failures are
// of no consequence. Nagle's algorithm is off by Go's default.
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
