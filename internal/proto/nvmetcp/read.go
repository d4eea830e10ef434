package nvmetcp

import (
	"context"
	"io"
	"time"
)

const (
	connInFlight = 16       // reads of one connection under way, of at most maxTransfer bytes of memory each
	maxTransfer  = maxChunk // bytes of data that one command returns
	ownChunk     = 64 << 10 // bytes that a connection may always hold

	quickRead   = 256 << 10              // bytes up to which a read is quick,
	slowBackend = 200 * time.Microsecond // unless the last one took longer
)

// transfer is data that a command returns.
type transfer struct {
	id  uint16
	src io.ReaderAt
	off int64
	n   int
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

// refuse answers a command with an error, and logs the first of a connection that writes or reads past the end.
func (c *conn) refuse(cmd *command, st status) error {
	why := map[status]string{statusProtected: "the namespace is read-only", statusRange: "past the end of the namespace"}[st]
	if why != "" && !c.wrong {
		c.wrong = true
		c.srv.Log.Warn("nvmetcp: command refused; further ones on this connection are not logged", "peer", c.peer,
			"host", c.ctrl.host, "nqn", c.ctrl.nqn, "opcode", cmd.opcode(), "lba", le.Uint64(cmd.sqe[40:]),
			"blocks", cmd.dword(12)&0xffff+1, "why", why)
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
	return transfer{id: cmd.id(), src: d.data, off: int64(block) << d.shift, n: int(size)}, st
}

// start serves t once there is room for its data: beside others, or at once when that is likely to be quick. A small
// read from the page cache takes less time than handing it to a goroutine, which would halve the requests a second;
// one that must wait for a disk should not keep the next from waiting beside it.
func (c *conn) start(ctx context.Context, t transfer) error {
	p, err := c.admit(ctx, t.n)
	if err != nil {
		return err
	}
	if t.n <= quickRead && !c.slow.Load() {
		c.serveRead(t, p)
	} else {
		go c.serveRead(t, p)
	}
	return nil
}

// serveRead serves t and gives back its permit.
func (c *conn) serveRead(t transfer, p permit) {
	defer c.settle(p)
	defer c.survive("read")
	sent, err := c.transfer(t, p.chunk)
	if err != nil {
		c.fail(err)
	}
	if sent {
		c.ctrl.reads.Add(1)
		c.ctrl.bytes.Add(uint64(t.n))
	}
}

// permit is what a read holds: a part of its connection's requests, and bytes of the server's memory.
type permit struct {
	own    int64
	shared int64
	chunk  int // bytes of buffer that it may use
}

// admit waits until a read of n bytes may hold a buffer. When the server's memory is taken, by hosts that do not read
// what they asked for, this connection goes one read at a time through a small buffer of its own, so that nobody can
// stop the others.
func (c *conn) admit(ctx context.Context, n int) (p permit, err error) {
	p = permit{own: 1, chunk: n}
	if err := c.inFlight.Acquire(ctx, p.own); err != nil {
		return p, err
	}
	if held := int64(1) << (minBufferBits + bufferClass(p.chunk)); c.srv.memory.TryAcquire(held) {
		p.shared = held
		return p, nil
	}
	c.inFlight.Release(p.own)
	p = permit{own: connInFlight, chunk: min(n, ownChunk)}
	return p, c.inFlight.Acquire(ctx, p.own)
}

func (c *conn) settle(p permit) {
	if p.shared > 0 {
		c.srv.memory.Release(p.shared)
	}
	c.inFlight.Release(p.own)
}

// transfer answers with t through a buffer of chunk bytes, and reports whether all of the data was sent. Data that
// cannot be read in the middle is no harm: the completion says so.
func (c *conn) transfer(t transfer, chunk int) (sent bool, err error) {
	buf := c.srv.bufs.get(chunk)
	defer c.srv.bufs.put(buf)
	for done := 0; ; {
		n := min(t.n-done, chunk)
		data := (*buf)[headRoom : headRoom+n]
		begin := time.Now()
		if _, err := t.src.ReadAt(data, t.off+int64(done)); err != nil {
			c.backendFailed(t, err)
			return false, c.complete(t.id, 0, statusReadError)
		}
		if t.n <= quickRead {
			c.slow.Store(time.Since(begin) > slowBackend)
		}
		pdu := c.dataPDU(*buf, t, done, n)
		done += n
		if done == t.n && !c.noFlow {
			pdu = c.appendResponse(pdu, t.id, 0, statusSuccess)
		}
		if err := c.replies.Send(pdu); err != nil || done == t.n {
			return err == nil, err
		}
	}
}

// dataPDU makes the C2HData around n bytes of data in buf, which begin at byte done of t. To a host that does without
// the head of its queue the last one is the completion too.
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

// backendFailed logs the first failure of a connection: a lost disk would fill the log otherwise.
func (c *conn) backendFailed(t transfer, err error) {
	if c.ioFailed.CompareAndSwap(false, true) {
		c.srv.Log.Error("nvmetcp: read failed, told the host so; further ones on this connection are not logged",
			"nqn", c.ctrl.nqn, "peer", c.peer, "offset", t.off, "length", t.n, "why", err)
	}
}
