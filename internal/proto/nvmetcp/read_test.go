package nvmetcp

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"netroot/internal/proto/accept"
	"netroot/internal/prototest"
)

// want is what a read of a disk of size bytes returns.
func want(size, off int64, n int) []byte {
	b := make([]byte, n)
	if have := min(int64(n), size-off); have > 0 {
		(&memory{size: size}).ReadAt(b[:have], off)
	}
	return b
}

// TestReads reads over every combination of what ICReq and Connect can settle.
func TestReads(t *testing.T) {
	addr, _ := start(t, &Server{})
	const size = 64<<20 + 5
	for digests := range uint8(4) {
		for _, align := range []int{4, 32, 128} {
			for _, noFlow := range []bool{false, true} {
				t.Run(fmt.Sprintf("digests %d align %d flow %v", digests, align, !noFlow), func(t *testing.T) {
					admin := attach(t, addr, hugeNQN)
					defer admin.conn.Close()
					q := admin.queue(addr, 1, digests, align, noFlow)
					defer q.conn.Close()
					for _, r := range [][2]int{{0, 1}, {7, 3}, {100, 16}, {5, 17}, {1000, 65}, {63, 256}, {size / 4096, 1}, {size/4096 - 9, 10}} {
						block, count := r[0], r[1]
						a := q.must(read(uint64(block), count, count*4096))
						if !bytes.Equal(a.data, want(size, int64(block)*4096, count*4096)) {
							t.Errorf("%d blocks at %d: wrong bytes", count, block)
						}
						if noFlow != (a.head == 0) { // a completion of its own was sent
							t.Errorf("head of the queue %#x", a.head)
						}
					}
				})
			}
		}
	}
}

// TestIOCommands: what is refused, and how.
func TestIOCommands(t *testing.T) {
	addr, log := start(t, &Server{})
	q := attach(t, addr, rootNQN).queue(addr, 1, 0, 4, false)
	const blocks = 17 // the last has 100 bytes
	for _, tt := range []struct {
		what string
		cmd  command
		want status
	}{
		{"last block", read(blocks-1, 1, 512), statusSuccess},
		{"all blocks", read(0, blocks, blocks*512), statusSuccess},
		{"more room than needed", read(0, 1, 4096), statusSuccess},
		{"one block too many", read(0, blocks+1, (blocks+1)*512), statusRange},
		{"behind the end", read(blocks, 1, 512), statusRange},
		{"far behind the end", read(1<<63, 1, 512), statusRange},
		{"last block there can be", read(1<<64-1, 1, 512), statusRange},
		{"too large", read(0, 2049, 2049*512), statusField},
		{"room too small", read(0, 2, 512), statusSGLLength},
		{"no room", read(0, 1, 512).with([]byte{1, 2, 3, 4}), statusSGLType},
		{"other namespace", sqe(opRead, 2).returning(512), statusNamespace},
		{"write", sqe(opWrite, 1).returning(512), statusProtected},
		{"write uncorrectable", sqe(opWriteUncor, 1), statusProtected},
		{"write zeroes", sqe(opWriteZeroes, 1), statusProtected},
		{"dataset management", sqe(opDSM, 1).with(make([]byte, 16)), statusProtected},
		{"write elsewhere", sqe(opWrite, 7), statusNamespace},
		{"flush", sqe(opFlush, 1), statusSuccess},
		{"compare", sqe(0x05, 1), statusOpcode},
		{"unknown", sqe(0xc7, 1), statusOpcode},
		{"connect again", connectCommand(1, 127, 1, 0, 0, rootNQN, hostNQN), statusSequence},
		{"property on an I/O queue", fabrics(fabricsPropertyGet, 1, propCAP), statusOpcode},
		{"fused", func() command { c := read(0, 1, 512); c.sqe[1] |= 1; return c }(), statusField},
		{"page list", func() command { c := read(0, 1, 512); c.sqe[1] = 0; return c }(), statusField},
	} {
		a := q.do(tt.cmd.numbered(0x1234))
		if a.status != tt.want || a.id != 0x1234 {
			t.Errorf("%s: command %#x, status %#x, want %#x", tt.what, a.id, a.status, tt.want)
		}
		if n := len(a.data); (n > 0) != (tt.cmd.opcode() == opRead && tt.want == statusSuccess) {
			t.Errorf("%s: %d bytes", tt.what, n)
		}
	}
	const told = `client=nqn.2026-01.test:host export=nqn.2026-01.test:root opcode=2 lba=0 blocks=18 why="past the end of the namespace"`
	if !log.Has(told)() || strings.Count(log.String(), "command refused") != 1 {
		t.Errorf("not one line with %s:\n%s", told, log)
	}
}

// TestDamagedData: a data digest that does not match fails the command and not the connection.
func TestDamagedData(t *testing.T) {
	addr, _ := start(t, &Server{})
	q := attach(t, addr, rootNQN).queue(addr, 1, 2, 4, false)
	b := q.pdu(sqe(opWrite, 1).with(make([]byte, 512)))
	b[len(b)-1] ^= 1
	if _, err := q.conn.Write(b); err != nil {
		t.Fatal(err)
	}
	if a := q.next(nil); a.status != statusTransient {
		t.Errorf("status %#x", a.status)
	}
	q.must(read(0, 1, 512))
}

