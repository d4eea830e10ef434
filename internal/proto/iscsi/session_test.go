package iscsi

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"netroot/internal/proto/accept"
	"netroot/internal/prototest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestSessionIsTakenOver: a login with the same names and ISID ends the session before it,
// another's does not.
func TestSessionIsTakenOver(t *testing.T) {
	s := &Server{}
	addr, log, _ := start(t, s)
	cfg := config("root")
	old := loginAs(t, addr, cfg)
	others := []LoginConfig{cfg, cfg, cfg}
	others[0].ISID[5]++
	others[1].Initiator += "2"
	others[2].Target = prefix + "big"
	for _, o := range others {
		defer loginAs(t, addr, o).mustRead(t, 1)
	}
	old.mustRead(t, 1)
	loginAs(t, addr, cfg).mustRead(t, 1)
	if _, _, err := old.next(); err == nil {
		t.Error("the old session lives")
	}
	prototest.Until(t, "the old session to leave", func() bool {
		return strings.Contains(log.String(), `why="the initiator logged in again"`) && len(s.Active()) == 4
	})
	if !strings.Contains(log.String(), `msg="iscsi: session taken over" peer=127.0.0.1 from=127.0.0.1 client=`+cfg.Initiator) {
		t.Error(log)
	}
}

// TestSharedName: the log says when another machine takes over a session, or has one beside it.
func TestSharedName(t *testing.T) {
	s := &Server{}
	addr, log, _ := start(t, s)
	cfg := config("root")
	attachAs := func(from string, cfg LoginConfig) {
		if _, err := Login(t.Context(), prototest.DialFrom(t, from, addr), cfg); err != nil {
			t.Fatal(err)
		}
	}
	attachAs("127.0.0.1", cfg)
	attachAs("127.0.0.1", cfg)
	prototest.Until(t, "two logins", log.Has("session taken over"))
	if strings.Contains(log.String(), "two addresses") {
		t.Errorf("of one machine:\n%s", log)
	}
	attachAs("127.0.0.2", cfg)
	want := `level=WARN msg="iscsi: one name is used from two addresses" client=` + cfg.Initiator
	prototest.Until(t, "the other's session", log.Has(want+" peer=127.0.0.2 other=127.0.0.1"))
	cfg.Target = prefix + "big"
	attachAs("127.0.0.3", cfg)
	prototest.Until(t, "a session beside it", log.Has(want+" peer=127.0.0.3 other=127.0.0.2"))
}

// TestRejoin: a login with the handle of a session that is there takes its place with the same
// connection number, and is refused with another.
func TestRejoin(t *testing.T) {
	addr, _, _ := start(t, &Server{})
	cfg := config("root")
	conn := prototest.Dial(t, addr)
	s, err := Login(t.Context(), conn, cfg)
	if err != nil {
		t.Fatal(err)
	}
	join := func(tsih, cid uint16, isid [6]byte) header {
		again := prototest.Dial(t, addr)
		h := header{opLoginRequest | flagImmediate, flagFinal | stageOperational<<2 | stageFull}
		copy(h[8:], isid[:])
		be.PutUint16(h[14:], tsih)
		be.PutUint16(h[20:], cid)
		names := text{{keyInitiatorName, cfg.Initiator}, {keyTargetName, cfg.Target}}
		again.Write(digests{}.appendPDU(nil, &h, names.encode()))
		again.SetDeadline(time.Now().Add(patience))
		if _, err := (digests{}).read(again, &h, maxReceive); err != nil {
			t.Fatal(err)
		}
		return h
	}
	status := func(h header) Status { return Status(be.Uint16(h[36:])) }
	if got := status(join(s.TSIH, 1, cfg.ISID)); got != StatusTooManyConns {
		t.Error("second connection:", got)
	}
	if got := status(join(s.TSIH, 0, [6]byte{9})); got != StatusNoSession {
		t.Error("another's handle:", got)
	}
	if h := join(s.TSIH, 0, cfg.ISID); status(h) != StatusOK || be.Uint16(h[14:]) != s.TSIH {
		t.Errorf("the connection again: % x", h)
	}
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the old connection lives")
	}
}

