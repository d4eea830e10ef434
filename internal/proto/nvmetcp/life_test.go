package nvmetcp

import (
	"context"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"netroot/internal/proto/accept"
	"netroot/internal/prototest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func serving(b Backend) func(context.Context, string) (*Subsystem, error) {
	return func(_ context.Context, nqn string) (*Subsystem, error) { return subsystem(nqn, b), nil }
}

// TestFatalErrors: a host that breaks the protocol is told how, and goes.
func TestFatalErrors(t *testing.T) {
	s := &Server{}
	addr, log := start(t, s)
	change := func(b []byte, at int, v ...byte) []byte {
		copy(b[at:], v)
		return b
	}
	hello := func() []byte {
		return head{kind: pduICReq, hlen: icSize, plen: icSize}.append(make([]byte, 0, icSize))[:icSize]
	}
	plain, digested := &host{}, &host{digests: 3}
	withData := func(h *host) []byte { return h.pdu(sqe(opWrite, 1).with(make([]byte, 64))) }
	for _, tt := range []struct {
		what    string
		digests int // -1: before ICReq
		pdu     []byte
		fes     uint16
		fei     uint32
	}{
		{"HTTP", -1, []byte("GET / HTTP/1.1\r\n\r\n"), fesSequence, 0},
		{"command first", -1, plain.pdu(read(0, 1, 512)), fesSequence, 0},
		{"ICReq with a short header", -1, change(hello(), 2, 64), fesHeaderField, 2},
		{"long ICReq", -1, change(hello(), 5, 1), fesHeaderField, 4},
		{"version", -1, change(hello(), 8, 1), fesUnsupported, 8},
		{"alignment", -1, change(hello(), 10, 32), fesHeaderField, 10},
		{"ICReq again", 0, hello(), fesSequence, 0},
		{"data that nobody asked for", 0, change(plain.pdu(read(0, 1, 1)), 0, pduH2CData, 0, 24), fesSequence, 0},
		{"PDU of a server", 0, change(plain.pdu(read(0, 1, 1)), 0, pduResponse), fesHeaderField, 0},
		{"unknown PDU", 0, change(plain.pdu(read(0, 1, 1)), 0, 0x7f), fesHeaderField, 0},
		{"header length", 0, change(plain.pdu(read(0, 1, 1)), 2, 73), fesHeaderField, 2},
		{"short PDU", 0, change(plain.pdu(read(0, 1, 1)), 4, 71), fesHeaderField, 4},
		{"huge PDU", 0, change(plain.pdu(read(0, 1, 1)), 7, 0xff), fesHeaderField, 4},
		{"data in the header", 0, change(withData(plain), 3, 71), fesHeaderField, 3},
		{"data behind the PDU", 0, change(withData(plain), 3, 137), fesHeaderField, 3},
		{"digest not agreed on", 0, digested.pdu(read(0, 1, 1)), fesHeaderField, 1},
		{"digest left out", 1, plain.pdu(read(0, 1, 1)), fesHeaderField, 4},
		{"digest flag left out", 1, change((&host{digests: 1}).pdu(read(0, 1, 1)), 1, 0), fesHeaderField, 1},
		{"data digest left out", 2, withData(plain), fesHeaderField, 1},
		{"wrong digest", 1, change((&host{digests: 1}).pdu(read(0, 1, 1)), 72, 1, 2, 3, 4), fesHeaderDigest, 0x04030201},
	} {
		conn := dial(t, addr)
		h := &host{t: t, conn: conn}
		if tt.digests >= 0 {
			h = ic(t, conn, uint8(tt.digests), 4)
		}
		if _, err := conn.Write(append(tt.pdu, make([]byte, 200)...)); err != nil {
			t.Fatal(err)
		}
		p, b := h.receive()
		if p.kind != pduC2HTerm || p.hlen != termSize || p.flags != 0 || le.Uint16(b[8:]) != tt.fes || le.Uint32(b[10:]) != tt.fei {
			t.Errorf("%s: %+v, FES %d, FEI %#x; want %d, %#x", tt.what, p, le.Uint16(b[8:]), le.Uint32(b[10:]), tt.fes, tt.fei)
		} else if told := b[termSize:]; len(told) < headSize || string(told[:headSize]) != string(tt.pdu[:headSize]) {
			t.Errorf("%s: told of header %x", tt.what, told)
		}
		conn.CloseWrite()
		ended(t, conn)
	}
	prototest.Until(t, "refusals", func() bool { return s.Counters().Refused == 20 })
	if n := strings.Count(log.String(), `msg="nvmetcp: refused"`); n < 10 {
		t.Errorf("%d lines:\n%s", n, log)
	}
}

