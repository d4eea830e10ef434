package nbd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
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

// attach returns a connection on which the transmission has begun, with simple replies.
func attach(t testing.TB, addr, export string) *net.TCPConn {
	t.Helper()
	conn := prototest.Dial(t, addr)
	if _, err := Handshake(t.Context(), conn, export); err != nil {
		t.Fatal(err)
	}
	return conn
}

func ask(w io.Writer, cmd uint16, cookie, off uint64, n uint32) error {
	b := be.AppendUint32(nil, magicRequest)
	b = be.AppendUint32(b, uint32(cmd))
	b = be.AppendUint64(b, cookie)
	b = be.AppendUint64(b, off)
	_, err := w.Write(be.AppendUint32(b, n))
	return err
}

// answer reads one simple reply; its data, if without error, has the length that n says for its
// cookie.
func answer(r io.Reader, n func(cookie uint64) uint32) (cookie uint64, code uint32, data []byte, err error) {
	var head [simpleHead]byte
	if _, err = io.ReadFull(r, head[:]); err != nil {
		return 0, 0, nil, err
	}
	if be.Uint32(head[:]) != magicSimple {
		return 0, 0, nil, errors.New("no simple reply")
	}
	code, cookie = be.Uint32(head[4:]), be.Uint64(head[8:])
	if code == 0 {
		data = make([]byte, n(cookie))
		_, err = io.ReadFull(r, data)
	}
	return cookie, code, data, err
}

func always(n uint32) func(uint64) uint32 { return func(uint64) uint32 { return n } }

// TestManyClients reads from many connections with many requests under way, of all sizes, and looks
// at every byte. The race detector has most to say here.
func TestManyClients(t *testing.T) {
	addr, _, _ := start(t, &Server{})
	want := &disk{size: 128 << 20}
	var clients sync.WaitGroup
	for client := range 8 {
		conn := attach(t, addr, "big")
		conn.SetDeadline(time.Now().Add(6 * patience))
		rnd := rand.New(rand.NewPCG(1, uint64(client)))
		const requests = 64
		var offs [requests]uint64
		var lens [requests]uint32
		for i := range requests {
			lens[i] = 1 + rnd.Uint32N(1<<rnd.IntN(20))
			offs[i] = rnd.Uint64N(uint64(want.size) - uint64(lens[i]))
		}
		clients.Go(func() {
			for i := range requests {
				if err := ask(conn, cmdRead, uint64(i), offs[i], lens[i]); err != nil {
					t.Error(err)
				}
			}
		})
		clients.Go(func() {
			for range requests {
				cookie, code, data, err := answer(conn, func(c uint64) uint32 { return lens[c%requests] })
				if err != nil || code != 0 || cookie >= requests {
					t.Errorf("request %d: error %d, %v", cookie, code, err)
					return
				}
				expect := make([]byte, len(data))
				want.ReadAt(expect, int64(offs[cookie]))
				if !bytes.Equal(data, expect) {
					t.Errorf("wrong bytes at %d, %d", offs[cookie], lens[cookie])
				}
			}
		})
	}
	clients.Wait()
}

// gate is a disk whose reads wait until they are let through.
type gate struct {
	disk
	waiting atomic.Int32
	open    chan struct{}
}

func newGate(size int64) *gate {
	g := &gate{open: make(chan struct{})}
	g.disk = disk{size: size, read: func(p []byte, off int64) (int, error) {
		g.waiting.Add(1)
		<-g.open
		g.waiting.Add(-1)
		return len(p), nil
	}}
	return g
}

func serving(b Backend) func(context.Context, string) (*Export, error) {
	return func(context.Context, string) (*Export, error) { return &Export{Backend: b}, nil }
}