// TestListingsDoNotEndEachOther: machines of one name and ISID, as clones are, list at the same
// time.
func TestListingsDoNotEndEachOther(t *testing.T) {
	addr, _, _ := start(t, &Server{List: list})
	var conns []net.Conn
	for range 2 {
		conn := prototest.Dial(t, addr)
		conn.SetDeadline(time.Now().Add(patience))
		h := header{opLoginRequest | flagImmediate, flagFinal | stageFull}
		conn.Write(digests{}.appendPDU(nil, &h, text{{keyInitiatorName, "iqn.a"}, {keySessionType, sessionListing}}.encode()))
		conns = append(conns, conn)
	}
	for _, conn := range conns {
		h := header{opTextRequest | flagImmediate, flagFinal}
		be.PutUint32(h[20:], noTag)
		conn.Write(digests{}.appendPDU(nil, &h, text{{keySendTargets, "All"}}.encode()))
		for _, want := range []byte{opLoginResponse, opTextResponse} {
			if _, err := (digests{}).read(conn, &h, maxReceive); err != nil || h.op() != want {
				t.Errorf("% x, %v", h, err)
			}
		}
	}
}

// TestServeEnds: with clients in every state, it ends after the second of grace for the one that
// does not take its reply.
func TestServeEnds(t *testing.T) {
	s := &Server{List: list}
	addr, log, stop := start(t, s)
	prototest.Dial(t, addr) // says nothing
	attach(t, addr, "root") // idle
	stalled := attach(t, addr, "big")
	stalled.read(1, 0, maxBlocks)
	prototest.Until(t, "all clients", func() bool {
		return len(s.Active()) == 2 && s.Counters().Open == 3 && s.Counters().Memory > 0
	})
	begin := time.Now()
	stop()
	if d := time.Since(begin); d > patience {
		t.Errorf("took %v", d)
	}
	if n := strings.Count(log.String(), `why="the server stops"`); n != 2 {
		t.Errorf("%d clients left because the server stops, want 2:\n%s", n, log)
	}
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("still listening")
	}
}

// TestMaxConns: a surplus initiator is told to come later.
func TestMaxConns(t *testing.T) {
	s := &Server{Options: accept.Options{MaxConns: 2}}
	addr, log, _ := start(t, s)
	first := attach(t, addr, "root")
	attach(t, addr, "root")
	_, err := Login(t.Context(), prototest.Dial(t, addr), config("root"))
	if refused := new(LoginError); !errors.As(err, &refused) || refused.Status != StatusNoResources || !refused.Status.Temporary() {
		t.Errorf("third: %v", err)
	}
	prototest.Until(t, "the refusal in the log", func() bool { return strings.Contains(log.String(), `why="more than 2 connections"`) })
	first.conn.Close()
	prototest.Until(t, "the first to be gone", func() bool { return s.Counters().Open == 1 })
	attach(t, addr, "root")
	for range accept.Spare + 8 {
		prototest.Dial(t, addr)
	}
	prototest.Until(t, "no more to be let in", func() bool { return strings.Count(log.String(), "more than 2 connections") > 1 })
}

// TestPanicEndsOneConnection, in the connection's goroutine (a small read) and in a command's.
func TestPanicEndsOneConnection(t *testing.T) {
	addr, log, stop := start(t, &Server{})
	bystander := attach(t, addr, "root")
	for _, blocks := range []uint32{1, bigBlocks} {
		c := attach(t, addr, "panic")
		c.read(1, 0, blocks)
		if _, _, err := c.next(); err == nil {
			t.Errorf("read of %d was answered", blocks)
		}
	}
	bystander.mustRead(t, 1)
	stop()
	if n := strings.Count(log.String(), "panic=backend"); n != 2 {
		t.Errorf("%d panics in the log:\n%s", n, log)
	}
}

// TestReleaseOnce: however a login ends, a target that was opened is released once.
func TestReleaseOnce(t *testing.T) {
	var opened, released atomic.Int32
	s := &Server{Lookup: func(ctx context.Context, name string) (*Target, error) {
		x, err := targets(ctx, name)
		if err == nil {
			opened.Add(1)
			x.Release = func() { released.Add(1) }
		}
		return x, err
	}}
	addr, _, _ := start(t, s)
	for _, target := range []string{"root", "empty", "no-secret", "one-way"} {
		opened.Store(0)
		released.Store(0)
		conn := prototest.Dial(t, addr)
		Login(t.Context(), conn, config(target))
		conn.Close()
		prototest.Until(t, "the connection to be gone", func() bool { return s.Counters().Open == 0 })
		if o, r := opened.Load(), released.Load(); o != 1 || r != 1 {
			t.Errorf("%s: opened %d, released %d", target, o, r)
		}
	}
}

