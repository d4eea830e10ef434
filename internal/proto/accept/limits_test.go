package accept

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// from is a connection whose peer has an address.
type from struct {
	net.Conn
	addr string
}

func (f from) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(f.addr), Port: 1000} }

// dialFrom has the listener accept a connection from that address, and returns its other end.
func (q *queue) dialFrom(addr string) net.Conn {
	near, far := net.Pipe()
	q.next <- from{far, addr}
	return near
}

// TestPeerConnections: one address has a quarter of the connections, so that others are not kept
// out.
func TestPeerConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, log := newLoop(4 * (leastPeerConns + 1))
		q := newQueue()
		end := run(t, l, q)
		var greedy []net.Conn
		for range leastPeerConns + 1 {
			greedy = append(greedy, q.dialFrom("10.0.0.1"))
		}
		ended(t, q.dialFrom("10.0.0.1"))
		ended(t, q.dialFrom("::ffff:10.0.0.1"))
		if want := fmt.Sprintf(`peer=10.0.0.1:1000 why="more than %d connections from one address"`, leastPeerConns+1); strings.Count(log.String(), want) != 2 {
			t.Errorf("no two lines %s in\n%s", want, log)
		}
		other := q.dialFrom("10.0.0.2")
		heard(t, other)
		greedy[0].Close()
		synctest.Wait()
		again := q.dialFrom("10.0.0.1")
		heard(t, again)
		for _, nc := range append(greedy, other, again) {
			nc.Close()
		}
		synctest.Wait()
		if n := l.Counters(); n.Open != 0 || n.Accepted != leastPeerConns+5 || n.Refused != 2 || len(l.peers) != 0 {
			t.Errorf("%+v, %d peers", n, len(l.peers))
		}
		end()
	})
}

// TestLeastPeerConnections: a small limit on all connections does not make one on each peer.
func TestLeastPeerConnections(t *testing.T) {
	l, _ := newLoop(8)
	if n := Share(l.MaxConns); n != leastPeerConns {
		t.Errorf("%d connections", n)
	}
}

// TestPeerSurplus: those above the share of an address are told, as those above the limit of all
// are, and take the place of no other peer.
func TestPeerSurplus(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := newLoop(leastPeerConns + 1)
		l.TellSurplus = true
		l.Serve = func(ctx context.Context, c *Conn) {
			if c.Surplus != nil {
				io.WriteString(c, c.Surplus.Error())
				return
			}
			echo(ctx, c)
		}
		q := newQueue()
		end := run(t, l, q)
		var conns []net.Conn
		for range leastPeerConns {
			conns = append(conns, q.dialFrom("10.0.0.1"))
		}
		for range 3 {
			b, err := io.ReadAll(q.dialFrom("10.0.0.1"))
			if string(b) != "more than 16 connections from one address" || err != nil {
				t.Errorf("told %q, %v", b, err)
			}
		}
		conns = append(conns, q.dialFrom("10.0.0.2"))
		heard(t, conns[leastPeerConns])
		if b, _ := io.ReadAll(q.dialFrom("10.0.0.3")); string(b) != "more than 17 connections" {
			t.Errorf("told %q", b)
		}
		for _, nc := range conns {
			nc.Close()
		}
		end()
	})
}

// TestFirstRequest: a connection that sends nothing is closed, and one that has been heard stays.
func TestFirstRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := newLoop(2)
		l.Serve = func(ctx context.Context, c *Conn) {
			if _, err := c.Read(make([]byte, 1)); err == nil {
				echo(ctx, c)
			}
		}
		q := newQueue()
		end := run(t, l, q)
		begin := time.Now()
		quiet, heardOf := q.dial(), q.dial()
		heardOf.Write([]byte("!"))
		ended(t, quiet)
		if d := time.Since(begin); d != FirstRequest {
			t.Errorf("closed after %v", d)
		}
		time.Sleep(time.Hour)
		heard(t, heardOf)
		heardOf.Close()
		end()
	})
}

// TestDeadlineAfterTheEnd: a protocol that sets a deadline when the loop has ended does not make
// its reads wait again.
func TestDeadlineAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := newLoop(1)
		l.Serve = func(ctx context.Context, c *Conn) {
			<-ctx.Done()
			synctest.Wait()
			c.SetDeadline(time.Time{})
			if n, err := c.Read(make([]byte, 1)); err == nil {
				t.Errorf("read %d bytes", n)
			}
		}
		q := newQueue()
		end := run(t, l, q)
		defer q.dial().Close()
		begin := time.Now()
		if end(); time.Since(begin) != 0 {
			t.Errorf("ended after %v", time.Since(begin))
		}
	})
}