// TestHostEndsConnection: H2CTermReq is logged with what it says.
func TestHostEndsConnection(t *testing.T) {
	addr, log := start(t, &Server{})
	for text, b := range map[string][]byte{
		"FES 0x3, FEI 0x12345678": append(head{kind: pduH2CTerm, hlen: 24, plen: 24}.append(nil), append([]byte{3, 0, 0x78, 0x56, 0x34, 0x12}, make([]byte, 10)...)...),
		"malformed H2CTermReq":    head{kind: pduH2CTerm, hlen: 24, plen: 1 << 30}.append(nil),
	} {
		h := ic(t, dial(t, addr), 0, 4)
		h.conn.Write(b)
		ended(t, h.conn)
		prototest.Until(t, "a line", log.Has(text))
	}
}

// TestControllerEnds: with its admin connection end its I/O connections, and the subsystem is
// released once.
func TestControllerEnds(t *testing.T) {
	var released atomic.Int32
	var seen atomic.Pointer[[]accept.Event]
	seen.Store(&[]accept.Event{})
	s := &Server{
		Lookup: func(_ context.Context, nqn string) (*Subsystem, error) {
			sub := subsystem(nqn, &memory{size: smallDisk})
			sub.Release = func() { released.Add(1) }
			return sub, nil
		},
		Options: accept.Options{Observer: func(e accept.Event) { all := append(*seen.Load(), e); seen.Store(&all) }},
	}
	addr, log := start(t, s)
	admin := attach(t, addr, rootNQN)
	one, two := admin.queue(addr, 1, 0, 4, false), admin.queue(addr, 2, 0, 4, true)
	one.must(read(0, 2, 1024))
	two.conn.Close()
	prototest.Until(t, "a queue less", func() bool { all := s.Active(); return len(all) == 1 && all[0].Connections == 1 })
	if released.Load() != 0 {
		t.Error("released while in use")
	}
	admin.queue(addr, 2, 0, 4, false).must(read(3, 1, 512)) // its number is free again
	admin.conn.Close()
	ended(t, one.conn)
	prototest.Until(t, "the end", func() bool { return len(s.Active()) == 0 && released.Load() == 1 && len(*seen.Load()) == 2 })
	begun := accept.Session{Protocol: "nvmetcp", Client: hostNQN, Export: rootNQN, Number: 1, Connections: 1}
	done := begun
	done.Reads, done.ReadBytes, done.Connections = 2, 1536, 0
	events := []accept.Event{{Kind: accept.Attached, Session: begun}, {Kind: accept.Detached, Session: done, Why: "connection closed"}}
	if diff := cmp.Diff(events, *seen.Load(), cmpopts.IgnoreFields(accept.Session{}, "Peer", "Since")); diff != "" {
		t.Errorf("observed (-want +got):\n%s", diff)
	}
	q := ic(t, dial(t, addr), 0, 4)
	if a := q.do(connectCommand(1, 127, 1, 0, 0, rootNQN, hostNQN)); a.status != statusConnectParam {
		t.Errorf("queue of a controller that has ended: status %#x", a.status)
	}
	const lines = `level=INFO msg="nvmetcp: attached" peer=127.0.0.1 client=nqn.2026-01.test:host export=nqn.2026-01.test:root controller=1
level=INFO msg="nvmetcp: left" peer=127.0.0.1 client=nqn.2026-01.test:host export=nqn.2026-01.test:root controller=1 reads=2 bytes=1536 why="connection closed"
`
	prototest.Until(t, "lines of a life", log.Has(lines))
}

