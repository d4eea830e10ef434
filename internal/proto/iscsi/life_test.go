package iscsi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// client is an initiator in the full feature phase.
type client struct {
	conn net.Conn
	digests
	sn   uint32 // of the next command
	most uint32 // MaxCmdSN, as the target said last
}

func config(target string) LoginConfig {
	cfg := node
	cfg.Target = prefix + target
	be.PutUint32(cfg.ISID[2:], rand.Uint32())
	return cfg
}

func loginAs(t testing.TB, addr string, cfg LoginConfig) *client {
	t.Helper()
	conn := dial(t, addr)
	s, err := Login(t.Context(), conn, cfg)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(6 * patience))
	return &client{conn: conn, digests: digests{s.HeaderDigest, s.DataDigest}, sn: s.CmdSN}
}

// attach logs in to a target, as a session of its own.
func attach(t testing.TB, addr, target string) *client {
	t.Helper()
	return loginAs(t, addr, config(target))
}

func (c *client) send(h header) error {
	b := c.appendPDU(nil, &h, nil)
	c.seal(b)
	_, err := c.conn.Write(b)
	return err
}

func (c *client) ping(tag uint32) error {
	h := header{opNopOut | flagImmediate, flagFinal}
	be.PutUint32(h[16:], tag)
	be.PutUint32(h[20:], noTag)
	be.PutUint32(h[24:], c.sn)
	return c.send(h)
}

// read asks for blocks.
func (c *client) read(tag, lba, blocks uint32) error {
	h := header{opCommand, flagFinal | flagRead}
	be.PutUint32(h[16:], tag)
	be.PutUint32(h[20:], blocks*blockSize)
	be.PutUint32(h[24:], c.sn)
	h[32] = scsiRead12
	be.PutUint32(h[34:], lba)
	be.PutUint32(h[38:], blocks)
	c.sn++
	return c.send(h)
}

// manage sends an immediate task management request.
func (c *client) manage(tag uint32, function byte, about uint32) error {
	h := header{opTaskRequest | flagImmediate, flagFinal | function}
	be.PutUint32(h[16:], tag)
	be.PutUint32(h[20:], about)
	be.PutUint32(h[24:], c.sn)
	return c.send(h)
}

// next reads one PDU.
func (c *client) next() (header, []byte, error) {
	var h header
	data, err := c.digests.read(c.conn, &h, mostLength)
	c.most = be.Uint32(h[32:])
	return h, data, err
}

// wants reads PDUs and returns the data of the first READ that ends well, by its tag.
func (c *client) wants(parts map[uint32][]byte) (tag uint32, data []byte, err error) {
	for {
		h, data, err := c.next()
		if err != nil {
			return 0, nil, err
		}
		if h.op() != opDataIn {
			return 0, nil, fmt.Errorf("PDU %#02x, status %d, % x", h.op(), h[3], data)
		}
		tag := h.tag()
		if at := be.Uint32(h[40:]); int(at) != len(parts[tag]) {
			return 0, nil, fmt.Errorf("data at %d, %d is next", at, len(parts[tag]))
		}
		parts[tag] = append(parts[tag], data...)
		if h[1]&flagStatus != 0 {
			return tag, parts[tag], nil
		}
	}
}

// mustRead reads blocks and waits for them.
func (c *client) mustRead(t *testing.T, blocks uint32) {
	t.Helper()
	if err := c.read(1, 0, blocks); err != nil {
		t.Fatal(err)
	}
	if _, data, err := c.wants(map[uint32][]byte{}); err != nil || len(data) != int(blocks)*blockSize {
		t.Fatalf("%d bytes, %v", len(data), err)
	}
}

// until waits for a fact.
func until(t *testing.T, what string, fact func() bool) {
	t.Helper()
	end := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !fact() {
		select {
		case <-end:
			t.Fatalf("waited %v for: %s", patience, what)
		case <-tick.C:
		}
	}
}

