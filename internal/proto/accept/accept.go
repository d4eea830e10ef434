// Package accept is what the servers of all protocols have in common: a Loop takes a server's
// connections, bounds them and the memory that they use, in all and for each peer address, counts
// what they do, tells an Observer of it, and brings them to an orderly end. Replies writes the
// replies on one connection, and Buffers keeps the buffers that hold them.
//
// It knows no protocol and is not a server: each protocol reads and answers its own requests.
package accept

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// Stall is how long data may wait for its peer to take it: in the kernel (Tune), and in the
	// servers as the deadline of each write. A machine that was frozen for longer must connect
	// again.
	Stall = time.Minute
	// Grace is how long replies under way have to leave when the loop ends.
	Grace = time.Second
	// FirstRequest is how long a new connection may send nothing. Run sets it as the read deadline;
	// a protocol replaces it when it has received something.
	FirstRequest = 10 * time.Second
	// Spare is how many connections above the limits are told that they are too many, where a
	// protocol can say it.
	Spare = 64

	// One peer address has at most this part of the memory of a server; see Share for connections.
	peerShare = 4
	// A peer address may always have this many connections: an NVMe host makes one for each of its
	// processors.
	leastPeerConns = 16

	keepaliveIdle     = 30 * time.Second // until the kernel asks whether the peer is there
	keepaliveInterval = 10 * time.Second // until it asks again
	keepaliveCount    = 3                // unanswered questions after which the peer is gone
	retryPause        = time.Second      // after an error that passes
)

// Options are what the owner of a server sets, whatever its protocol.
type Options struct {
	// Log gets one line for each client that attaches, leaves or is refused. Nil discards them.
	Log *slog.Logger
	// MaxConns bounds the connections, of which one peer address has at most a quarter (but 16). 0
	// means the protocol's default.
	MaxConns int
	// MaxBuffer bounds the bytes of requests and replies that are held in memory for all
	// connections together. One peer address holds at most a quarter of them, or as much as one
	// connection can use. A connection can always have one small request served beside that. 0
	// means the protocol's default.
	MaxBuffer int64
	// Observer, when set, is told when a client attaches an export, when it leaves, and when an
	// export fails.
	Observer Observer
}

// Limits are a protocol's: defaults for Options, and bounds of one connection.
type Limits struct {
	MaxConns  int
	MaxBuffer int64
	// LeastBuffer raises a MaxBuffer that is too small for the protocol's largest request.
	LeastBuffer int64
	// ConnBuffer and ConnRequests bound the requests of one connection that are under way, by bytes
	// and number.
	ConnBuffer   int64
	ConnRequests int
}

// Loop accepts connections for one server. Its exported fields are set before Run and not changed
// after it.
type Loop struct {
	Options
	// Protocol is the prefix of errors and log lines.
	Protocol string
	// Serve serves one connection, in a goroutine of its own; the connection is closed when it
	// returns. ctx ends with the connection (Conn.Fail), and when the loop ends: then the
	// connection's reads fail, and Serve has Grace to send what is under way.
	Serve func(ctx context.Context, c *Conn)
	// TellSurplus has Serve called for a connection above the limits too, of which there are at
	// most Spare, with the reason in Conn.Surplus: the protocol tells its peer and logs it.
	// Otherwise they are logged and closed.
	TellSurplus bool

	limits Limits
	memory *budget // of MaxBuffer bytes
	log    *Refusals

	mu      sync.Mutex
	surplus int
	conns   map[*Conn]struct{}
	peers   map[string]*peer // by address
	active  map[*Attachment]struct{}
	names   names
	past    Counters // of connections that have ended
}

// NewLoop returns a Loop. Serve is for the caller to set.
func NewLoop(protocol string, o Options, limits Limits) *Loop {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxConns <= 0 {
		o.MaxConns = limits.MaxConns
	}
	if o.MaxBuffer <= 0 {
		o.MaxBuffer = limits.MaxBuffer
	}
	o.MaxBuffer = max(o.MaxBuffer, limits.LeastBuffer)
	return &Loop{
		Options: o, Protocol: protocol, limits: limits,
		memory: newBudget(o.MaxBuffer), log: NewRefusals(o.Log, protocol),
		conns: make(map[*Conn]struct{}), peers: make(map[string]*peer), active: make(map[*Attachment]struct{}), names: names{},
	}
}

// Run accepts connections until ctx ends, then closes ln, waits for the end of every connection,
// and returns nil. When ln fails it does the same and returns the error. It may run for several
// listeners at once.
func (l *Loop) Run(ctx context.Context, ln net.Listener) error {
	defer ln.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	var lives sync.WaitGroup
	err := l.accept(ctx, ln, &lives)
	cancel()
	lives.Wait()
	l.log.Flush()
	return err
}

func (l *Loop) accept(ctx context.Context, ln net.Listener, lives *sync.WaitGroup) error {
	for {
		nc, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				nc.Close()
			}
			return nil
		case transient(err):
			l.Log.Error(l.Protocol+": cannot accept, trying again", "why", err)
			select {
			case <-ctx.Done():
			case <-time.After(retryPause):
			}
		case err != nil:
			return fmt.Errorf("%s: accept on %s: %w", l.Protocol, ln.Addr(), err)
		default:
			if c := l.admit(ctx, nc); c != nil {
				lives.Go(func() { l.live(ctx, c) })
			}
		}
	}
}

// transient reports whether an error of accept(2) passes: a client that left before it was
// accepted, or a full table.
func transient(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// admit makes a connection one of the loop's. It returns nil when the connection was refused.
func (l *Loop) admit(ctx context.Context, nc net.Conn) *Conn {
	c := l.newConn(ctx, nc)
	l.mu.Lock()
	l.past.Accepted++
	c.Surplus = l.tooMany(c)
	refused := c.Surplus != nil && !(l.TellSurplus && l.surplus < Spare)
	if !refused {
		l.enter(c)
	}
	l.mu.Unlock()
	if refused {
		c.Refused(c.Surplus)
		c.cancel()
		nc.Close()
		return nil
	}
	return c
}

// ServeConn serves a connection that the caller has accepted, until it ends or Grace after the end
// of ctx.
func (l *Loop) ServeConn(ctx context.Context, nc net.Conn) {
	if c := l.admit(ctx, nc); c != nil {
		l.live(ctx, c)
	}
}

// live is ServeConn for a connection that was admitted.
func (l *Loop) live(ctx context.Context, c *Conn) {
	defer l.leave(c)
	defer c.cancel()
	Tune(c.Conn)
	if tc, ok := c.Conn.(*net.TCPConn); ok && waitInKernel {
		c.Conn = newSocket(tc)
	}
	c.SetReadDeadline(time.Now().Add(FirstRequest))
	left := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.stopReading()
		select {
		case <-left:
		case <-time.After(Grace):
			c.Close()
		}
	})
	defer stop()
	defer close(left)
	defer c.Close()
	l.Serve(c.ctx, c)
}

// Tune makes the kernel notice a peer that vanished: on an idle connection by keepalive, and with
// data under way by TCP_USER_TIMEOUT (tcp(7)), without which retransmission goes on for a quarter
// of an hour. Errors are ignored. Nagle's algorithm is off by Go's default.
func Tune(nc net.Conn) {
	tc, ok := nc.(*net.TCPConn)
	if !ok {
		return
	}
	tc.SetKeepAliveConfig(net.KeepAliveConfig{
		Enable: true, Idle: keepaliveIdle, Interval: keepaliveInterval, Count: keepaliveCount,
	})
	if raw, err := tc.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(Stall.Milliseconds()))
		})
	}
}