// TestInFlightIsBounded: a connection has 16 requests under way or 8 MiB, and the next must wait.
func TestInFlightIsBounded(t *testing.T) {
	for _, tt := range []struct {
		length uint32
		want   int32
	}{{quickRead + 1, connInFlight}, {1 << 20, 8}, {maxPayload, 2}} {
		g := newGate(64 << 20)
		addr, _, stop := start(t, &Server{Lookup: serving(g)})
		conn := attach(t, addr, "")
		conn.SetDeadline(time.Now().Add(patience))
		requests := int(tt.want) + 2
		for i := range requests {
			if err := ask(conn, cmdRead, uint64(i), 0, tt.length); err != nil {
				t.Fatal(err)
			}
		}
		prototest.Until(t, "requests under way", func() bool { return g.waiting.Load() == tt.want })
		close(g.open)
		seen := make(map[uint64]bool)
		for range requests {
			cookie, code, _, err := answer(conn, always(tt.length))
			if err != nil || code != 0 {
				t.Fatal(code, err)
			}
			seen[cookie] = true
		}
		if len(seen) != requests {
			t.Errorf("%d different answers", len(seen))
		}
		stop()
	}
}

const smallRead = 128 << 10 // bytes that need no memory of the server

// TestStalledClientsDoNotStopOthers: clients that never read what they asked for hold all of the
// server's memory. Another's small reads go on; a large one waits until they are gone.
func TestStalledClientsDoNotStopOthers(t *testing.T) {
	s := &Server{Options: accept.Options{MaxBuffer: 1}} // raised to one largest request
	addr, _, _ := start(t, s)
	stalled := attach(t, addr, "big")
	if err := ask(stalled, cmdRead, 1, 0, maxPayload); err != nil {
		t.Fatal(err)
	}
	prototest.Until(t, "all memory to be taken", func() bool { return s.full() })
	conn := attach(t, addr, "big")
	conn.SetDeadline(time.Now().Add(6 * patience))
	for i := range 100 {
		if err := ask(conn, cmdRead, uint64(i), 0, smallRead); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		if _, code, _, err := answer(conn, always(smallRead)); code != 0 || err != nil {
			t.Fatal(code, err)
		}
	}
	if err := ask(conn, cmdRead, 1, 0, maxPayload); err != nil {
		t.Fatal(err)
	}
	stalled.Close()
	if _, code, _, err := answer(conn, always(maxPayload)); code != 0 || err != nil {
		t.Fatal(code, err)
	}
}

// full reports whether all of the server's memory is taken.
func (s *Server) full() bool {
	return s.Counters().Memory == headRoom+maxPiece
}

// TestServeEnds: with clients in every state, it ends after the second of grace for the one that
// does not take its reply.
func TestServeEnds(t *testing.T) {
	s := &Server{Options: accept.Options{MaxBuffer: 1}} // raised to one largest request
	addr, log, stop := start(t, s)
	prototest.Dial(t, addr) // says nothing
	attach(t, addr, "root") // idle
	stalled := attach(t, addr, "big")
	ask(stalled, cmdRead, 1, 0, maxPayload)
	prototest.Until(t, "all clients", func() bool { return len(s.Active()) == 2 && s.Counters().Open == 3 && s.full() })
	begin := time.Now()
	stop()
	if d := time.Since(begin); d < accept.Grace || d > patience {
		t.Errorf("took %v", d)
	}
	if n := strings.Count(log.String(), `why="the server stops"`); n != 2 {
		t.Errorf("%d clients left because the server stops, want 2:\n%s", n, log)
	}
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("still listening")
	}
}

func TestMaxConns(t *testing.T) {
	s := &Server{Options: accept.Options{MaxConns: 2}}
	addr, log, _ := start(t, s)
	first := attach(t, addr, "root")
	attach(t, addr, "root")
	refused := prototest.Dial(t, addr)
	refused.SetDeadline(time.Now().Add(patience))
	if n, err := refused.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("third connection read %d, %v", n, err)
	}
	if !strings.Contains(log.String(), `msg="nbd: refused" peer=127.0.0.1 why="more than 2 connections"`) {
		t.Error(log)
	}
	first.Close()
	prototest.Until(t, "the first to be gone", func() bool { return s.Counters().Open == 1 })
	attach(t, addr, "root")
}

