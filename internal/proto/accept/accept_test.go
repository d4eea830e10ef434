package accept

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"netroot/internal/testlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// queue is a listener that accepts what it is given, an error or a pipe's end, in turn.
type queue struct {
	next   chan any
	closed chan struct{}
	once   sync.Once
}

func newQueue() *queue { return &queue{next: make(chan any), closed: make(chan struct{})} }

func (q *queue) Accept() (net.Conn, error) {
	select {
	case v := <-q.next:
		if nc, ok := v.(net.Conn); ok {
			return nc, nil
		}
		return nil, v.(error)
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error   { q.once.Do(func() { close(q.closed) }); return nil }
func (q *queue) Addr() net.Addr { return &net.TCPAddr{IP: net.IP{127, 0, 0, 1}, Port: 7} }

// dial has the listener accept a connection, and returns its other end.
func (q *queue) dial() net.Conn {
	near, far := net.Pipe()
	q.next <- far
	return near
}

func newLoop(most int) (*Loop, *testlog.Buffer) {
	log := &testlog.Buffer{}
	l := NewLoop("echo", Options{Log: slog.New(slog.NewTextHandler(log, nil)), MaxConns: most}, Limits{})
	l.Serve = echo
	return l, log
}

// run runs the loop in the bubble of a synctest; what it returns ends it and returns its error.
func run(t *testing.T, l *Loop, q *queue) (end func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx, q) }()
	return func() error {
		cancel()
		return <-done
	}
}

// echo says what it hears until it hears no more.
func echo(_ context.Context, c *Conn) {
	c.SetReadDeadline(time.Time{})
	io.Copy(c, c)
}

func ended(t *testing.T, nc net.Conn) {
	t.Helper()
	if b, err := io.ReadAll(nc); len(b) != 0 || err != nil {
		t.Errorf("not closed, but %q, %v", b, err)
	}
}

func heard(t *testing.T, nc net.Conn) {
	t.Helper()
	var b [2]byte
	go nc.Write([]byte("ho"))
	if _, err := io.ReadFull(nc, b[:]); err != nil || string(b[:]) != "ho" {
		t.Errorf("heard %q, %v", b, err)
	}
}

// TestLimit: one connection too many is closed with a line, and one that left makes room.
func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, log := newLoop(2)
		q := newQueue()
		end := run(t, l, q)
		first, second := q.dial(), q.dial()
		ended(t, q.dial())
		if want := `level=WARN msg="echo: refused" peer=pipe why="more than 2 connections"`; !strings.Contains(log.String(), want) {
			t.Errorf("no %s in\n%s", want, log)
		}
		heard(t, first)
		first.Close()
		if synctest.Wait(); l.Counters().Open != 1 {
			t.Errorf("%d open", l.Counters().Open)
		}
		third := q.dial()
		heard(t, third)
		second.Close()
		third.Close()
		if err := end(); err != nil || l.Counters().Open != 0 {
			t.Errorf("%v, %d open", err, l.Counters().Open)
		}
	})
}

// TestSurplus: those above the limit are told, until even they are too many.
func TestSurplus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, log := newLoop(1)
		l.TellSurplus = true
		l.Serve = func(ctx context.Context, c *Conn) {
			if c.Surplus == nil {
				echo(ctx, c)
				return
			}
			c.SetReadDeadline(time.Time{})
			io.WriteString(c, c.Surplus.Error())
			io.Copy(io.Discard, c)
		}
		q := newQueue()
		end := run(t, l, q)
		conns := []net.Conn{q.dial()}
		const told = "more than 1 connections"
		for range Spare {
			nc := q.dial()
			b := make([]byte, len(told))
			if _, err := io.ReadFull(nc, b); err != nil || string(b) != told {
				t.Fatalf("told %q, %v", b, err)
			}
			conns = append(conns, nc)
		}
		if log.String() != "" {
			t.Errorf("logged for the protocol: %s", log)
		}
		ended(t, q.dial())
		if strings.Count(log.String(), told) != 1 {
			t.Errorf("log:\n%s", log)
		}
		heard(t, conns[0])
		if l.Counters().Open != 1+Spare {
			t.Errorf("%d open", l.Counters().Open)
		}
		end()
		for _, nc := range conns {
			nc.Close()
		}
	})
}

