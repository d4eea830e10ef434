package nvmetcp

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"netroot/internal/prototest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// memory is a Backend whose every 16 bytes hold their number.
type memory struct {
	size int64
	read func(p []byte, off int64) (int, error) // instead, when set
}

func (d *memory) Size() int64 { return d.size }

func (d *memory) ReadAt(p []byte, off int64) (int, error) {
	if d.read != nil {
		return d.read(p, off)
	}
	if off+int64(len(p)) > d.size {
		return 0, errors.New("past the end")
	}
	for i := range p {
		p[i] = byte((off + int64(i)) / 16)
	}
	return len(p), nil
}

const (
	rootNQN  = "nqn.2026-01.test:root"
	hugeNQN  = "nqn.2026-01.test:huge"
	badNQN   = "nqn.2026-01.test:bad"
	panicNQN = "nqn.2026-01.test:panic"
	hostNQN  = "nqn.2026-01.test:host"

	smallDisk = 8<<10 + 100
)

// subsystem returns a disk as test servers have it.
func subsystem(nqn string, b Backend) *Subsystem {
	s := NewSubsystem([32]byte{0xd1, 0xd2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17}, "test disk", b)
	s.NQN = nqn
	return s
}

// subsystems are what test servers offer.
func subsystems(_ context.Context, nqn string) (*Subsystem, error) {
	failing := func(p []byte, off int64) (int, error) {
		if off+int64(len(p)) > 4096 {
			return 0, errors.New("bad sector")
		}
		return (&memory{size: smallDisk}).ReadAt(p, off)
	}
	switch nqn {
	case rootNQN:
		return subsystem(nqn, &memory{size: smallDisk}), nil
	case hugeNQN:
		s := subsystem(nqn, &memory{size: 64<<20 + 5})
		s.BlockSize = 4096
		return s, nil
	case badNQN:
		return subsystem(nqn, &memory{size: smallDisk, read: failing}), nil
	case panicNQN:
		return subsystem(nqn, &memory{size: smallDisk, read: func([]byte, int64) (int, error) { panic("backend") }}), nil
	case "nqn.2026-01.test:empty":
		return subsystem(nqn, &memory{}), nil
	case "nqn.2026-01.test:nothing":
		return nil, nil
	}
	return nil, fmt.Errorf("%w: no label %q", ErrUnknown, nqn)
}

func listed(context.Context) ([]Subsystem, error) {
	return []Subsystem{{NQN: rootNQN}, {NQN: hugeNQN}}, nil
}

// start serves on a port of the loopback until the test ends. Controllers count from 1.
func start(t testing.TB, s *Server) (addr string, log *prototest.Log) {
	t.Helper()
	log = &prototest.Log{}
	s.Log = slog.New(slog.NewTextHandler(log, nil))
	if s.Lookup == nil {
		s.Lookup = subsystems
	}
	if s.List == nil {
		s.List = listed
	}
	if s.newID == nil {
		s.newID = func() uint16 { return 1 }
	}
	t.Cleanup(func() { // runs after the server's end
		if n := s.Counters(); len(s.controllers) != 0 || n.Open != 0 || n.Attached != 0 || n.Memory != 0 {
			t.Errorf("left over: %d controllers, %+v", len(s.controllers), n)
		}
	})
	addr, _ = prototest.Serve(t, s.Serve)
	return addr, log
}

func dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	conn := prototest.Dial(t, addr)
	conn.SetDeadline(time.Now().Add(6 * patience))
	return conn
}

// host is one queue of a host: enough of one to ask things.
type host struct {
	t       testing.TB
	conn    net.Conn
	digests uint8
	align   int
	noFlow  bool
	nqn     string
	id      uint16 // of its controller
}

// ic exchanges ICReq and ICResp.
func ic(t testing.TB, conn net.Conn, digests uint8, align int) *host {
	t.Helper()
	req := head{kind: pduICReq, hlen: icSize, plen: icSize}.append(make([]byte, 0, icSize))
	req = append(req, 0, 0, uint8(align/4-1), digests)
	if _, err := conn.Write(req[:icSize]); err != nil {
		t.Fatal(err)
	}
	var got [icSize]byte
	if _, err := io.ReadFull(conn, got[:]); err != nil || parseHead(got[:]) != (head{pduICResp, 0, icSize, 0, icSize}) || got[11] != digests {
		t.Fatalf("ICResp: %v, %x", err, got)
	}
	return &host{t: t, conn: conn, digests: digests, align: align}
}

// sqe makes a command: dwords from 10 on.
func sqe(op uint8, nsid uint32, dwords ...uint32) command {
	var c command
	c.sqe[0], c.sqe[1] = op, psdtSGL
	le.PutUint32(c.sqe[4:], nsid)
	for i, d := range dwords {
		le.PutUint32(c.sqe[40+4*i:], d)
	}
	return c
}

// numbered gives it a number.
func (c command) numbered(id uint16) command {
	le.PutUint16(c.sqe[2:], id)
	return c
}

// returning says that it has room for n bytes of data.
func (c command) returning(n int) command {
	le.PutUint32(c.sqe[32:], uint32(n))
	c.sqe[39] = sglByTransfer
	return c
}

// with gives it data in its capsule.
func (c command) with(data []byte) command {
	le.PutUint32(c.sqe[32:], uint32(len(data)))
	c.sqe[39] = sglInCapsule
	c.data = data
	return c
}

func read(block uint64, count, size int) command {
	return sqe(opRead, namespaceID, uint32(block), uint32(block>>32), uint32(count-1)).returning(size)
}

func fabrics(kind uint8, dwords ...uint32) command { return sqe(opFabrics, uint32(kind), dwords...) }