// TestPanicEndsOneConnection, in the connection's goroutine (a small read) and in a request's.
func TestPanicEndsOneConnection(t *testing.T) {
	addr, log, stop := start(t, &Server{})
	bystander := attach(t, addr, "root")
	for _, n := range []uint32{512, quickRead + 1} {
		conn := attach(t, addr, "panic")
		conn.SetDeadline(time.Now().Add(patience))
		ask(conn, cmdRead, 1, 0, n)
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("read of %d was answered", n)
		}
	}
	ask(bystander, cmdRead, 1, 0, 512)
	if _, code, _, err := answer(bystander, always(512)); code != 0 || err != nil {
		t.Error(code, err)
	}
	stop()
	if n := strings.Count(log.String(), "panic=backend"); n != 2 {
		t.Errorf("%d panics in the log:\n%s", n, log)
	}
}

// TestReleaseOnce: whatever a client does in the haggling, each export that was opened is released
// once.
func TestReleaseOnce(t *testing.T) {
	var opened, released atomic.Int32
	s := &Server{Lookup: func(ctx context.Context, name string) (*Export, error) {
		e, err := exports(ctx, name)
		if err == nil {
			opened.Add(1)
			var once atomic.Bool
			e.Release = func() {
				if once.Swap(true) {
					t.Error("released twice")
				}
				released.Add(1)
			}
		}
		return e, err
	}}
	addr, _, stop := start(t, s)
	const (
		infoRoot = `"IHAVEOPT" 00000006 0000000a u32"root" 0000`
		infoBig  = `"IHAVEOPT" 00000006 00000009 u32"big" 0000`
		goRoot   = `"IHAVEOPT" 00000007 0000000a u32"root" 0000`
		abort    = `"IHAVEOPT" 00000002 00000000`
	)
	for _, tt := range []struct {
		said string
		want int32 // opened
	}{
		{infoRoot + infoRoot + goRoot, 1},
		{infoRoot + infoBig + goRoot, 3},
		{infoRoot + abort, 1},
		{infoRoot, 1},
		{goRoot + `25609513`, 1},
		{goRoot + `"not a request at all, but long"`, 1},
		{infoRoot + `"not an option of a client"`, 1},
	} {
		opened.Store(0)
		released.Store(0)
		b, err := unquote("00000003" + tt.said)
		if err != nil {
			t.Fatal(err)
		}
		conn := prototest.Dial(t, addr)
		conn.Write(b)
		conn.CloseWrite()
		io.Copy(io.Discard, conn)
		prototest.Until(t, "the connection to be gone", func() bool { return s.Counters().Open == 0 })
		if o, r := opened.Load(), released.Load(); o != tt.want || r != o {
			t.Errorf("%s: opened %d, want %d; released %d", tt.said, o, tt.want, r)
		}
	}
	stop()
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
	conn := attach(t, addr, "broken")
	for _, n := range []uint32{512, 4096} {
		ask(conn, cmdRead, 1, 0, n)
		if _, code, _, err := answer(conn, always(n)); code != 0 || err != nil {
			t.Fatal(code, err)
		}
	}
	read := accept.Session{Protocol: "nbd", Peer: conn.LocalAddr().(*net.TCPAddr).AddrPort(), Export: "broken",
		Connections: 1, Reads: 2, ReadBytes: 4608}
	apart := cmp.Options{cmpopts.IgnoreFields(accept.Session{}, "Since"), cmpopts.EquateComparable(netip.AddrPort{})}
	prototest.Until(t, "the second read to be counted", func() bool { return cmp.Equal(s.Active(), []accept.Session{read}, apart) })
	for range 2 {
		ask(conn, cmdRead, 1, 4096, 512)
		if _, code, _, err := answer(conn, always(0)); code != errIO || err != nil {
			t.Fatal(code, err)
		}
	}
	ask(conn, cmdDisc, 0, 0, 0)
	io.Copy(io.Discard, conn)
	stop()
	begun, failed, done := read, read, read
	begun.Reads, begun.ReadBytes, failed.Errors, done.Errors = 0, 0, 1, 2
	want := []accept.Event{{Kind: accept.Attached, Session: begun},
		{Kind: accept.Failed, Session: failed, Why: "bad sector"}, {Kind: accept.Detached, Session: done, Why: "disconnected"}}
	if d := cmp.Diff(want, seen, apart); d != "" {
		t.Error(d)
	}
	n := s.Counters()
	if len(s.Active()) != 0 || n.Accepted != 1 || n.Requests != 4 || n.Errors != 2 || n.Attached != 0 || n.Open != 0 ||
		n.In < 4*requestHead || n.Out < 4608 {
		t.Errorf("active %v, %+v", s.Active(), n)
	}
}

