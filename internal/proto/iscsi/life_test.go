package iscsi

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"netroot/internal/proto/accept"
	"netroot/internal/prototest"
)

const bufferSize = maxBuffer + headRoom // of the largest piece of a READ

// TestManyClients reads from many connections with many commands under way, of all sizes, with and
// without digests, and looks at every byte. The race detector has most to say here.
func TestManyClients(t *testing.T) {
	s := &Server{Options: accept.Options{MaxBuffer: 2 * bufferSize}} // so that some go without
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
	prototest.Until(t, "memory to come back", func() bool { return s.Counters().Memory == 0 })
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

// TestCommandsAreBounded: sixteen commands run, the rest of the window waits, and what is beyond it
// is not answered. Meanwhile pings are.
func TestCommandsAreBounded(t *testing.T) {
	g := newGate()
	addr, _, _ := start(t, &Server{Lookup: serving(g)})
	c := attach(t, addr, "")
	for i := range uint32(window + 3) {
		if err := c.read(i, 0, bigBlocks); err != nil {
			t.Fatal(err)
		}
	}
	prototest.Until(t, "commands that run", func() bool { return g.waiting.Load() == maxRunning })
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

// TestTooManyImmediate: immediate commands are not in the window, and bounded all the same. A tag
// is one task's.
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

// TestAbort: a task that runs, one that waits, and all of them; none says anything after, and their
// tags and places in the window are free.
func TestAbort(t *testing.T) {
	g := newGate()
	addr, _, _ := start(t, &Server{Lookup: serving(g)})
	c := attach(t, addr, "")
	const tasks = maxRunning + 4
	for i := range uint32(tasks) {
		c.read(i, 0, bigBlocks)
	}
	prototest.Until(t, "tasks that run", func() bool { return g.waiting.Load() == maxRunning })
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
	prototest.Until(t, "the read", func() bool { return g.waiting.Load() == 1 })
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

// TestSlowBackendGoesParallel: small reads are served one after the other while they are quick, and
// beside each other once one had to wait.
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
	prototest.Until(t, "reads beside each other", func() bool { return g.waiting.Load() == maxRunning })
	close(g.open)
	for range maxRunning + 1 {
		if _, _, err := c.wants(map[uint32][]byte{}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestStalledClientsDoNotStopOthers: an initiator that does not take what it asked for holds all of
// the server's memory; another's reads go on, small and large.
func TestStalledClientsDoNotStopOthers(t *testing.T) {
	s := &Server{Options: accept.Options{MaxBuffer: bufferSize}}
	addr, _, _ := start(t, s)
	stalled := attach(t, addr, "big")
	stalled.read(1, 0, maxBlocks)
	prototest.Until(t, "all memory to be taken", func() bool { return s.Counters().Memory == bufferSize })
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

// TestProbe: a peer that connects and leaves without a word is not logged.
func TestProbe(t *testing.T) {
	s := &Server{}
	addr, log, _ := start(t, s)
	prototest.Probe(t, addr, log.String, func() (int, uint64) { n := s.Counters(); return n.Open, n.Accepted })
}