// TestResetEndsQueues: so the host can begin anew.
func TestResetEndsQueues(t *testing.T) {
	addr, _ := start(t, &Server{})
	admin := attach(t, addr, rootNQN)
	q := admin.queue(addr, 1, 0, 4, false)
	admin.must(fabrics(fabricsPropertySet, 0, propCC, 0))
	ended(t, q.conn)
	admin.must(enable)
	prototest.Until(t, "a queue of the same number", func() bool {
		q := ic(t, dial(t, addr), 0, 4)
		return q.do(connectCommand(1, 127, admin.id, 0, 0, rootNQN, hostNQN)).status == statusSuccess
	})
}

// pipe returns the host's end of a connection in a synctest bubble.
func pipe(t *testing.T, s *Server) net.Conn {
	s.Lookup, s.List = subsystems, listed
	s.once.Do(s.setup)
	near, far := net.Pipe()
	go s.loop.ServeConn(t.Context(), far)
	t.Cleanup(func() { near.Close() })
	return near
}

// TestKeepAlive: a host that is silent for longer than it promised is gone, and any command is a
// sign of life.
func TestKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{}
		h := ic(t, pipe(t, s), 0, 4)
		h.must(connectCommand(0, 31, anyController, 0, 5*time.Second, rootNQN, hostNQN))
		h.must(enable)
		for range 10 {
			time.Sleep(4 * time.Second)
			h.must(sqe(opKeepAlive, 0))
		}
		for range 10 {
			time.Sleep(4 * time.Second)
			h.must(fabrics(fabricsPropertyGet, 0, propCSTS))
		}
		h.must(sqe(opSetFeatures, 0, uint32(featureKeepAlive), 20_000))
		time.Sleep(19 * time.Second)
		h.must(sqe(opKeepAlive, 0))
		began := time.Now()
		if _, err := h.conn.Read(make([]byte, 1)); err != io.EOF {
			t.Error(err)
		}
		if d := time.Since(began); d < 20*time.Second || d > 40*time.Second {
			t.Errorf("ended %v after the last command", d)
		}
		synctest.Wait()
		if len(s.controllers) != 0 {
			t.Error("the controller is still there")
		}
	})
}

// TestSilence: a connection that does not become a queue is closed; one that has no keep-alive
// stays.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		log := &prototest.Log{}
		quiet := pipe(t, &Server{Options: accept.Options{Log: slog.New(slog.NewTextHandler(log, nil))}})
		if _, err := quiet.Read(make([]byte, 1)); err != io.EOF || time.Since(began) != accept.FirstRequest {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		h0 := pipe(t, &Server{Options: accept.Options{Log: slog.New(slog.NewTextHandler(log, nil))}})
		ic(t, h0, 0, 4)
		if _, err := h0.Read(make([]byte, 1)); err != io.EOF {
			t.Error(err)
		}
		if synctest.Wait(); !log.Has("no Connect within 10s")() {
			t.Errorf("log: %s", log)
		}
		h := ic(t, pipe(t, &Server{}), 0, 4)
		h.must(connectCommand(0, 31, anyController, 0, 0, rootNQN, hostNQN))
		time.Sleep(24 * time.Hour)
		h.must(enable)
	})
}

// TestStuckHost: a host that takes no data for a minute must connect again.
func TestStuckHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{}
		admin := ic(t, pipe(t, s), 0, 4)
		id := uint16(admin.must(connectCommand(0, 31, anyController, 0, 0, rootNQN, hostNQN)).result)
		admin.must(enable)
		near, far := net.Pipe()
		go s.loop.ServeConn(t.Context(), far)
		q := ic(t, near, 0, 4)
		q.must(connectCommand(1, 127, id, 0, 0, rootNQN, hostNQN))
		q.send(read(0, 16, 8192))
		time.Sleep(accept.Stall + time.Second)
		synctest.Wait()
		if n := s.Active()[0].Connections; n != 0 {
			t.Errorf("%d queues left", n)
		}
	})
}

// TestServeEnds: what is under way is answered, then everything is closed.
func TestServeEnds(t *testing.T) {
	g := newGate(1 << 20)
	s := &Server{Lookup: serving(g)}
	s.once.Do(s.setup)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	addr := l.Addr().String()
	q := attach(t, addr, rootNQN).queue(addr, 1, 0, 4, false)
	ic(t, dial(t, addr), 0, 4)
	q.send(read(0, 256, 128<<10))
	prototest.Until(t, "a read under way", func() bool { return g.waiting.Load() == 1 })
	cancel()
	close(g.open)
	// The admin connection ends at once, and with it the queue: the host must ask again elsewhere.
	if err := <-done; err != nil {
		t.Error(err)
	}
	io.Copy(io.Discard, q.conn)
}

