package accept

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// patience is how long a thread waits for a busy connection until that counts as idle. A client
	// that reads one block after another asks again within a fraction of it.
	patience = 10 * time.Millisecond
	// eager is how many reads in a row make a connection busy, with no write of more than bulk
	// bytes between them.
	eager = 16
	bulk  = 64 << 10
)

// Each busy connection keeps one of the runtime's processors to itself (a P of package runtime, of
// which there are GOMAXPROCS), for up to patience after the last request. Half of them are left to
// all other goroutines.
var (
	busy    atomic.Int64
	maxBusy = int64(runtime.GOMAXPROCS(0) / 2)
)

// socket is a TCP connection that waits in one of two ways. While it is idle its goroutine waits in
// the runtime's poller, like any of Go's, and takes no thread. While it is busy with small requests
// a thread waits in read(2) and write(2), so that a request and its reply cost little more than
// these two calls. With the poller they also cost the wake-up of a thread in epoll_wait(2), and of
// another one that looks for more to do: a fifth to a quarter of the processor time of a 4 KiB read
// by a single client, and a sixth of its latency where the network adds none. With many clients, or
// in bulk, the poller costs nothing more (test/bench/versions, docs/design.md).
//
// The poller does not know the socket of a busy connection, for epoll wakes its thread for each
// packet of a socket that it watches, even if another thread waits for it. So being busy means a
// duplicate of the file descriptor, with the one that is watched closed; and being idle again
// another duplicate that is watched.
type socket struct {
	local, remote net.Addr

	writing sync.Mutex              // one Write at a time
	use     sync.RWMutex            // shared while fd is used, exclusive to close it
	fd      int                     // -1 until the connection is busy for the first time
	idle    atomic.Pointer[watched] // nil while the connection is busy
	streak  atomic.Int32            // reads towards being eager
	closed  atomic.Bool
	readBy  atomic.Int64 // deadlines by the clock, 0 for none
	writeBy atomic.Int64

	change sync.Mutex // held to change fd, idle, closed and the deadlines
}

// watched is a socket that the poller watches.
type watched struct{ pollable }

// pollable is what *net.TCPConn and an *os.File of a socket have in common.
type pollable interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
	SyscallConn() (syscall.RawConn, error)
}

// newSocket takes over tc.
func newSocket(tc *net.TCPConn) *socket {
	c := &socket{local: tc.LocalAddr(), remote: tc.RemoteAddr(), fd: -1}
	c.idle.Store(&watched{tc})
	return c
}

func (c *socket) LocalAddr() net.Addr  { return c.local }
func (c *socket) RemoteAddr() net.Addr { return c.remote }

func (c *socket) Read(p []byte) (n int, err error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if w := c.idle.Load(); w == nil {
			if n, err = c.call(unix.Read, p, &c.readBy); n == 0 && err == nil {
				err = io.EOF
			}
		} else if n, err = w.Read(p); err == nil && c.streak.Add(1) >= eager {
			c.work()
		}
		if !c.again(err) {
			return n, c.failed("read", err)
		}
	}
}

// Write writes all of p.
func (c *socket) Write(p []byte) (sent int, err error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	if len(p) > bulk {
		c.streak.Store(0)
		c.rest()
	}
	for sent < len(p) {
		var n int
		if w := c.idle.Load(); w == nil {
			n, err = c.call(unix.Write, p[sent:], &c.writeBy)
		} else {
			n, err = w.Write(p[sent:])
		}
		sent += n
		if err != nil && !c.again(err) {
			break
		}
	}
	return sent, c.failed("write", err)
}

// call makes one system call of a busy connection.
func (c *socket) call(do func(fd int, p []byte) (int, error), p []byte, by *atomic.Int64) (int, error) {
	c.use.RLock()
	defer c.use.RUnlock()
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	if t := by.Load(); t != 0 && t <= clock(time.Now()) {
		return 0, os.ErrDeadlineExceeded
	}
	n, err := do(c.fd, p)
	return max(n, 0), err
}

// again says whether what failed so should be done again: interrupted, or the connection has become
// busy or idle.
func (c *socket) again(err error) bool {
	switch {
	case err == unix.EINTR:
		return true
	case err == unix.EAGAIN: // waited in vain
		c.rest()
		return true
	case errors.Is(err, os.ErrClosed) || errors.Is(err, net.ErrClosed):
		return !c.closed.Load()
	}
	return false
}