// limited returns connections of a loop whose memory is 4096 bytes, of which one connection can use
// 1024 in 4 requests.
func limited(t *testing.T, peers ...string) (l *Loop, conns []*Conn) {
	l = NewLoop("echo", Options{MaxBuffer: 4 << 20}, Limits{MaxConns: 100, ConnBuffer: 1 << 20, ConnRequests: 4})
	for _, p := range peers {
		near, far := net.Pipe()
		t.Cleanup(func() { near.Close(); far.Close() })
		c := l.admit(t.Context(), from{far, p})
		conns = append(conns, c)
		t.Cleanup(func() { c.cancel(); l.leave(c) })
	}
	return l, conns
}

const kib = 1 << 10

// admitted asks for n bytes and fails the test when they are not to be had at once.
func admitted(t *testing.T, c *Conn, n int64) Permit {
	t.Helper()
	var p Permit
	done := make(chan struct{})
	go func() {
		defer close(done)
		var full bool
		var err error
		if p, full, err = c.Admit(t.Context(), n, n); err != nil || !full {
			t.Errorf("%v, full %v", err, full)
		}
	}()
	synctest.Wait()
	select {
	case <-done:
	default:
		t.Fatalf("%d bytes are not admitted", n)
	}
	return p
}

// waits asks for n bytes, and fails the test when they are to be had before free was called.
func waits(t *testing.T, c *Conn, n int64, free func()) Permit {
	t.Helper()
	got := make(chan Permit, 1)
	go func() {
		p, _, err := c.Admit(t.Context(), n, n)
		if err != nil {
			t.Error(err)
		}
		got <- p
	}()
	synctest.Wait()
	if len(got) > 0 {
		t.Errorf("%d bytes are admitted", n)
	}
	free()
	return <-got
}

// TestConnectionMemory: a connection has so many requests under way, or so many bytes.
func TestConnectionMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, conns := limited(t, "10.0.0.1")
		c := conns[0]
		var small []Permit
		for range 4 {
			small = append(small, admitted(t, c, 1))
		}
		small[0] = waits(t, c, 1, func() { c.Leave(small[0]) })
		for _, p := range small {
			c.Leave(p)
		}
		whole := admitted(t, c, 1<<20)
		if n := l.Counters().Memory; n != 1<<20 {
			t.Errorf("%d bytes in use", n)
		}
		idle := make(chan struct{})
		go func() { c.Wait(); close(idle) }()
		synctest.Wait()
		select {
		case <-idle:
			t.Error("idle with a request under way")
		default:
		}
		c.Leave(whole)
		<-idle
		if n := l.Counters().Memory; n != 0 {
			t.Errorf("%d bytes in use", n)
		}
	})
}

// TestPeerMemory: a peer's connections hold a quarter of the memory together. Those of others have
// theirs, and its own go on with one small request at a time.
func TestPeerMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, conns := limited(t, "10.0.0.1", "10.0.0.1", "10.0.0.2")
		greedy := admitted(t, conns[0], 1<<20)
		admitted(t, conns[2], 512*kib) // another peer's
		full, lean := true, Permit{}
		lean, full, err := conns[1].Admit(t.Context(), 256*kib, 64*kib)
		if err != nil || full || lean.shared != 0 || lean.own != 1<<20 {
			t.Errorf("%+v, full %v, %v", lean, full, err)
		}
		waits(t, conns[1], 64*kib, func() { conns[1].Leave(lean) }) // the second of its small requests
		p := waits(t, conns[0], 512*kib, func() { conns[0].Leave(greedy) })
		if n := l.Counters().Memory; n != 1<<20 {
			t.Errorf("%d bytes in use", n)
		}
		conns[0].Leave(p)
	})
}