func (h *host) pdu(c command) []byte {
	begin := commandSize
	if h.digests&1 != 0 {
		begin += digestSize
	}
	p := head{kind: pduCommand, flags: h.digests & 1, hlen: commandSize, plen: uint32(begin)}
	if len(c.data) > 0 {
		p.pdo, p.plen = uint8(begin), uint32(begin+len(c.data))
		if h.digests&2 != 0 {
			p.flags |= flagDataDigest
			p.plen += digestSize
		}
	}
	b := append(p.append(nil), c.sqe[:]...)
	if h.digests&1 != 0 {
		b = appendDigest(b, b)
	}
	b = append(b, c.data...)
	if p.flags&flagDataDigest != 0 {
		b = appendDigest(b, c.data)
	}
	return b
}

func (h *host) send(c command) {
	h.t.Helper()
	if _, err := h.conn.Write(h.pdu(c)); err != nil {
		h.t.Fatal(err)
	}
}

// answer is what became of one command.
type answer struct {
	id     uint16
	data   []byte
	result uint64
	status status
	head   uint16 // of the queue
}

// receive reads one PDU, and checks all that the specification says of its form.
func (h *host) receive() (p head, b []byte) {
	h.t.Helper()
	b = make([]byte, headSize)
	if _, err := io.ReadFull(h.conn, b); err != nil {
		h.t.Fatal(err)
	}
	p = parseHead(b)
	b = append(b, make([]byte, p.plen-headSize)...)
	if _, err := io.ReadFull(h.conn, b[headSize:]); err != nil {
		h.t.Fatal(err)
	}
	if p.kind == pduC2HTerm {
		return p, b
	}
	if p.flags&flagHeaderDigest != h.digests&1 {
		h.t.Fatalf("header digest is not as agreed: %+v", p)
	}
	if h.digests&1 != 0 && le.Uint32(b[p.hlen:]) != crc32.Checksum(b[:p.hlen], castagnoli) {
		h.t.Fatalf("wrong header digest: %x", b)
	}
	return p, b
}

// next collects PDUs until a command is answered; data are what came for others in between.
func (h *host) next(data map[uint16][]byte) answer {
	h.t.Helper()
	for {
		p, b := h.receive()
		switch {
		case p.kind == pduResponse && p.hlen == responseSize:
			a := answer{id: le.Uint16(b[20:]), result: le.Uint64(b[8:]), status: status(le.Uint16(b[22:]) >> 1), head: le.Uint16(b[16:])}
			a.data = data[a.id]
			return a
		case p.kind == pduC2HData && p.hlen == dataHeadSize:
			id, off, n := le.Uint16(b[8:]), le.Uint32(b[12:]), le.Uint32(b[16:])
			payload := b[p.pdo:][:n]
			if int(p.pdo)%h.align != 0 || int(off) != len(data[id]) {
				h.t.Fatalf("data of command %d at byte %d of its PDU, offset %d after %d", id, p.pdo, off, len(data[id]))
			}
			if h.digests&2 != 0 && le.Uint32(b[int(p.pdo)+int(n):]) != crc32.Checksum(payload, castagnoli) {
				h.t.Fatalf("wrong digest of %d bytes", n)
			}
			data[id] = append(data[id], payload...)
			if p.flags&flagSuccess != 0 {
				if !h.noFlow || p.flags&flagLast == 0 {
					h.t.Fatalf("success told at the wrong place: %+v", p)
				}
				return answer{id: id, data: data[id]}
			}
		default:
			h.t.Fatalf("PDU %+v: %x", p, b)
		}
	}
}

// do asks and waits for the answer.
func (h *host) do(c command) answer {
	h.t.Helper()
	h.send(c)
	return h.next(map[uint16][]byte{})
}

// must is do for a command that must succeed.
func (h *host) must(c command) answer {
	h.t.Helper()
	a := h.do(c)
	if a.status != statusSuccess {
		h.t.Fatalf("command %x: status %#x", c.sqe, a.status)
	}
	return a
}

// connectCommand makes a Connect.
func connectCommand(qid, size, cntlid uint16, attributes uint8, kato time.Duration, nqn, host string) command {
	data := make([]byte, connectSize)
	copy(data, "0123456789abcdef")
	le.PutUint16(data[connectCntlidAt:], cntlid)
	copy(data[connectNQNAt:], nqn)
	copy(data[connectHostAt:], host)
	return fabrics(fabricsConnect, uint32(qid)<<16, uint32(size)|uint32(attributes)<<16, uint32(kato/time.Millisecond)).with(data)
}

var enable = fabrics(fabricsPropertySet, 0, propCC, ccOurShape|ccEnable)

// attach makes a controller on a new connection and enables it.
func attach(t testing.TB, addr, nqn string) *host {
	t.Helper()
	h := ic(t, dial(t, addr), 0, 4)
	h.nqn = nqn
	h.id = uint16(h.must(connectCommand(0, 31, anyController, 0, 0, nqn, hostNQN)).result)
	h.must(enable)
	return h
}

// queue connects an I/O queue of the controller of h.
func (h *host) queue(addr string, qid uint16, digests uint8, align int, noFlow bool) *host {
	h.t.Helper()
	q := ic(h.t, dial(h.t, addr), digests, align)
	q.noFlow = noFlow
	attributes := flagOf(noFlow, 4)
	if a := q.must(connectCommand(qid, 127, h.id, attributes, 0, h.nqn, hostNQN)); a.result != uint64(h.id) {
		h.t.Fatalf("queue of controller %d: %d", h.id, a.result)
	}
	return q
}