func TestObserver(t *testing.T) {
	var mu sync.Mutex
	var seen []accept.Event
	s := &Server{Options: accept.Options{Observer: func(e accept.Event) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, e)
	}}}
	addr, _, stop := start(t, s)
	c := attach(t, addr, "big")
	c.mustRead(t, 1)
	c.mustRead(t, bigBlocks)
	const bytes = (1 + bigBlocks) * blockSize
	read := accept.Session{Protocol: "iscsi", Peer: c.conn.LocalAddr().(*net.TCPAddr).AddrPort(), Client: node.Initiator,
		Export: prefix + "big", Number: 1, Connections: 1, Reads: 2, ReadBytes: bytes}
	apart := cmp.Options{cmpopts.IgnoreFields(accept.Session{}, "Since"), cmpopts.EquateComparable(netip.AddrPort{})}
	prototest.Until(t, "the second read to be counted", func() bool { return cmp.Equal(s.Active(), []accept.Session{read}, apart) })
	c.conn.Close()
	prototest.Until(t, "the client to leave", func() bool { return len(s.Active()) == 0 })
	stop()
	begun := read
	begun.Reads, begun.ReadBytes = 0, 0
	want := []accept.Event{{Kind: accept.Attached, Session: begun},
		{Kind: accept.Detached, Session: read, Why: "connection closed without a logout"}}
	if d := cmp.Diff(want, seen, apart); d != "" {
		t.Error(d)
	}
	if n := s.Counters(); n.Requests != 2 || n.Out < bytes || n.Memory != 0 || n.Errors != 0 {
		t.Errorf("%+v", n)
	}
}

// TestSlowPeers: the time limits, with a clock of the test's own.
func TestSlowPeers(t *testing.T) {
	first := header{opLoginRequest | flagImmediate}
	names := text{{keyInitiatorName, "iqn.a"}, {keyTargetName, prefix + "root"}}
	request := digests{}.appendPDU(nil, &first, names.encode())
	empty := digests{}.appendPDU(nil, &first, nil)
	listing := header{opLoginRequest | flagImmediate, flagFinal | stageFull}
	discover := digests{}.appendPDU(nil, &listing, text{{keyInitiatorName, "iqn.a"}, {keySessionType, sessionListing}}.encode())
	for name, tt := range map[string]struct {
		peer func(conn net.Conn)
		want time.Duration
	}{
		"says nothing":   {func(net.Conn) {}, accept.FirstRequest},
		"half a request": {func(conn net.Conn) { conn.Write(request[:60]) }, accept.FirstRequest},
		"reads nothing":  {func(conn net.Conn) { conn.Write(request) }, accept.Stall},
		"never decides": {func(conn net.Conn) {
			go io.Copy(io.Discard, conn)
			conn.Write(request)
			for _, err := conn.Write(empty); err == nil; _, err = conn.Write(empty) {
				<-time.After(9 * time.Second)
			}
		}, loginTimeout},
		"takes no reply": {func(conn net.Conn) {
			if s, err := Login(context.Background(), conn, node); err == nil {
				(&client{conn: conn, sn: s.CmdSN}).read(1, 0, 1)
			}
		}, accept.Stall},
		"lists and stays": {func(conn net.Conn) {
			go io.Copy(io.Discard, conn)
			conn.Write(discover)
		}, listTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &Server{Lookup: targets, List: list}
				s.once.Do(s.setup)
				conn, peer := net.Pipe()
				var talk sync.WaitGroup
				talk.Go(func() { tt.peer(peer) })
				begin := time.Now()
				s.loop.ServeConn(t.Context(), conn)
				if d := time.Since(begin); d != tt.want {
					t.Errorf("gone after %v, want %v", d, tt.want)
				}
				peer.Close()
				talk.Wait()
			})
		})
	}
}

// TestIdleConnectionsAreCheap: 500 of them, each after a read, within 64 MiB for both ends.
func TestIdleConnectionsAreCheap(t *testing.T) {
	const clients = 500
	addr, _, _ := start(t, &Server{})
	use := func() uint64 {
		runtime.GC()
		runtime.GC() // pools keep what they have through one
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	before, goroutines := use(), runtime.NumGoroutine()
	for range clients {
		attach(t, addr, "root").mustRead(t, 8)
	}
	each := (int64(use()) - int64(before)) / clients
	t.Logf("%d bytes for each connection", each)
	if each > 64<<20/clients {
		t.Errorf("an idle connection takes %d bytes", each)
	}
	if n := runtime.NumGoroutine() - goroutines; n > clients+10 {
		t.Errorf("%d goroutines for %d connections", n, clients)
	}
}