// TestSlowPeers: the time limits, with a clock of the test's own.
func TestSlowPeers(t *testing.T) {
	yes, infoRoot := []byte{0, 0, 0, 3}, appendInfo("root")
	for name, tt := range map[string]struct {
		peer func(conn net.Conn)
		want time.Duration
	}{
		"says nothing":   {func(net.Conn) {}, accept.FirstRequest},
		"reads nothing":  {func(conn net.Conn) { conn.Write(yes); conn.Write(infoRoot) }, accept.FirstRequest},
		"half an option": {func(conn net.Conn) { go io.Copy(io.Discard, conn); conn.Write(yes); conn.Write(infoRoot[:20]) }, accept.FirstRequest},
		"never decides": {func(conn net.Conn) {
			go io.Copy(io.Discard, conn)
			conn.Write(yes)
			for _, err := conn.Write(infoRoot); err == nil; _, err = conn.Write(infoRoot) {
				<-time.After(9 * time.Second)
			}
		}, haggleTimeout},
		"takes no reply": {func(conn net.Conn) {
			if _, err := Handshake(context.Background(), conn, "root"); err == nil {
				ask(conn, cmdRead, 1, 0, 512)
			}
		}, accept.Stall},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &Server{Lookup: exports}
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

// TestSlowLookup: the time that the server takes to open an export is not the client's.
func TestSlowLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Lookup: func(ctx context.Context, name string) (*Export, error) {
			<-time.After(accept.FirstRequest + time.Second)
			return exports(ctx, name)
		}}
		s.once.Do(s.setup)
		conn, peer := net.Pipe()
		var served sync.WaitGroup
		served.Go(func() { s.loop.ServeConn(t.Context(), conn) })
		if _, err := Handshake(t.Context(), peer, "root"); err != nil {
			t.Error(err)
		}
		<-time.After(time.Hour) // an idle client stays
		ask(peer, cmdRead, 1, 0, 512)
		if _, code, _, err := answer(peer, always(512)); code != 0 || err != nil {
			t.Error(code, err)
		}
		peer.Close()
		served.Wait()
	})
}