// failed makes an error what net's own connections return.
func (c *socket) failed(what string, err error) error {
	var file *os.PathError
	var op *net.OpError
	switch errno, isErrno := err.(syscall.Errno); {
	case err == nil:
		return nil
	case c.closed.Load(): // which may have shown as the end, or as a broken pipe
		err = net.ErrClosed
	case err == io.EOF:
		return err
	case isErrno:
		err = os.NewSyscallError(what, errno)
	case errors.As(err, &file):
		err = file.Err
	case errors.As(err, &op):
		err = op.Err
	}
	return &net.OpError{Op: what, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// work makes an idle connection busy, if not too many are.
func (c *socket) work() {
	if busy.Add(1) > maxBusy {
		busy.Add(-1)
		return
	}
	c.change.Lock()
	defer c.change.Unlock()
	w := c.idle.Load()
	if w == nil || c.closed.Load() || c.fd < 0 && !c.take(w) {
		busy.Add(-1)
		return
	}
	c.idle.Store(nil)
	w.Close() // with its users gone, of whom none may meet a socket that blocks
	unix.SetNonblock(c.fd, false)
}

// take gives the connection a file descriptor of its own.
func (c *socket) take(w *watched) bool {
	raw, err := w.SyscallConn()
	if err != nil {
		return false
	}
	fd := -1
	raw.Control(func(of uintptr) { fd, err = duplicate(of) })
	if fd < 0 || err != nil {
		return false
	}
	limit := unix.NsecToTimeval(patience.Nanoseconds())
	if unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit) != nil ||
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit) != nil {
		unix.Close(fd)
		return false
	}
	c.fd = fd
	return true
}

func duplicate(fd uintptr) (int, error) { return unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }

// rest makes a busy connection idle. Without a file descriptor to be had it stays busy.
func (c *socket) rest() {
	if c.idle.Load() != nil {
		return
	}
	c.change.Lock()
	defer c.change.Unlock()
	if c.closed.Load() || c.idle.Load() != nil {
		return
	}
	fd, err := duplicate(uintptr(c.fd))
	if err != nil {
		return
	}
	unix.SetNonblock(fd, true) // both of them; the poller takes no others
	f := os.NewFile(uintptr(fd), "connection")
	if errors.Join(f.SetReadDeadline(instant(c.readBy.Load())), f.SetWriteDeadline(instant(c.writeBy.Load()))) != nil {
		f.Close() // the poller did not take it
		unix.SetNonblock(c.fd, false)
		return
	}
	c.streak.Store(0)
	c.idle.Store(&watched{f})
	busy.Add(-1)
}

// Close ends what waits in Read and Write.
func (c *socket) Close() error {
	c.change.Lock()
	was := c.closed.Swap(true)
	w := c.idle.Load()
	if !was && c.fd >= 0 {
		unix.Shutdown(c.fd, unix.SHUT_RDWR)
	}
	c.change.Unlock()
	switch {
	case was:
		return c.failed("close", net.ErrClosed)
	case w != nil:
		w.Close()
	default:
		busy.Add(-1)
	}
	c.use.Lock()
	defer c.use.Unlock()
	if c.fd >= 0 {
		unix.Close(c.fd)
	}
	return nil
}

// CloseWrite tells the peer that nothing more comes.
func (c *socket) CloseWrite() error {
	c.change.Lock()
	defer c.change.Unlock()
	switch {
	case c.closed.Load():
		return c.failed("close", net.ErrClosed)
	case c.fd >= 0:
		return c.failed("close", unix.Shutdown(c.fd, unix.SHUT_WR))
	}
	return c.idle.Load().pollable.(*net.TCPConn).CloseWrite() // as newSocket was given it
}

// SetDeadline is net.Conn's, but a busy connection that waits already may not see it until patience
// has passed.
func (c *socket) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline is described at SetDeadline.
func (c *socket) SetReadDeadline(t time.Time) error {
	return c.setDeadline(t, &c.readBy, pollable.SetReadDeadline)
}

// SetWriteDeadline is described at SetDeadline.
func (c *socket) SetWriteDeadline(t time.Time) error {
	return c.setDeadline(t, &c.writeBy, pollable.SetWriteDeadline)
}

func (c *socket) setDeadline(t time.Time, by *atomic.Int64, set func(pollable, time.Time) error) error {
	c.change.Lock()
	defer c.change.Unlock()
	if c.closed.Load() {
		return c.failed("set", net.ErrClosed)
	}
	by.Store(clock(t))
	if w := c.idle.Load(); w != nil {
		return set(w.pollable, t)
	}
	return nil
}

// start is where the clock of deadlines begins, which is monotonic and counts nanoseconds.
var start = time.Now()

func clock(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(int64(t.Sub(start)), 1)
}

func instant(clock int64) time.Time {
	if clock == 0 {
		return time.Time{}
	}
	return start.Add(time.Duration(clock))
}
