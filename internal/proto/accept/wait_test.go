package accept

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"netroot/internal/prototest"
)

// connected returns a connection as a Loop makes it, and its peer.
func connected(t *testing.T) (*socket, *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	peer, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c := newSocket(nc.(*net.TCPConn))
	t.Cleanup(func() { c.Close() })
	return c, peer.(*net.TCPConn)
}

// allowBusy sets how many connections may be busy during a test.
func allowBusy(t *testing.T, n int64) {
	was := maxBusy
	maxBusy = n
	t.Cleanup(func() { maxBusy = was })
}

// exchange has the peer ask and the connection answer, n times.
func exchange(t *testing.T, c *socket, peer net.Conn, n int) {
	t.Helper()
	var b [4]byte
	for range n {
		if _, err := peer.Write([]byte("ask?")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, b[:]); err != nil || string(b[:]) != "ask?" {
			t.Fatalf("asked %q, %v", b, err)
		}
		if _, err := c.Write([]byte("yes.")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(peer, b[:]); err != nil || string(b[:]) != "yes." {
			t.Fatalf("answered %q, %v", b, err)
		}
	}
}

func (c *socket) isBusy() bool { return c.idle.Load() == nil }

// settle waits in a read until the connection is idle.
func settle(t *testing.T, c *socket, peer net.Conn) {
	t.Helper()
	read := make(chan error, 1)
	go func() {
		_, err := io.ReadFull(c, make([]byte, 4))
		read <- err
	}()
	prototest.Until(t, "the connection to be idle", func() bool { return !c.isBusy() })
	if _, err := peer.Write([]byte("well")); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err != nil {
		t.Fatal(err)
	}
}

// states are the ways in which a connection can wait, and how it comes to that.
var states = map[string]func(t *testing.T, c *socket, peer net.Conn){
	"new":  func(*testing.T, *socket, net.Conn) {},
	"busy": func(t *testing.T, c *socket, peer net.Conn) { exchange(t, c, peer, eager) },
	"idle again": func(t *testing.T, c *socket, peer net.Conn) {
		exchange(t, c, peer, eager)
		settle(t, c, peer)
	},
}

// inEachState runs a test for a connection in each state, and sees that nothing of it is left.
func inEachState(t *testing.T, test func(t *testing.T, c *socket, peer *net.TCPConn)) {
	allowBusy(t, 1)
	for name, enter := range states {
		t.Run(name, func(t *testing.T) {
			before := openFiles(t)
			c, peer := connected(t)
			enter(t, c, peer)
			if got, want := c.isBusy(), name == "busy"; got != want {
				t.Fatalf("busy: %v, want %v", got, want)
			}
			test(t, c, peer)
			c.Close()
			peer.Close()
			if n := busy.Load(); n != 0 {
				t.Errorf("%d connections are left busy", n)
			}
			if n := openFiles(t); n != before {
				t.Errorf("%d files are open, %d were", n, before)
			}
		})
	}
}

func openFiles(t *testing.T) int {
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestBusyAndIdle(t *testing.T) {
	allowBusy(t, 1)
	c, peer := connected(t)
	exchange(t, c, peer, eager-1)
	if c.isBusy() {
		t.Error("busy too early")
	}
	for range 3 {
		exchange(t, c, peer, eager+1)
		if !c.isBusy() {
			t.Fatal("not busy")
		}
		other, its := connected(t)
		exchange(t, other, its, 2*eager)
		if other.isBusy() {
			t.Error("more are busy than may be")
		}
		settle(t, c, peer)
		exchange(t, other, its, eager)
		if !other.isBusy() {
			t.Error("not busy in the other's place")
		}
		other.Close()
	}
	exchange(t, c, peer, eager)
	go io.CopyN(io.Discard, peer, bulk+1)
	if n, err := c.Write(make([]byte, bulk+1)); n != bulk+1 || err != nil || c.isBusy() {
		t.Errorf("wrote %d, %v; busy: %v", n, err, c.isBusy())
	}
}

func TestReadDeadline(t *testing.T) {
	inEachState(t, func(t *testing.T, c *socket, peer *net.TCPConn) {
		for _, when := range []time.Duration{-time.Second, 0, 3 * patience} {
			c.SetReadDeadline(time.Now().Add(when))
			timedOut(t, func() (int, error) { return c.Read(make([]byte, 1)) })
		}
		c.SetReadDeadline(time.Time{})
		exchange(t, c, peer, 1)
		time.AfterFunc(patience/2, func() { c.SetDeadline(time.Now()) }) // as a Loop does in its end
		timedOut(t, func() (int, error) { return c.Read(make([]byte, 1)) })
		peer.Write([]byte("too late"))
		timedOut(t, func() (int, error) { return c.Read(make([]byte, 1)) })
	})
}

func TestWriteDeadline(t *testing.T) {
	inEachState(t, func(t *testing.T, c *socket, peer *net.TCPConn) {
		// In pieces that do not make it idle, to a peer that takes nothing.
		c.SetWriteDeadline(time.Now().Add(5 * patience))
		timedOut(t, func() (_ int, err error) {
			for err == nil {
				_, err = c.Write(make([]byte, bulk))
			}
			return 0, err
		})
	})
}

func timedOut(t *testing.T, do func() (int, error)) {
	t.Helper()
	n, err := do()
	var ne net.Error
	if n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("%d, %v; want a time-out", n, err)
	}
}

func TestClose(t *testing.T) {
	for _, least := range []int64{0, 1} { // bytes that were written by then
		inEachState(t, func(t *testing.T, c *socket, peer *net.TCPConn) {
			outcome := make(chan error, 2)
			reads := make(chan struct{})
			go func() {
				close(reads)
				_, err := c.Read(make([]byte, 1))
				outcome <- err
			}()
			var written atomic.Int64
			go func() {
				for {
					n, err := c.Write(make([]byte, 1024)) // until the peer's buffer is full
					if err != nil {
						outcome <- err
						return
					}
					written.Add(int64(n))
				}
			}()
			<-reads
			prototest.Until(t, "data to be written", func() bool { return written.Load() >= least })
			if err := c.Close(); err != nil { // both may be waiting, or not: it must not matter
				t.Error(err)
			}
			for range 2 {
				if err := <-outcome; !errors.Is(err, net.ErrClosed) {
					t.Errorf("%v, want that it is closed", err)
				}
			}
			for name, err := range map[string]error{"close": c.Close(), "deadline": c.SetDeadline(time.Now())} {
				if !errors.Is(err, net.ErrClosed) {
					t.Errorf("%s: %v, want that it is closed", name, err)
				}
			}
		})
	}
}

func TestCloseWrite(t *testing.T) {
	inEachState(t, func(t *testing.T, c *socket, peer *net.TCPConn) {
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(peer); len(b) != 0 || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		peer.Write([]byte("bye"))
		if _, err := io.ReadFull(c, make([]byte, 3)); err != nil {
			t.Errorf("no more can be read: %v", err)
		}
		c.Close()
		if err := c.CloseWrite(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after it is closed: %v", err)
		}
	})
}

func TestPeerLeaves(t *testing.T) {
	inEachState(t, func(t *testing.T, c *socket, peer *net.TCPConn) {
		peer.Write([]byte("bye"))
		peer.CloseWrite()
		if b, err := io.ReadAll(c); string(b) != "bye" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		peer.SetLinger(0)
		peer.Close()
		for limit := time.Now().Add(10 * time.Second); ; {
			if _, err := c.Write([]byte("anybody?")); err != nil {
				var ne *net.OpError
				if !errors.As(err, &ne) || ne.Op != "write" {
					t.Errorf("%v", err)
				}
				return
			}
			if time.Now().After(limit) {
				t.Fatal("writes to nobody")
			}
		}
	})
}

// TestTraffic: what is sent both ways arrives, whatever the connections are meanwhile.
func TestTraffic(t *testing.T) {
	allowBusy(t, 2)
	before := openFiles(t)
	var all sync.WaitGroup
	for i := range uint64(4) {
		all.Go(func() {
			c, peer := connected(t)
			defer c.Close()
			defer peer.Close()
			var ends sync.WaitGroup
			for j, way := range []struct{ from, to net.Conn }{{c, peer}, {peer, c}} {
				seed := [32]byte{byte(i), byte(j)}
				const total = 4 << 20
				ends.Go(func() { chatter(t, way.from, c.rest, seed, total) })
				ends.Go(func() {
					want := make([]byte, total)
					rand.NewChaCha8(seed).Read(want)
					got := make([]byte, total)
					if _, err := io.ReadFull(way.to, got); err != nil || !bytes.Equal(got, want) {
						t.Errorf("got something else: %v", err)
					}
				})
			}
			ends.Wait()
		})
	}
	all.Wait()
	if n := busy.Load(); n != 0 {
		t.Errorf("%d connections are left busy", n)
	}
	if n := openFiles(t); n != before {
		t.Errorf("%d files are open, %d were", n, before)
	}
}

// chatter sends total bytes of noise in pieces of all sizes. Now and then it makes the connection
// idle, as a pause would.
func chatter(t *testing.T, to io.Writer, rest func(), seed [32]byte, total int) {
	noise := rand.NewChaCha8(seed)
	sizes := rand.New(rand.NewPCG(uint64(seed[0]), uint64(seed[1])))
	b := make([]byte, total)
	noise.Read(b)
	for len(b) > 0 {
		n := min(1+sizes.IntN(1<<(1+sizes.IntN(19))), len(b))
		if _, err := to.Write(b[:n]); err != nil {
			t.Error(err)
			return
		}
		b = b[n:]
		if sizes.IntN(1000) == 0 {
			rest()
		}
	}
}