func TestTooManyConnections(t *testing.T) {
	addr, log := start(t, &Server{Options: accept.Options{MaxConns: 2}})
	first := attach(t, addr, rootNQN)
	first.queue(addr, 1, 0, 4, false)
	ended(t, dial(t, addr))
	prototest.Until(t, "a line", log.Has("more than 2 connections"))
	first.must(sqe(opKeepAlive, 0))
}

// TestTwoServers: the same disk from two servers is one disk, and the controllers are two.
func TestTwoServers(t *testing.T) {
	pages := map[uint32][2][]byte{}
	var ids [2]uint16
	for i := range ids {
		addr, _ := start(t, &Server{newID: randomID})
		h := attach(t, addr, rootNQN)
		ids[i] = h.id
		for _, cns := range []uint32{cnsNamespace, cnsController, cnsDescriptors} {
			both := pages[cns]
			both[i] = h.must(sqe(opIdentify, 1, cns).returning(identifySize)).data
			if cns == cnsController {
				clear(both[i][78:80])
			}
			pages[cns] = both
		}
	}
	for cns, both := range pages {
		if string(both[0]) != string(both[1]) {
			t.Errorf("identify %d differs", cns)
		}
	}
	if ids[0] == ids[1] { // once in 65519 runs
		t.Errorf("controller %d twice", ids[0])
	}
}

// TestSharedName: the log says when two machines have one host NQN.
func TestSharedName(t *testing.T) {
	addr, log := start(t, &Server{newID: randomID})
	attachFrom := func(from string) {
		h := ic(t, prototest.DialFrom(t, from, addr), 0, 4)
		h.must(connectCommand(0, 31, anyController, 0, 0, rootNQN, hostNQN))
	}
	attachFrom("127.0.0.1")
	attachFrom("127.0.0.1")
	if strings.Contains(log.String(), "two addresses") {
		t.Errorf("of one machine:\n%s", log)
	}
	attachFrom("127.0.0.2")
	prototest.Until(t, "a warning", log.Has(`level=WARN msg="nvmetcp: one name is used from two addresses" client=`+hostNQN+` peer=127.0.0.2 other=127.0.0.1`))
}

// TestControllerNumbers: each is given once, until there are none.
func TestControllerNumbers(t *testing.T) {
	next := uint16(maxControllerID - 3) // once around, and over some that are taken
	s := &Server{newID: func() uint16 { next = next%maxControllerID + 1; return max(next, 3) }}
	s.once.Do(s.setup)
	for i := range maxControllerID {
		k := &controller{}
		if !s.register(k) || k.id == 0 || k.id > maxControllerID {
			t.Fatalf("number %d: %d", i, k.id)
		}
	}
	if len(s.controllers) != maxControllerID || s.register(&controller{}) {
		t.Errorf("%d controllers and one more", len(s.controllers))
	}
	for range 1000 {
		if id := randomID(); id == 0 || id > maxControllerID {
			t.Fatalf("number %d", id)
		}
	}
}

// TestIdleIsCheap: 500 idle connections take less than 16 MiB.
func TestIdleIsCheap(t *testing.T) {
	addr, _ := start(t, &Server{MaxQueues: 500})
	admin := attach(t, addr, rootNQN)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range uint16(500) {
		admin.queue(addr, i+1, 0, 4, false)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	used := int64(after.HeapAlloc+after.StackInuse) - int64(before.HeapAlloc+before.StackInuse)
	t.Logf("%d KiB for each connection, the host's end included", used/500>>10)
	if used > 16<<20 {
		t.Errorf("%d bytes", used)
	}
}

// TestProbe: a peer that connects and leaves without a word is not logged.
func TestProbe(t *testing.T) {
	s := &Server{}
	addr, log := start(t, s)
	prototest.Probe(t, addr, log.String, func() (int, uint64) { n := s.Counters(); return n.Open, n.Accepted })
}
