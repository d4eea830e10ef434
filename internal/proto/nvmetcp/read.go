package nvmetcp

import (
	"context"
	"io"
	"time"

	"netroot/internal/proto/accept"
)

const (
	connInFlight = 16       // reads of one connection under way, of at most maxTransfer bytes each
	maxTransfer  = 1 << 20  // bytes of data that one command returns
	leanChunk    = 64 << 10 // bytes that a read holds at a time while the server's memory is taken

	// A buffer has room around its data for the rest of a PDU and for the completion that follows
	// it, so that they leave in one write and without a copy.
	headRoom = maxAlign
	tailRoom = digestSize + responseSize + digestSize

	quickRead   = 256 << 10              // bytes up to which a read is quick,
	slowBackend = 200 * time.Microsecond // unless the last one took longer
)

// transfer is data that a command returns.
type transfer struct {
	id      uint16
	src     io.ReaderAt
	off     int64
	n       int
	session *accept.Attachment // that counts it; nil for a log page
}

// io answers a command of an I/O queue, or starts what takes time.
func (c *conn) io(ctx context.Context, cmd *command) error {
	switch cmd.opcode() {
	case opRead:
		t, st := c.parseRead(cmd)
		if st != statusSuccess {
			return c.refuse(cmd, st)
		}
		return c.start(ctx, t)
	case opWrite, opWriteUncor, opWriteZeroes, opDSM:
		return c.refuse(cmd, namespaceOr(cmd, statusProtected))
	case opFlush:
		return c.complete(cmd.id(), 0, namespaceOr(cmd, statusSuccess))
	}
	return c.complete(cmd.id(), 0, statusOpcode)
}

// refuse answers a command with an error, and logs the first of a connection that writes or reads
// past the end.
func (c *conn) refuse(cmd *command, st status) error {
	why := map[status]string{statusProtected: "the namespace is read-only", statusRange: "past the end of the namespace"}[st]
	if why != "" {
		c.Misused("command", why, "client", c.ctrl.host, "export", c.ctrl.nqn, "opcode", cmd.opcode(),
			"lba", le.Uint64(cmd.sqe[40:]), "blocks", cmd.dword(12)&0xffff+1)
	}
	return c.complete(cmd.id(), 0, st)
}

// namespaceOr returns st for a command to the namespace that there is.
func namespaceOr(cmd *command, st status) status {
	if cmd.nsid() != namespaceID {
		return statusNamespace
	}
	return st
}

func (c *conn) parseRead(cmd *command) (transfer, status) {
	d := &c.ctrl.disk
	block, count := le.Uint64(cmd.sqe[40:]), int64(cmd.dword(12)&0xffff)+1
	size := count << d.shift
	st := namespaceOr(cmd, statusSuccess)
	switch {
	case st != statusSuccess:
	case size > maxTransfer:
		st = statusField
	case block >= uint64(d.blocks) || count > d.blocks-int64(block):
		st = statusRange
	default:
		st = cmd.takes(size)
	}
	return transfer{cmd.id(), d.data, int64(block) << d.shift, int(size), c.ctrl.session}, st
}

// start serves t once there is room for its data: beside others, or at once when that is likely to
// be quick. A small read from the page cache takes less time than handing it to a goroutine, which
// would halve the requests a second; one that must wait for a disk should not keep the next from
// waiting beside it.
func (c *conn) start(ctx context.Context, t transfer) error {
	lean := min(t.n, leanChunk)
	p, full, err := c.Admit(ctx, c.srv.bufs.Size(t.n), c.srv.bufs.Size(lean))
	if err != nil {
		return err
	}
	chunk := t.n
	if !full {
		chunk = lean
	}
	if t.n <= quickRead && !c.slow.Load() {
		c.serveRead(t, p, chunk)
	} else {
		go c.serveRead(t, p, chunk)
	}
	return nil
}

// serveRead serves t through a buffer of chunk bytes, and gives back its permit.
func (c *conn) serveRead(t transfer, p accept.Permit, chunk int) {
	defer c.Leave(p)
	defer c.Survive("read")
	if err := c.transfer(t, chunk); err != nil {
		c.Fail(err)
	}
}

// transfer answers with t through a buffer of chunk bytes. Data that cannot be read is harmless in
// the middle, too: the completion says so.
func (c *conn) transfer(t transfer, chunk int) error {
	buf := c.srv.bufs.Get(chunk)
	defer c.srv.bufs.Put(buf)
	for done := 0; ; {
		if c.Failed() {
			return c.Cause(nil)
		}
		n := min(t.n-done, chunk)
		data := (*buf)[headRoom : headRoom+n]
		begin := time.Now()
		if _, err := t.src.ReadAt(data, t.off+int64(done)); err != nil {
			if t.session != nil {
				t.session.Failed("read failed, told the host so", err, "offset", t.off, "length", t.n)
			}
			return c.complete(t.id, 0, statusReadError)
		}
		if t.n <= quickRead {
			c.slow.Store(time.Since(begin) > slowBackend)
		}
		pdu := c.dataPDU(*buf, t, done, n)
		done += n
		if done == t.n && t.session != nil {
			t.session.Read(t.n)
		}
		if done == t.n && !c.noFlow {
			pdu = c.appendResponse(pdu, t.id, 0, statusSuccess)
		}
		if err := c.replies.Send(pdu); err != nil || done == t.n {
			return err
		}
	}
}

// dataPDU makes the C2HData around n bytes of data in buf, which begin at byte done of t. To a host
// that does without the head of its queue the last one is the completion too.
func (c *conn) dataPDU(buf []byte, t transfer, done, n int) []byte {
	begin, tail := dataHeadSize, 0
	flags := flagOf(c.headerDigest, flagHeaderDigest) | flagOf(c.dataDigest, flagDataDigest)
	if c.headerDigest {
		begin += digestSize
	}
	if c.dataDigest {
		tail = digestSize
	}
	if done+n == t.n {
		flags |= flagLast | flagOf(c.noFlow, flagSuccess)
	}
	begin = (begin + c.align - 1) / c.align * c.align
	pdu := buf[headRoom-begin : headRoom+n]
	clear(pdu[:begin])
	b := head{kind: pduC2HData, flags: flags, hlen: dataHeadSize, pdo: uint8(begin), plen: uint32(begin + n + tail)}.append(pdu[:0])
	b = le.AppendUint16(b, t.id)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint32(b, uint32(done))
	b = le.AppendUint32(b, uint32(n))
	b = le.AppendUint32(b, 0)
	if c.headerDigest {
		appendDigest(b, b)
	}
	if c.dataDigest {
		pdu = appendDigest(pdu, buf[headRoom:headRoom+n])
	}
	return pdu
}
