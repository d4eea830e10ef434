package accept

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sys/unix"
)

// Conn is one connection of a Loop.
type Conn struct {
	net.Conn
	// Peer is the address of the other end. It is the zero AddrPort when the connection is not over
	// TCP.
	Peer netip.AddrPort
	// Surplus is why the connection is above a limit, nil when it is not; see Loop.TellSurplus.
	Surplus error

	loop   *Loop
	peer   *peer
	own    *semaphore.Weighted // of Limits.ConnBuffer bytes
	stop   context.Context     // ends with the loop
	ctx    context.Context     // ends with the loop or the connection
	cancel context.CancelFunc

	in, out, requests atomic.Uint64
	cause             atomic.Pointer[error]
	misused           atomic.Bool

	reading sync.Mutex // guards stopped, and is held while the read deadline is set
	stopped bool
}

func (l *Loop) newConn(ctx context.Context, nc net.Conn) *Conn {
	c := &Conn{Conn: nc, loop: l, own: semaphore.NewWeighted(l.limits.ConnBuffer), stop: ctx}
	c.ctx, c.cancel = context.WithCancel(ctx)
	if t, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		p := t.AddrPort()
		c.Peer = netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return c
}

// PeerName is the peer's address for messages.
func (c *Conn) PeerName() string { return c.RemoteAddr().String() }

// Read counts what the peer sends.
func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.in.Add(uint64(n))
	return n, err
}

// Write counts what the peer is sent.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.out.Add(uint64(n))
	return n, err
}

// CloseWrite tells the peer that nothing more comes, when the connection can do that.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SetReadDeadline is net.Conn's. It does nothing once the loop has ended: reads have failed since
// then.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.reading.Lock()
	defer c.reading.Unlock()
	if c.stopped {
		return nil
	}
	return c.Conn.SetReadDeadline(t)
}

// SetDeadline is net.Conn's; see SetReadDeadline.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *Conn) stopReading() {
	c.reading.Lock()
	defer c.reading.Unlock()
	c.stopped = true
	c.Conn.SetReadDeadline(time.Now())
}

// Fail ends the connection, from any goroutine: its socket is closed and the context that Serve was
// given ends. The first error is kept for Cause.
func (c *Conn) Fail(err error) {
	c.cause.CompareAndSwap(nil, &err)
	c.cancel()
	c.Close()
}

// Stopping reports whether the loop has ended.
func (c *Conn) Stopping() bool { return c.stop.Err() != nil }

// Failed reports whether the connection has a cause to end. Requests that are under way need not be
// answered then.
func (c *Conn) Failed() bool { return c.cause.Load() != nil }

// Cause returns the first error that Fail was given, or err if there is none.
func (c *Conn) Cause(err error) error {
	if cause := c.cause.Load(); cause != nil {
		return *cause
	}
	return err
}

// Survive is deferred by each goroutine of a connection. It ends the connection when the goroutine
// panics, and keeps the server running. what is the goroutine's work.
func (c *Conn) Survive(what string) {
	if p := recover(); p != nil {
		c.loop.Log.Error(c.loop.Protocol+": panic, connection closed", "in", what, "peer", c.PeerName(),
			"panic", p, "stack", string(debug.Stack()))
		c.Fail(errors.New("panic"))
	}
}

// Requested counts a request.
func (c *Conn) Requested() { c.requests.Add(1) }

// Refused counts and logs a refusal: of the connection, or of something that its peer asks for.
// attrs follow the peer in the line.
func (c *Conn) Refused(why error, attrs ...any) { c.loop.Refused(c.PeerName(), why, attrs...) }

// Probed reports whether err is that of a peer that went away before it had sent anything: a port
// scan, or the check of a load balancer, many of which reset the connection. There is nothing to
// refuse.
func (c *Conn) Probed(err error) bool {
	if c.in.Load() > 0 {
		return false
	}
	for _, e := range []error{io.EOF, unix.ECONNRESET, unix.EPIPE} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// Misused logs the first request of a connection that is against the rules, such as a write to a
// read-only disk. what is the protocol's word for a request.
func (c *Conn) Misused(what, why string, attrs ...any) {
	if !c.misused.Swap(true) {
		attrs = append([]any{"peer", c.PeerName()}, attrs...)
		c.loop.log.Log(slog.LevelWarn, c.loop.Protocol+": "+what+" refused; further ones on this connection are not logged", append(attrs, "why", why)...)
	}
}

// ErrServerStops is why connections end with the loop.
var ErrServerStops = errors.New("the server stops")

// Announced ends the requests of a peer that said that it leaves, with the reason that is logged.
type Announced string

func (a Announced) Error() string { return string(a) }

// Reason says why a connection ended: err is what ended its requests, and unannounced is said of a
// peer that closed the connection.
func (c *Conn) Reason(err error, unannounced string) string {
	if a, ok := err.(Announced); ok {
		return string(a)
	}
	switch err = c.Cause(err); {
	case c.Stopping() && interrupted(err):
		return ErrServerStops.Error()
	case err == nil || errors.Is(err, io.EOF):
		return unannounced
	}
	return err.Error()
}

// interrupted reports whether err is what the end of the loop makes of reads, writes and waits.
func interrupted(err error) bool {
	for _, e := range []error{ErrServerStops, os.ErrDeadlineExceeded, net.ErrClosed, io.ErrClosedPipe, context.Canceled} {
		if errors.Is(err, e) {
			return true
		}
	}
	return err == nil
}