// TestManyClients reads from many connections with many commands under way, of all sizes, with and without
// digests, and looks at every byte. The race detector has most to say here.
func TestManyClients(t *testing.T) {
	s := &Server{MaxBuffer: 2 * bufferSize(maxBuffer)} // so that some go without
	addr, _, _ := start(t, s)
	want := &memory{size: 128 << 20}
	var clients sync.WaitGroup
	for n := range 8 {
		cfg := config("big")
		cfg.HeaderDigest, cfg.DataDigest = n&1 != 0, n&2 != 0
		cfg.MaxReceive = 512 + uint32(n)*30001
		c := loginAs(t, addr, cfg)
		rnd := rand.New(rand.NewPCG(1, uint64(n)))
		const commands = 64
		var lbas, blocks [commands]uint32
		for i := range commands {
			blocks[i] = 1 + rnd.Uint32N(1<<rnd.IntN(12))
			lbas[i] = rnd.Uint32N(uint32(want.size/blockSize) - blocks[i])
		}
		clients.Go(func() {
			for i := range commands {
				if err := c.read(uint32(i), lbas[i], blocks[i]); err != nil {
					t.Error(err)
				}
			}
		})
		clients.Go(func() {
			parts := map[uint32][]byte{}
			for range commands {
				tag, data, err := c.wants(parts)
				if err != nil || tag >= commands {
					t.Errorf("command %d: %v", tag, err)
					return
				}
				expect := make([]byte, int(blocks[tag])*blockSize)
				want.ReadAt(expect, int64(lbas[tag])*blockSize)
				if !bytes.Equal(data, expect) {
					t.Errorf("wrong bytes at block %d, %d", lbas[tag], blocks[tag])
				}
			}
		})
	}
	clients.Wait()
	until(t, "memory to come back", func() bool {
		free := s.memory.TryAcquire(s.MaxBuffer)
		if free {
			s.memory.Release(s.MaxBuffer)
		}
		return free
	})
}

// gate is a disk whose reads wait until they are let through.
type gate struct {
	memory
	waiting atomic.Int32
	open    chan struct{}
}

func newGate() *gate {
	g := &gate{open: make(chan struct{})}
	g.memory = memory{size: 64 << 20, read: func(p []byte, off int64) (int, error) {
		g.waiting.Add(1)
		<-g.open
		g.waiting.Add(-1)
		return len(p), nil
	}}
	return g
}

func serving(b Backend) func(context.Context, string) (*Target, error) {
	return func(_ context.Context, name string) (*Target, error) { return &Target{Name: name, Backend: b}, nil }
}

const bigBlocks = quickRead/blockSize + 1 // run beside others

// TestCommandsAreBounded: sixteen commands run, the rest of the window waits, and what is beyond it is not
// answered. Meanwhile pings are.
func TestCommandsAreBounded(t *testing.T) {
	g := newGate()
	addr, _, _ := start(t, &Server{Lookup: serving(g)})
	c := attach(t, addr, "")
	for i := range uint32(window + 3) {
		if err := c.read(i, 0, bigBlocks); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "commands that run", func() bool { return g.waiting.Load() == maxRunning })
	c.ping(1000)
	if h, _, err := c.next(); err != nil || h.op() != opNopIn || be.Uint32(h[28:]) != firstCmdSN+window || c.most != firstCmdSN+window-1 {
		t.Errorf("% x, %v", h, err)
	}
	close(g.open)
	parts := map[uint32][]byte{}
	for range window {
		if _, _, err := c.wants(parts); err != nil {
			t.Fatal(err)
		}
	}
	if len(parts) != window || c.most != firstCmdSN+2*window-1 {
		t.Errorf("%d different answers, window to %d", len(parts), c.most)
	}
	c.sn = firstCmdSN + window // what was beyond the window is sent again
	if err := c.read(7, 0, 1); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.wants(map[uint32][]byte{}); err != nil {
		t.Error(err)
	}
}

// TestTooManyImmediate: immediate commands are not in the window, and bounded all the same. A tag is one task's.
func TestTooManyImmediate(t *testing.T) {
	g := newGate()
	addr, _, _ := start(t, &Server{Lookup: serving(g)})
	defer close(g.open)
	c := attach(t, addr, "")
	for i := range uint32(maxTasks + 1) {
		h := header{opCommand | flagImmediate, flagFinal | flagRead}
		be.PutUint32(h[16:], i)
		be.PutUint32(h[20:], bigBlocks*blockSize)
		be.PutUint32(h[24:], c.sn)
		h[32] = scsiRead12
		be.PutUint32(h[38:], bigBlocks)
		if err := c.send(h); err != nil {
			t.Fatal(err)
		}
	}
	if h, _, err := c.next(); err != nil || h.op() != opReject || h[2] != rejectTooMany {
		t.Errorf("% x, %v", h, err)
	}
	c.read(5, 0, 1)
	if h, data, err := c.next(); err != nil || h.op() != opReject || h[2] != rejectTask || !bytes.HasPrefix(data, []byte{opCommand}) || c.most != firstCmdSN+window {
		t.Errorf("% x, % x, %v", h, data, err)
	}
}

