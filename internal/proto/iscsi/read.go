package iscsi

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"io"
	"time"
)

const (
	quickRead   = 256 << 10              // bytes up to which a READ is quick,
	slowBackend = 200 * time.Microsecond // unless the last one took longer
)

// statusCheck is CHECK CONDITION (SAM-5 §5.3.1); all else is GOOD, 0.
const statusCheck byte = 0x02

// stream is the data of one command on its way to the initiator.
type stream struct {
	t     *task
	from  io.ReaderAt
	off   int64 // of its first byte in from
	all   int64 // bytes that the command asks for
	total int64 // of those, what the initiator takes
	sent  int64
	pdus  uint32
	burst int64 // bytes of the sequence under way
}

// run answers t: Data-In with the status in the last one (RFC 7143 §11.7), or a response.
func (c *conn) run(ctx context.Context, t *task) error {
	if t.sense != (sense{}) {
		return c.respond(&stream{t: t}, t.sense)
	}
	s := stream{t: t, from: c.disk, off: t.off, all: t.n}
	if t.n == 0 {
		s.from, s.all = bytes.NewReader(t.data), int64(len(t.data))
	}
	if s.total = min(s.all, t.room()); s.total == 0 {
		return c.respond(&s, sense{})
	}
	size := int(min(s.total, maxBuffer))
	lean := min(size, leanBuffer)
	p, full, err := c.Admit(ctx, c.srv.bufs.Size(size), c.srv.bufs.Size(lean))
	if err != nil {
		return err
	}
	defer c.Leave(p)
	if !full {
		size = lean
	}
	return c.stream(t, &s, size)
}

// stream sends the data of t through a buffer of size bytes.
func (c *conn) stream(t *task, s *stream, size int) error {
	buf := c.srv.bufs.Get(size)
	defer c.srv.bufs.Put(buf)
	for s.sent < s.total {
		if c.Failed() {
			return c.Cause(nil)
		}
		before := *s
		b, err := c.fill(*buf, s)
		if err != nil {
			*s = before // what was filled is not sent
			c.session.Failed("read failed, told the initiator a medium error", err,
				"offset", s.off+s.sent, "length", s.total-s.sent)
			return c.respond(s, senseUnreadable)
		}
		if s.sent == s.total && t.n > 0 {
			c.session.Read(int(s.total))
		}
		if err := c.send(b, t, s.sent == s.total); err != nil {
			return err
		}
	}
	return nil
}

// fill appends PDUs to b while there is data and room.
func (c *conn) fill(b []byte, s *stream) ([]byte, error) {
	begin := time.Now()
	for s.sent < s.total {
		n := min(s.total-s.sent, int64(c.maxSend.Load()), int64(c.maxBurst)-s.burst)
		room := int64(cap(b) - len(b) - c.headSize() - 2*digestSize)
		if n > room {
			if len(b) > 0 {
				break
			}
			n = room &^ 4095
		}
		at := len(b) + c.headSize()
		b = b[:at+int(n)]
		if k, err := s.from.ReadAt(b[at:], s.off+s.sent); int64(k) < n {
			return nil, err
		}
		b = c.finish(b, at, s, n)
	}
	if s.t.n > 0 && s.t.n <= quickRead {
		c.slow.Store(time.Since(begin) > slowBackend)
	}
	return b, nil
}

// finish writes the header in front of the n bytes at the end of b, which begin at, and what comes
// behind them.
func (c *conn) finish(b []byte, at int, s *stream, n int64) []byte {
	h := (*header)(b[at-c.headSize():])
	*h = header{opDataIn}
	h.setDataLen(int(n))
	be.PutUint32(h[16:], s.t.tag)
	be.PutUint32(h[20:], noTag)
	be.PutUint32(h[36:], s.pdus)
	be.PutUint32(h[40:], uint32(s.sent))
	s.sent += n
	s.pdus++
	if s.burst += n; s.burst == int64(c.maxBurst) {
		s.burst = 0
		h[1] = flagFinal
	}
	if s.sent == s.total {
		h[1] = flagFinal | flagStatus | s.residual(h)
	}
	b = append(b, "\x00\x00\x00"[:padding(int(n))]...)
	if c.data {
		b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
	}
	return b
}

// residual writes the difference between what the initiator expects and what the command moves, and
// returns its flag. The command moves everything that it asks for, or as much as was sent when it
// failed.
func (s *stream) residual(h *header) byte {
	moves := s.all
	if s.sent < s.total {
		moves = s.sent
	}
	switch diff := moves - int64(s.t.expect); {
	case !s.t.reads && s.t.expect > 0 && moves > 0: // it expects to send, and nothing is taken
		be.PutUint32(h[44:], s.t.expect)
		return flagUnderflow
	case diff > 0:
		be.PutUint32(h[44:], uint32(diff))
		return flagOverflow
	case diff < 0:
		be.PutUint32(h[44:], uint32(-diff))
		return flagUnderflow
	}
	return 0
}

// respond sends a SCSI Response (§11.4).
func (c *conn) respond(s *stream, e sense) error {
	h := header{opResponse, flagFinal}
	be.PutUint32(h[16:], s.t.tag)
	be.PutUint32(h[36:], s.pdus)
	h[1] |= s.residual(&h)
	var data []byte
	if e != (sense{}) {
		h[3] = statusCheck
		fixed := e.fixed()
		data = append(be.AppendUint16(nil, uint16(len(fixed))), fixed...)
	}
	return c.send(c.appendPDU(nil, &h, data), s.t, true)
}