// TestAllMemory: when all of it is taken by several peers, another one has small requests served,
// and large ones wait.
func TestAllMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, conns := limited(t, "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5")
		var taken []Permit
		for _, c := range conns[:4] {
			taken = append(taken, admitted(t, c, 1<<20))
		}
		c := conns[4]
		c.Leave(admitted(t, c, unshared))
		p := waits(t, c, unshared+1, func() { conns[0].Leave(taken[0]) })
		if p.shared != unshared+1 || l.Counters().Memory != 3<<20+unshared+1 {
			t.Errorf("%+v, %+v", p, l.Counters())
		}
		c.Leave(p)
		// What waits in vain gives back what it has.
		taken[0] = admitted(t, conns[0], 1<<20)
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error)
		go func() {
			_, _, err := c.Admit(ctx, 1<<20, 1<<20)
			failed <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		for i, p := range taken {
			conns[i].Leave(p)
		}
		c.Leave(admitted(t, c, 1<<20))
		if n := l.Counters().Memory; n != 0 {
			t.Errorf("%d bytes in use", n)
		}
	})
}

// TestBudget: many that take, wait and give back never hold more than there is, and all come to an
// end.
func TestBudget(t *testing.T) {
	b := newBudget(100)
	var all sync.WaitGroup
	for i := range int64(8) {
		all.Go(func() {
			for j := range int64(2000) {
				n := 1 + (i*7+j)%100
				if (i+j)%2 == 0 && b.tryAcquire(n) || b.acquire(t.Context(), n) == nil {
					if held := b.held.Load(); held > 100 || held < n {
						t.Errorf("%d held", held)
					}
					b.release(n)
				}
			}
		})
	}
	all.Wait()
	if b.held.Load() != 0 || b.waiting.Load() != 0 {
		t.Errorf("%d held, %d waiting", b.held.Load(), b.waiting.Load())
	}
	b.waiting.Add(1)
	if b.tryAcquire(1) {
		t.Error("taken though another one waits")
	}
}

// TestFailedConnectionsWaitForNothing: a request that waits for memory ends when its
// connection fails.
func TestFailedConnectionsWaitForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, conns := limited(t, "10.0.0.1")
		c := conns[0]
		held := admitted(t, c, 1<<20)
		failed := make(chan error)
		go func() {
			_, _, err := c.Admit(c.ctx, 1, 1)
			failed <- err
		}()
		synctest.Wait()
		reset := errors.New("reset")
		if c.Failed() {
			t.Error("failed at first")
		}
		c.Fail(reset)
		c.Fail(errors.New("the second cause"))
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if !c.Failed() || c.Cause(io.EOF) != reset || c.Reason(io.EOF, "closed") != "reset" {
			t.Errorf("%v, %v", c.Failed(), c.Cause(io.EOF))
		}
		c.Leave(held)
	})
}

func TestReason(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l, _ := newLoop(1)
	near, far := net.Pipe()
	defer near.Close()
	c := l.newConn(ctx, far)
	for err, want := range map[error]string{
		nil: "closed", io.EOF: "closed", fmt.Errorf("read: %w", io.EOF): "closed",
		io.ErrUnexpectedEOF: "unexpected EOF",
	} {
		if got := c.Reason(err, "closed"); got != want {
			t.Errorf("%v: %q", err, got)
		}
	}
	cancel()
	for err, want := range map[error]string{
		nil: "the server stops", os.ErrDeadlineExceeded: "the server stops", context.Canceled: "the server stops",
		fmt.Errorf("reply: %w", net.ErrClosed): "the server stops", io.EOF: "closed", errors.New("wrong digest"): "wrong digest",
	} {
		if got := c.Reason(err, "closed"); !c.Stopping() || got != want {
			t.Errorf("%v, when the loop has ended: %q", err, got)
		}
	}
	if got := c.Reason(Announced("logged out"), "closed"); got != "logged out" {
		t.Errorf("of a peer that said so before: %q", got)
	}
}

// TestProbed: a peer that has sent something, or that kept silent, was not a probe.
func TestProbed(t *testing.T) {
	l, _ := newLoop(1)
	near, far := net.Pipe()
	defer near.Close()
	c := l.newConn(t.Context(), far)
	defer c.cancel()
	reset := fmt.Errorf("greeting: %w", &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)})
	for err, want := range map[error]bool{io.EOF: true, reset: true, os.ErrDeadlineExceeded: false, io.ErrUnexpectedEOF: false, errors.New("wrong"): false} {
		if c.Probed(err) != want {
			t.Errorf("%v: %v", err, !want)
		}
	}
	go near.Write([]byte{1})
	c.Read(make([]byte, 1))
	if c.Probed(io.EOF) || c.Probed(reset) {
		t.Error("it has sent a byte")
	}
}