// TestAbort: a task that runs, one that waits, and all of them; none says anything after, and their tags and
// places in the window are free.
func TestAbort(t *testing.T) {
	g := newGate()
	addr, _, _ := start(t, &Server{Lookup: serving(g)})
	c := attach(t, addr, "")
	const tasks = maxRunning + 4
	for i := range uint32(tasks) {
		c.read(i, 0, bigBlocks)
	}
	until(t, "tasks that run", func() bool { return g.waiting.Load() == maxRunning })
	answered := func(want byte) {
		t.Helper()
		if h, _, err := c.next(); err != nil || h.op() != opTaskResponse || h[2] != want {
			t.Fatalf("% x, %v", h, err)
		}
	}
	c.manage(100, taskAbort, 3)
	answered(taskDone)
	c.manage(101, taskAbort, tasks-1)
	answered(taskDone)
	c.manage(102, taskAbort, tasks-1)
	answered(taskUnknown)
	if c.most != firstCmdSN+window-1+2 {
		t.Errorf("window to %d", c.most)
	}
	c.manage(103, taskResetLUN, noTag)
	answered(taskDone)
	if c.most != firstCmdSN+window-1+tasks {
		t.Errorf("window to %d", c.most)
	}
	c.read(3, 0, bigBlocks) // the tag of one that runs still
	close(g.open)
	if tag, data, err := c.wants(map[uint32][]byte{}); tag != 3 || len(data) != bigBlocks*blockSize || err != nil {
		t.Errorf("tag %d, %d bytes, %v", tag, len(data), err)
	}
	c.ping(9)
	if h, _, err := c.next(); err != nil || h.op() != opNopIn {
		t.Errorf("% x, %v", h, err)
	}
}

// TestLogoutEndsTasks: what runs is not answered after a logout.
func TestLogoutEndsTasks(t *testing.T) {
	g := newGate()
	addr, _, _ := start(t, &Server{Lookup: serving(g)})
	c := attach(t, addr, "")
	c.read(1, 0, bigBlocks)
	until(t, "the read", func() bool { return g.waiting.Load() == 1 })
	h := header{opLogout | flagImmediate, flagFinal}
	be.PutUint32(h[24:], c.sn)
	c.send(h)
	if h, _, err := c.next(); err != nil || h.op() != opLogoutReply || h[2] != 0 {
		t.Errorf("% x, %v", h, err)
	}
	if _, _, err := c.next(); err != io.EOF {
		t.Errorf("after the logout: %v", err)
	}
	close(g.open)
}