// TestErrorsThatPass: after each the loop waits a second and goes on.
func TestErrorsThatPass(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, log := newLoop(1)
		q := newQueue()
		end := run(t, l, q)
		begin := time.Now()
		passing := []syscall.Errno{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED}
		for _, e := range passing {
			q.next <- &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", e)}
		}
		nc := q.dial()
		heard(t, nc)
		if d := time.Since(begin); d != time.Duration(len(passing))*retryPause {
			t.Errorf("took %v", d)
		}
		if n := strings.Count(log.String(), `msg="echo: cannot accept, trying again" why="accept: accept4: `); n != len(passing) {
			t.Errorf("%d lines:\n%s", n, log)
		}
		q.next <- unix.EMFILE // the end does not wait for the second
		begin = time.Now()
		nc.Close()
		if err := end(); err != nil || time.Since(begin) != 0 {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
}

// TestListenerFails: its error comes back once every connection has ended.
func TestListenerFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := newLoop(1)
		q := newQueue()
		done := make(chan error, 1)
		go func() { done <- l.Run(t.Context(), q) }()
		nc := q.dial()
		heard(t, nc)
		q.next <- errors.New("no more")
		if err := <-done; err == nil || err.Error() != "echo: accept on 127.0.0.1:7: no more" || l.Counters().Open != 0 {
			t.Errorf("%v, %d open", err, l.Counters().Open)
		}
		ended(t, nc)
	})
}

// TestEnd: an idle connection ends at once, one with work under way may finish it, one that does
// not come to an end is ended.
func TestEnd(t *testing.T) {
	for name, tt := range map[string]struct {
		serve func(ctx context.Context, nc *Conn)
		hears string
		after time.Duration
	}{
		"idle": {echo, "", 0},
		"finishes": {func(ctx context.Context, nc *Conn) {
			<-ctx.Done()
			time.Sleep(Grace / 2)
			io.WriteString(nc, "done")
		}, "done", Grace / 2},
		"hangs": {func(ctx context.Context, nc *Conn) {
			if _, err := nc.Write([]byte("word")); err == nil {
				t.Error("the word was taken")
			}
		}, "", Grace},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, _ := newLoop(1)
				l.Serve = tt.serve
				q := newQueue()
				end := run(t, l, q)
				nc := q.dial()
				defer nc.Close()
				synctest.Wait()
				hears := make(chan string, 1)
				if name != "hangs" {
					go func() {
						b, _ := io.ReadAll(nc)
						hears <- string(b)
					}()
				} else {
					hears <- ""
				}
				begin := time.Now()
				if err := end(); err != nil {
					t.Error(err)
				}
				if d := time.Since(begin); d != tt.after {
					t.Errorf("took %v, want %v", d, tt.after)
				}
				if got := <-hears; got != tt.hears {
					t.Errorf("heard %q", got)
				}
			})
		})
	}
}

// TestVanishedPeersAreNoticed: what the kernel was asked to do about them, on real sockets of two
// listeners.
func TestVanishedPeersAreNoticed(t *testing.T) {
	l, _ := newLoop(2)
	options := make(chan [5]int, 2)
	l.Serve = func(ctx context.Context, nc *Conn) {
		raw, err := nc.Conn.(*socket).idle.Load().SyscallConn()
		if err != nil {
			t.Error(err)
		}
		var got [5]int
		raw.Control(func(fd uintptr) {
			for i, o := range [][2]int{{unix.SOL_SOCKET, unix.SO_KEEPALIVE}, {unix.IPPROTO_TCP, unix.TCP_KEEPIDLE},
				{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT}, {unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT}} {
				if got[i], err = unix.GetsockoptInt(int(fd), o[0], o[1]); err != nil {
					t.Error(err)
				}
			}
		})
		options <- got
		echo(ctx, nc)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var loops sync.WaitGroup
	for range 2 {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		loops.Go(func() {
			if err := l.Run(ctx, ln); err != nil {
				t.Error(err)
			}
		})
		nc, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if got, want := <-options, [5]int{1, 30, 10, 3, 60000}; got != want {
			t.Errorf("keepalive, idle, interval, count, user time-out: %v, want %v", got, want)
		}
		defer ended(t, nc) // with the loops
	}
	if l.Counters().Open != 2 {
		t.Errorf("%d open", l.Counters().Open)
	}
	cancel()
	loops.Wait()
}