// appendInfo returns an INFO option for an export.
func appendInfo(name string) []byte {
	b := be.AppendUint64(nil, magicOption)
	b = be.AppendUint32(b, optInfo)
	b = be.AppendUint32(b, uint32(len(name)+6))
	b = be.AppendUint32(b, uint32(len(name)))
	return append(append(b, name...), 0, 0)
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
		conn := attach(t, addr, "root")
		ask(conn, cmdRead, 1, 0, 4096)
		if _, code, _, err := answer(conn, always(4096)); code != 0 || err != nil {
			t.Fatal(code, err)
		}
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

// TestLargeReads: a reply of more than a piece is whole, with nothing in between, to clients with
// simple and with structured replies; and it takes no more memory than a piece.
func TestLargeReads(t *testing.T) {
	const length = maxPiece + 4097
	want := make([]byte, length)
	(&disk{size: 128 << 20}).ReadAt(want, 11)
	s := &Server{Options: accept.Options{MaxBuffer: 1}} // raised to one piece
	addr, _, _ := start(t, s)
	conn := attach(t, addr, "big")
	conn.SetDeadline(time.Now().Add(6 * patience))
	for i := range uint64(2) { // large and small ones, and refused ones that are answered at once
		ask(conn, cmdRead, 2*i, 11, length)
		ask(conn, cmdRead, 2*i+1, 11, 16)
		ask(conn, cmdTrim, 100, 0, 1)
	}
	seen := map[uint64]int{}
	for range 6 {
		cookie, code, data, err := answer(conn, func(cookie uint64) uint32 { return []uint32{length, 16}[cookie%2] })
		if err != nil || (cookie == 100) != (code == errPerm) || code == 0 && !bytes.Equal(data, want[:len(data)]) {
			t.Fatalf("reply to %d: error %d, %v, or wrong bytes", cookie, code, err)
		}
		seen[cookie]++
		if n := s.Counters().Memory; n > headRoom+maxPiece {
			t.Errorf("%d bytes in use", n)
		}
	}
	if len(seen) != 5 || seen[100] != 2 {
		t.Errorf("answered: %v", seen)
	}

	structured := prototest.Dial(t, addr)
	structured.SetDeadline(time.Now().Add(6 * patience))
	say(t, structured, hello, flags, `C: "IHAVEOPT" 00000008 00000000`, `S: 0003e889045565a9 00000008 00000001 00000000`,
		`C: "IHAVEOPT" 00000007 00000009 u32"big" 0000`)
	io.CopyN(io.Discard, structured, 2*replyHead+12)
	ask(structured, cmdRead, 5, 11, length)
	b := make([]byte, dataChunkHead+length)
	if _, err := io.ReadFull(structured, b); err != nil || be.Uint32(b) != magicStructured || be.Uint16(b[4:]) != chunkDone ||
		be.Uint32(b[16:]) != 8+length || be.Uint64(b[20:]) != 11 || !bytes.Equal(b[dataChunkHead:], want) {
		t.Errorf("%v, head % x", err, b[:dataChunkHead])
	}
}

// TestLargeReadFails: in its first piece it is told, later only the end of the connection can tell
// it.
func TestLargeReadFails(t *testing.T) {
	bad := &disk{size: 64 << 20}
	bad.read = func(p []byte, off int64) (int, error) {
		if off <= 40<<20 && off+int64(len(p)) > 40<<20 {
			return 0, errors.New("bad sector")
		}
		return len(p), nil
	}
	var failed atomic.Int32
	s := &Server{Lookup: serving(bad), Options: accept.Options{Observer: func(e accept.Event) {
		if e.Kind == accept.Failed {
			failed.Add(1)
		}
	}}}
	addr, log, _ := start(t, s)
	conn := attach(t, addr, "")
	conn.SetDeadline(time.Now().Add(patience))
	ask(conn, cmdRead, 1, 40<<20, maxPayload/2)
	if _, code, _, err := answer(conn, always(maxPayload/2)); code != errIO || err != nil {
		t.Errorf("error %d, %v", code, err)
	}
	ask(conn, cmdRead, 2, 30<<20, maxPayload/2)
	if _, code, _, err := answer(conn, always(maxPayload/2)); code != 0 || err != io.ErrUnexpectedEOF {
		t.Errorf("error %d, %v", code, err)
	}
	prototest.Until(t, "the reason", func() bool { return strings.Contains(log.String(), `why="reply: bad sector"`) })
	if n := s.Counters().Errors; n != 2 || failed.Load() != 1 {
		t.Errorf("%d errors, %d told", n, failed.Load())
	}
}

// TestResetStopsRequests: of what a client asked for before it reset the connection, no more is
// read than was under way.
func TestResetStopsRequests(t *testing.T) {
	g := newGate(64 << 20)
	var reads atomic.Int32
	gated := g.read
	g.read = func(p []byte, off int64) (int, error) {
		reads.Add(1)
		return gated(p, off)
	}
	s := &Server{Lookup: serving(g)}
	addr, _, _ := start(t, s)
	conn := attach(t, addr, "")
	for i := range uint64(36) {
		ask(conn, cmdRead, i, 0, maxPayload)
	}
	prototest.Until(t, "reads under way", func() bool { return g.waiting.Load() == 2 })
	conn.SetLinger(0)
	conn.Close()
	close(g.open)
	prototest.Until(t, "the end", func() bool { n := s.Counters(); return n.Open == 0 && n.Attached == 0 && n.Memory == 0 })
	// Each read finds the connection gone when it sends its first or second piece; the one that
	// waited for them may have been admitted before.
	if n := reads.Load(); n > 6 {
		t.Errorf("%d pieces were read", n)
	}
}

// attachFrom is attach from another address of this machine.
func attachFrom(t *testing.T, from, addr, export string) (*net.TCPConn, error) {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(6 * patience))
	_, err = Handshake(t.Context(), conn, export)
	return conn.(*net.TCPConn), err
}