// TestBackendFails: a bad sector is told as such and logged once; a panic ends one connection.
func TestBackendFails(t *testing.T) {
	addr, log := start(t, &Server{})
	q := attach(t, addr, badNQN).queue(addr, 1, 0, 4, false)
	q.must(read(0, 8, 4096))
	for range 3 {
		if a := q.do(read(1, 8, 4096)); a.status != statusReadError {
			t.Errorf("status %#x", a.status)
		}
	}
	q.must(read(0, 8, 4096))
	if n := strings.Count(log.String(), "bad sector"); n != 1 {
		t.Errorf("%d lines:\n%s", n, log)
	}
	admin := attach(t, addr, panicNQN)
	q = admin.queue(addr, 1, 0, 4, false)
	q.send(read(0, 1, 512))
	ended(t, q.conn)
	prototest.Until(t, "a line about it", log.Has("panic"))
	admin.must(sqe(opKeepAlive, 0))
}

// TestManyQueues reads from many queues with many commands under way, of all sizes, and looks at
// every byte. The race detector has most to say here.
func TestManyQueues(t *testing.T) {
	addr, _ := start(t, &Server{Options: accept.Options{MaxBuffer: 3 << 20}}) // less than they ask for together
	const size = 64<<20 + 5
	var queues sync.WaitGroup
	for n := range 3 {
		admin := attach(t, addr, hugeNQN)
		for qid := range uint16(3) {
			q := admin.queue(addr, qid+1, uint8(qid), 4, qid == 1)
			rnd := rand.New(rand.NewPCG(uint64(n), uint64(qid)))
			const requests = 48
			var blocks, counts [requests]int
			for i := range requests {
				counts[i] = 1 + rnd.IntN(1<<rnd.IntN(8))
				blocks[i] = rnd.IntN(size/4096 - counts[i])
			}
			queues.Go(func() {
				for i := range requests {
					q.conn.Write(q.pdu(read(uint64(blocks[i]), counts[i], counts[i]*4096).numbered(uint16(i))))
				}
			})
			queues.Go(func() {
				data := map[uint16][]byte{}
				for range requests {
					a := q.next(data)
					if i := a.id; a.status != statusSuccess || !bytes.Equal(a.data, want(size, int64(blocks[i])*4096, counts[i]*4096)) {
						t.Errorf("%d blocks at %d: status %#x or wrong bytes", counts[i], blocks[i], a.status)
					}
				}
			})
		}
	}
	queues.Wait()
}

// gate is a disk whose reads wait until they are let through.
type gate struct {
	memory
	waiting atomic.Int32
	open    chan struct{}
}

func newGate(size int64) *gate {
	g := &gate{open: make(chan struct{})}
	g.memory = memory{size: size, read: func(p []byte, off int64) (int, error) {
		g.waiting.Add(1)
		<-g.open
		g.waiting.Add(-1)
		return len(p), nil
	}}
	return g
}

const bufferSize = headRoom + maxTransfer + tailRoom // of the largest read

// TestInFlightIsBounded: a connection has so many reads under way, and the next must wait; others
// go on, though all the memory is taken.
func TestInFlightIsBounded(t *testing.T) {
	g := newGate(1 << 20)
	s := &Server{Lookup: serving(g), Options: accept.Options{MaxBuffer: connInFlight * bufferSize}}
	addr, _ := start(t, s)
	admin := attach(t, addr, rootNQN)
	q := admin.queue(addr, 1, 0, 4, false)
	for i := range 3 * connInFlight {
		q.send(read(0, 2048, 1<<20).numbered(uint16(i)))
	}
	prototest.Until(t, "reads under way", func() bool { return g.waiting.Load() == connInFlight })
	second := admin.queue(addr, 2, 0, 4, false)
	second.send(read(0, 1024, 512<<10))
	prototest.Until(t, "a read of another connection", func() bool { return g.waiting.Load() == connInFlight+1 })
	if n := s.Counters().Memory; n != connInFlight*bufferSize {
		t.Errorf("%d bytes of memory are taken", n)
	}
	close(g.open)
	if a := second.next(map[uint16][]byte{}); a.status != statusSuccess || len(a.data) != 512<<10 {
		t.Errorf("%d bytes, status %#x", len(a.data), a.status)
	}
	data := map[uint16][]byte{}
	for range 3 * connInFlight {
		a := q.next(data)
		if len(a.data) != 1<<20 {
			t.Errorf("%d bytes", len(a.data))
		}
		delete(data, a.id)
	}
}

// TestPadded: what is behind the end is zeroes, and a source that is shorter than it said is an
// error.
func TestPadded(t *testing.T) {
	for _, tt := range []struct {
		size, off int64
		n         int
		want      string
		err       error
	}{
		{4, 0, 4, "abcd", nil}, {4, 2, 4, "cd\x00\x00", nil}, {4, 4, 2, "\x00\x00", nil}, {4, 9, 1, "\x00", nil},
		{3, 0, 4, "abc\x00", nil}, {6, 2, 4, "", io.ErrUnexpectedEOF}, {8, 6, 2, "", io.ErrUnexpectedEOF},
	} {
		b := bytes.Repeat([]byte{'x'}, tt.n)
		n, err := padded{strings.NewReader("abcd"), tt.size}.ReadAt(b, tt.off)
		if err != tt.err || err == nil && (n != tt.n || string(b) != tt.want) {
			t.Errorf("%+v: %d, %q, %v", tt, n, b, err)
		}
	}
}