// TestRefusalLines: after ten within a second the others are one line with their number, then it
// begins again.
func TestRefusalLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, log := newLoop(1)
		q := newQueue()
		end := run(t, l, q)
		refuse := func(n int) {
			for i := range n {
				l.Refused("peer", errors.New("nonsense"), "number", i)
			}
		}
		lines := func(text string) int { return strings.Count(log.String(), text) }
		check := func(single, summary int) {
			t.Helper()
			if n := lines(`msg="echo: refused" peer=peer number=`); n != single {
				t.Errorf("%d single lines, want %d", n, single)
			}
			if n := lines("more refusals within a second"); n != summary {
				t.Errorf("%d lines of a number, want %d", n, summary)
			}
		}
		refuse(refusalLines)
		time.Sleep(refusalPeriod)
		check(10, 0)
		refuse(refusalLines + 5)
		check(20, 0)
		time.Sleep(refusalPeriod / 2)
		refuse(7)
		check(20, 0)
		time.Sleep(refusalPeriod / 2)
		synctest.Wait()
		check(20, 1)
		if lines(`msg="echo: more refusals within a second, not logged one by one" number=12`) != 1 {
			t.Errorf("log:\n%s", log)
		}
		refuse(refusalLines + 1)
		check(30, 1)
		if end(); lines("one by one\" number=1\n") != 1 { // at the latest with the loop
			t.Errorf("log:\n%s", log)
		}
		if n := l.Counters().Refused; n != 10+15+7+11 {
			t.Errorf("%d refusals", n)
		}
	})
}

// TestMisusedOnce: what a connection does against the rules is one line.
func TestMisusedOnce(t *testing.T) {
	l, log := newLoop(1)
	near, far := net.Pipe()
	defer near.Close()
	c := l.newConn(t.Context(), far)
	defer c.cancel()
	for range 3 {
		c.Misused("command", "read-only", "opcode", 7)
	}
	const want = `msg="echo: command refused; further ones on this connection are not logged" peer=pipe opcode=7 why=read-only`
	if strings.Count(log.String(), want) != 1 || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("log:\n%s", log)
	}
}

// TestPanic: it ends its connection, and with it the session, but not the server.
func TestPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, log := newLoop(2)
		l.Serve = func(ctx context.Context, c *Conn) {
			defer c.Survive("connection")
			if b := make([]byte, 1); c.Surplus == nil {
				c.Read(b)
				if b[0] == '!' {
					panic("oops")
				}
			}
		}
		q := newQueue()
		end := run(t, l, q)
		other, nc := q.dial(), q.dial()
		nc.Write([]byte("!"))
		ended(t, nc)
		if out := log.String(); !strings.Contains(out, `level=ERROR msg="echo: panic, connection closed" in=connection peer=pipe panic=oops stack=`) {
			t.Errorf("log: %s", out)
		}
		if synctest.Wait(); l.Counters().Open != 1 {
			t.Errorf("%d open", l.Counters().Open)
		}
		other.Close()
		end()
	})
}