// TestRudeClient: one address makes all connections that it may, asks for much on each of them and
// reads nothing, then resets them. It has no more than its share; another address is served all the
// time; and when it has gone nothing of its requests is left.
func TestRudeClient(t *testing.T) {
	const (
		most   = 16 // connections of one address: a quarter of 64
		memory = 64 << 20
		length = 8 << 20
	)
	var read atomic.Int64 // bytes, for the rude one
	big := &disk{size: 128 << 20, read: func(p []byte, _ int64) (int, error) {
		read.Add(int64(len(p)))
		return len(p), nil
	}}
	s := &Server{Options: accept.Options{MaxConns: 4 * most, MaxBuffer: memory}}
	s.Lookup = func(ctx context.Context, name string) (*Export, error) {
		if name == "rude" {
			return &Export{Name: name, Backend: big}, nil
		}
		return exports(ctx, name)
	}
	addr, log, stop := start(t, s)
	good, err := attachFrom(t, "127.0.0.3", addr, "big")
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 1<<20)
	(&disk{size: 128 << 20}).ReadAt(want, 4096)
	served := func(when string) {
		t.Helper()
		for i := range uint64(40) { // as a node: small blocks, and now and then a large one
			n := uint32(4096)
			if i%8 == 0 {
				n = 1 << 20
			}
			ask(good, cmdRead, i, 4096, n)
			cookie, code, data, err := answer(good, always(n))
			if err != nil || code != 0 || cookie != i || !bytes.Equal(data, want[:n]) {
				t.Fatalf("%s: reply %d, error %d, %v, or wrong bytes", when, cookie, code, err)
			}
		}
	}
	served("before")

	var rude []*net.TCPConn
	var asking sync.WaitGroup
	for range most {
		conn, err := attachFrom(t, "127.0.0.2", addr, "rude")
		if err != nil {
			t.Fatal(err)
		}
		rude = append(rude, conn)
		asking.Go(func() {
			for i := range uint64(100) {
				if ask(conn, cmdRead, i, 0, length) != nil {
					return // reset
				}
			}
		})
	}
	if _, err := attachFrom(t, "127.0.0.2", addr, "rude"); err == nil {
		t.Errorf("more than %d connections from one address", most)
	}
	prototest.Until(t, "the share to be taken", func() bool { return s.Counters().Memory > memory/4-(headRoom+maxPiece) })
	served("while another address asks for more than it gets")
	if n := s.Counters(); n.Memory > memory/4 || n.Attached != most+1 || n.Refused != 1 {
		t.Errorf("meanwhile %+v", n)
	}

	for _, conn := range rude {
		conn.SetLinger(0)
		conn.Close()
	}
	asking.Wait()
	served("while its connections end")
	prototest.Until(t, "nothing of it to be left", func() bool {
		n := s.Counters()
		return n.Open == 1 && n.Attached == 1 && n.Memory == 0
	})
	// The sockets took some of what it asked for, and each connection has two requests under way.
	if n := read.Load(); n > most*4*length {
		t.Errorf("%d MiB were read for it, of %d that it asked for", n>>20, most*100*length>>20)
	}
	served("afterwards")
	stop()
	if text := `peer=127.0.0.2 why="more than 16 connections from one address"`; strings.Count(log.String(), text) != 1 {
		t.Errorf("not one line %s in\n%s", text, log)
	}
}

// TestProbe: a peer that connects and leaves without a word is not logged.
func TestProbe(t *testing.T) {
	s := &Server{}
	addr, log, _ := start(t, s)
	prototest.Probe(t, addr, log.String, func() (int, uint64) { n := s.Counters(); return n.Open, n.Accepted })
}