// TestSlowBackendGoesParallel: small reads are served one after the other while they are quick, and beside each
// other once one had to wait.
func TestSlowBackendGoesParallel(t *testing.T) {
	g := newGate()
	gated := g.memory.read
	first := true // read by one goroutine, then written, before there are others
	g.memory.read = func(p []byte, off int64) (int, error) {
		if first {
			first = false
			<-time.After(2 * slowBackend)
			return len(p), nil
		}
		return gated(p, off)
	}
	addr, _, _ := start(t, &Server{Lookup: serving(g)})
	c := attach(t, addr, "")
	for i := range uint32(maxRunning + 1) {
		c.read(i, 0, 1)
	}
	until(t, "reads beside each other", func() bool { return g.waiting.Load() == maxRunning })
	close(g.open)
	for range maxRunning + 1 {
		if _, _, err := c.wants(map[uint32][]byte{}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestStalledClientsDoNotStopOthers: an initiator that does not take what it asked for holds all of the
// server's memory; another's reads go on, small and large.
func TestStalledClientsDoNotStopOthers(t *testing.T) {
	s := &Server{MaxBuffer: bufferSize(maxBuffer)}
	addr, _, _ := start(t, s)
	stalled := attach(t, addr, "big")
	stalled.read(1, 0, maxBlocks)
	until(t, "all memory to be taken", func() bool {
		free := s.memory.TryAcquire(1)
		if free {
			s.memory.Release(1)
		}
		return !free
	})
	c := attach(t, addr, "big")
	for i := range uint32(40) {
		c.read(i, 0, 1+2048*(i&1))
	}
	parts := map[uint32][]byte{}
	for range 40 {
		if _, _, err := c.wants(parts); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSessionIsTakenOver: a login with the same names and ISID ends the session before it, another's does not.
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
	until(t, "the old session to leave", func() bool {
		return strings.Contains(log.String(), `why="the initiator logged in again"`) && len(s.Active()) == 4
	})
	if !strings.Contains(log.String(), `msg="iscsi: session taken over" peer=127.0.0.1 from=127.0.0.1 initiator=`+cfg.Initiator) {
		t.Error(log)
	}
}

// TestRejoin: a login with the handle of a session that is there takes its place with the same connection
// number, and is refused with another.
func TestRejoin(t *testing.T) {
	addr, _, _ := start(t, &Server{})
	cfg := config("root")
	conn := dial(t, addr)
	s, err := Login(t.Context(), conn, cfg)
	if err != nil {
		t.Fatal(err)
	}
	join := func(tsih, cid uint16, isid [6]byte) header {
		again := dial(t, addr)
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

// TestServeEnds: with clients in every state, it ends after the second of grace for the one that does
// not take its reply.
func TestServeEnds(t *testing.T) {
	s := &Server{List: list}
	addr, log, stop := start(t, s)
	dial(t, addr)           // says nothing
	attach(t, addr, "root") // idle
	stalled := attach(t, addr, "big")
	stalled.read(1, 0, maxBlocks)
	until(t, "all clients", func() bool {
		return len(s.Active()) == 2 && s.open.Load() == 3 && !s.memory.TryAcquire(s.MaxBuffer)
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
	s := &Server{MaxConns: 2}
	addr, log, _ := start(t, s)
	first := attach(t, addr, "root")
	attach(t, addr, "root")
	_, err := Login(t.Context(), dial(t, addr), config("root"))
	if refused := new(LoginError); !errors.As(err, &refused) || refused.Status != StatusNoResources || !refused.Status.Temporary() {
		t.Errorf("third: %v", err)
	}
	if !strings.Contains(log.String(), `why="more than 2 connections"`) {
		t.Error(log)
	}
	first.conn.Close()
	until(t, "the first to be gone", func() bool { return s.open.Load() == 1 })
	attach(t, addr, "root")
	for range spareConns + 8 {
		dial(t, addr)
	}
	until(t, "no more to be let in", func() bool { return strings.Count(log.String(), "more than 2 connections") > 1 })
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
		conn := dial(t, addr)
		Login(t.Context(), conn, config(target))
		conn.Close()
		until(t, "the connection to be gone", func() bool { return s.open.Load() == 0 })
		if o, r := opened.Load(), released.Load(); o != 1 || r != 1 {
			t.Errorf("%s: opened %d, released %d", target, o, r)
		}
	}
}

func TestStats(t *testing.T) {
	var mu sync.Mutex
	var seen []Stat
	s := &Server{Observe: func(st Stat) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, st)
	}}
	addr, _, stop := start(t, s)
	c := attach(t, addr, "big")
	c.mustRead(t, 1)
	c.mustRead(t, bigBlocks)
	const bytes = (1 + bigBlocks) * blockSize
	read := Stat{Peer: c.conn.LocalAddr().String(), Initiator: node.Initiator, Target: prefix + "big", Reads: 2, Bytes: bytes}
	apart := cmpopts.IgnoreFields(Stat{}, "Since")
	until(t, "the second read to be counted", func() bool { return cmp.Equal(s.Active(), []Stat{read}, apart) })
	c.conn.Close()
	until(t, "the client to leave", func() bool { return len(s.Active()) == 0 })
	stop()
	begun, done := read, read
	begun.Reads, begun.Bytes, done.Done = 0, 0, true
	if d := cmp.Diff([]Stat{begun, done}, seen, apart); d != "" {
		t.Error(d)
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
		"says nothing":   {func(net.Conn) {}, requestTimeout},
		"half a request": {func(conn net.Conn) { conn.Write(request[:60]) }, requestTimeout},
		"reads nothing":  {func(conn net.Conn) { conn.Write(request) }, writeTimeout},
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
		}, writeTimeout},
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
				s.serve(t.Context(), conn, false)
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