// TestObserver: it hears of each session's begin, first failure and end, with the counts of that
// moment.
func TestObserver(t *testing.T) {
	var events []Event
	l, log := newLoop(1)
	l.Observer = func(e Event) { events = append(events, e) }
	near, far := net.Pipe()
	defer near.Close()
	c := l.admit(t.Context(), from{far, "10.0.0.1"})
	defer c.cancel()
	go io.Copy(io.Discard, near)
	a := c.Attach(Session{Client: "host", Export: "root", Number: 7}, "queue", 3)
	a.Read(4096)
	a.Read(512)
	a.Wrote(100)
	a.Connections(2)
	c.Requested()
	io.WriteString(c, "data")
	for range 3 {
		a.Failed("read failed, told the host so", errors.New("bad sector"), "offset", 8)
	}
	if all := l.Active(); len(all) != 1 || all[0] != a.Session() || !all[0].Heard.IsZero() {
		t.Errorf("active: %+v", all)
	}
	if n := l.Counters(); n.Attached != 1 || n.Errors != 3 || n.Open != 1 || n.Out != 4 || n.Requests != 1 {
		t.Errorf("while attached: %+v", n)
	}
	a.Heard()
	a.Detach("gone")
	l.leave(c)
	if n := l.Counters(); n.Attached != 0 || n.Errors != 3 || n.Open != 0 || n.Out != 4 || n.Requests != 1 || len(l.Active()) != 0 {
		t.Errorf("afterwards: %+v", n)
	}
	begun := Session{Protocol: "echo", Peer: c.Peer, Client: "host", Export: "root", Number: 7, Connections: 1, Since: a.what.Since}
	failed := begun
	failed.Connections, failed.Reads, failed.ReadBytes, failed.Writes, failed.WrittenBytes, failed.Errors = 3, 2, 4608, 1, 100, 1
	done := failed
	done.Errors, done.Heard = 3, events[2].Session.Heard
	want := []Event{{Attached, begun, ""}, {Failed, failed, "bad sector"}, {Detached, done, "gone"}}
	if !slices.Equal(events, want) || done.Heard.IsZero() {
		t.Errorf("told %+v\nwant %+v", events, want)
	}
	const who = `peer=10.0.0.1:1000 client=host export=root queue=3`
	logged := regexp.MustCompile(`after=[0-9]+m?s `).ReplaceAllString(log.String(), "after=TIME ")
	for _, line := range []string{
		`level=INFO msg="echo: attached" ` + who + "\n",
		`level=ERROR msg="echo: read failed, told the host so; further failures of this client are not logged" ` + who + ` offset=8 why="bad sector"` + "\n",
		`level=INFO msg="echo: left" ` + who + ` reads=2 bytes=4608 writes=1 written=100 after=TIME why=gone` + "\n",
	} {
		if strings.Count(logged, line) != 1 {
			t.Errorf("not one line %s in\n%s", line, logged)
		}
	}
}

// TestNoObserver: nothing is made for one that is not there.
func TestNoObserver(t *testing.T) {
	l, _ := newLoop(1)
	a := &Attachment{loop: l}
	if n := testing.AllocsPerRun(100, func() { a.tell(Attached, ""); a.Read(1); a.Wrote(1); a.Heard() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestKinds(t *testing.T) {
	for kind, want := range map[Kind]string{Attached: "attached", Detached: "detached", Failed: "failed"} {
		if kind.String() != want {
			t.Errorf("%d is %s", kind, kind)
		}
	}
}

func TestBuffers(t *testing.T) {
	b := NewBuffers(1<<20, 100)
	for _, tt := range []struct {
		n    int
		size int64
	}{{-5, 4196}, {0, 4196}, {1, 4196}, {4096, 4196}, {4097, 8292}, {1 << 20, 1<<20 + 100}} {
		p := b.Get(tt.n)
		if b.Size(tt.n) != tt.size || int64(cap(*p)) != tt.size || len(*p) != 0 {
			t.Errorf("for %d: size %d, %d of %d", tt.n, b.Size(tt.n), len(*p), cap(*p))
		}
		*p = append(*p, 1, 2, 3)
		b.Put(p)
	}
	for _, n := range []int{0, 50, 100, 4197, 2 << 20} { // not of Get
		p := make([]byte, n)
		b.Put(&p)
	}
	for _, n := range []int{1, 4097, 1 << 20} {
		if p := b.Get(n); int64(cap(*p)) != b.Size(n) || len(*p) != 0 {
			t.Errorf("for %d: %d of %d", n, len(*p), cap(*p))
		}
	}
}

// TestOptions: what is zero is the protocol's, and a protocol's largest request always fits.
func TestOptions(t *testing.T) {
	limits := Limits{MaxConns: 7, MaxBuffer: 1000, LeastBuffer: 100, ConnBuffer: 300, ConnRequests: 1}
	for _, tt := range []struct {
		o           Options
		conns       int
		memory, one int64
	}{
		{Options{}, 7, 1000, 300},
		{Options{MaxConns: 3, MaxBuffer: 4000}, 3, 4000, 1000},
		{Options{MaxBuffer: 1}, 7, 100, 100},
	} {
		l := NewLoop("echo", tt.o, limits)
		if l.MaxConns != tt.conns || l.MaxBuffer != tt.memory || l.peerMemory() != tt.one || l.Log == nil {
			t.Errorf("%+v: %d connections, %d bytes, %d for a peer", tt.o, l.MaxConns, l.MaxBuffer, l.peerMemory())
		}
	}
}
