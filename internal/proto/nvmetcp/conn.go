package nvmetcp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync/atomic"
	"time"

	"netroot/internal/proto/accept"
)

const readAhead = 1 << 10 // bytes of commands read at once: 14 of them

// conn is one connection, which is one queue once its host has sent Connect.
type conn struct {
	*accept.Conn
	srv *Server
	r   *bufio.Reader

	replies *accept.Replies

	// What ICReq settles.
	headerDigest, dataDigest bool
	align                    int // bytes, of the data in our PDUs

	// What Connect settles.
	ctrl   *controller
	qid    uint16 // 0 is the admin queue
	size   uint32 // of the submission queue
	noFlow bool   // the host declines to be told the queue's head

	cmd     command
	fetched atomic.Uint32 // commands, modulo 2^32
	slow    atomic.Bool   // the backend's last small read took long
}

func newConn(s *Server, nc *accept.Conn) *conn {
	return &conn{Conn: nc, srv: s, r: bufio.NewReaderSize(nc, readAhead), replies: accept.NewReplies(nc, "host")}
}

// run serves commands until the host leaves, which is io.EOF, or an error ends the connection.
func (c *conn) run(ctx context.Context) error {
	if err := c.initialize(); err != nil {
		return err
	}
	for ctx.Err() == nil {
		if err := c.replies.Hold(c.r.Buffered() >= commandSize); err != nil {
			return err
		}
		err := c.readCommand()
		if c.ctrl == nil && errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("no Connect within %v", accept.FirstRequest)
		}
		if err != nil {
			return err
		}
		c.Requested()
		if err := c.handle(ctx, &c.cmd); err != nil {
			return err
		}
	}
	return nil
}

// end answers what is under way, and tells a host that does not follow the protocol why the
// connection ends.
func (c *conn) end(err error) {
	c.replies.Hold(false)
	c.Wait()
	err = c.Cause(err)
	if err == nil {
		err = accept.ErrServerStops
	}
	var wrong *fatal
	told := errors.As(err, &wrong) && c.replies.Send(wrong.append(nil)) == nil
	// Closing a socket with unread data resets it, and the host would lose what it was just told.
	if told && c.CloseWrite() == nil {
		c.SetReadDeadline(time.Now().Add(accept.Grace))
		io.CopyN(io.Discard, c.Conn, maxTransfer)
	}
	c.Fail(err)
}

// leave closes the connection and undoes its Connect.
func (c *conn) leave() {
	c.Close()
	c.Wait() // there are requests under way after a panic
	why := c.Cause(nil)
	switch {
	case c.ctrl == nil && !c.Stopping() && why != io.EOF && !c.Probed(why):
		c.Refused(why)
	case c.ctrl != nil && c.qid == 0:
		c.ctrl.close(c.Reason(nil, "connection closed"))
	case c.ctrl != nil && c.Stopping():
		c.ctrl.remove(c, nil)
	case c.ctrl != nil:
		c.ctrl.remove(c, why)
	}
}

// initialize receives ICReq and answers it.
func (c *conn) initialize() error {
	var b [icSize]byte
	if _, err := io.ReadFull(c.r, b[:headSize]); err != nil {
		return err
	}
	wrong := func(fes uint16, at uint32, text string) error {
		return &fatal{fes: fes, fei: at, header: b[:headSize], text: text}
	}
	switch h := parseHead(b[:]); {
	case h.kind != pduICReq:
		return wrong(fesSequence, 0, fmt.Sprintf("the first PDU is of type %#02x and not ICReq", h.kind))
	case h.hlen != icSize:
		return wrong(fesHeaderField, 2, fmt.Sprintf("ICReq with a header of %d bytes", h.hlen))
	case h.plen != icSize:
		return wrong(fesHeaderField, 4, fmt.Sprintf("ICReq of %d bytes", h.plen))
	}
	if _, err := io.ReadFull(c.r, b[headSize:]); err != nil {
		return notEOF(err)
	}
	version, align, digest := le.Uint16(b[8:]), b[10], b[11]
	switch {
	case version != 0:
		return &fatal{fes: fesUnsupported, fei: 8, header: b[:], text: fmt.Sprintf("PDU format version %d", version)}
	case int(align) >= maxAlign/4:
		return &fatal{fes: fesHeaderField, fei: 10, header: b[:], text: fmt.Sprintf("alignment of %d dwords", int(align)+1)}
	}
	c.align = 4 * (int(align) + 1)
	c.headerDigest, c.dataDigest = digest&1 != 0, digest&2 != 0

	reply := head{kind: pduICResp, hlen: icSize, plen: icSize}.append(make([]byte, 0, icSize))
	reply = append(reply, 0, 0, 0, digest&3)
	reply = le.AppendUint32(reply, minH2CData)
	return c.replies.Send(reply[:icSize])
}

// readCommand receives one command into c.cmd.
func (c *conn) readCommand() error {
	var b [commandSize + digestSize]byte
	if _, err := io.ReadFull(c.r, b[:headSize]); err != nil {
		return err
	}
	h := parseHead(b[:])
	if h.kind == pduH2CTerm {
		return c.terminated(h)
	}
	begin := commandSize // of what is behind the header
	if c.headerDigest {
		begin += digestSize
	}
	if err := c.checkHead(h, begin); err != nil {
		err.header = b[:headSize]
		return err
	}
	if _, err := io.ReadFull(c.r, b[headSize:begin]); err != nil {
		return notEOF(err)
	}
	if got := le.Uint32(b[commandSize:]); c.headerDigest && got != crc32.Checksum(b[:commandSize], castagnoli) {
		return &fatal{fes: fesHeaderDigest, fei: got, header: b[:commandSize], text: "the header digest does not match"}
	}
	c.cmd = command{sqe: [sqeSize]byte(b[headSize:])}
	c.fetched.Add(1)
	return c.readData(h, begin)
}

// checkHead checks the header of a PDU that must be a command.
func (c *conn) checkHead(h head, begin int) *fatal {
	digests := flagOf(c.headerDigest, flagHeaderDigest)
	tail := 0
	data := int64(h.plen) > int64(begin)
	if data && c.dataDigest {
		digests |= flagDataDigest
		tail = digestSize
	}
	switch {
	case h.kind == pduICReq, h.kind == pduH2CData: // no data was asked for
		return &fatal{fes: fesSequence, text: fmt.Sprintf("PDU of type %#02x out of turn", h.kind)}
	case h.kind != pduCommand:
		return &fatal{fes: fesHeaderField, text: fmt.Sprintf("PDU of unknown type %#02x", h.kind)}
	case h.hlen != commandSize:
		return &fatal{fes: fesHeaderField, fei: 2, text: fmt.Sprintf("command with a header of %d bytes", h.hlen)}
	case int64(h.plen) < int64(begin) || h.plen > maxCommand:
		return &fatal{fes: fesHeaderField, fei: 4, text: fmt.Sprintf("command of %d bytes", h.plen)}
	case h.flags&flagHeaderDigest != digests&flagHeaderDigest, data && h.flags&flagDataDigest != digests&flagDataDigest:
		return &fatal{fes: fesHeaderField, fei: 1, text: "digests that were not agreed on"}
	case data && (int(h.pdo) < begin || int(h.pdo)+tail > int(h.plen) || int(h.plen)-int(h.pdo)-tail > maxInCapsule):
		return &fatal{fes: fesHeaderField, fei: 3, text: fmt.Sprintf("data of a command at byte %d of %d", h.pdo, h.plen)}
	}
	return nil
}

func flagOf(on bool, flag uint8) uint8 {
	if on {
		return flag
	}
	return 0
}

// readData receives what is behind the header of a command.
func (c *conn) readData(h head, begin int) error {
	rest := int(h.plen) - begin
	if rest == 0 {
		return nil
	}
	b := make([]byte, rest)
	if _, err := io.ReadFull(c.r, b); err != nil {
		return notEOF(err)
	}
	b = b[int(h.pdo)-begin:]
	if c.dataDigest {
		n := len(b) - digestSize
		c.cmd.damaged = le.Uint32(b[n:]) != crc32.Checksum(b[:n], castagnoli)
		b = b[:n]
	}
	c.cmd.data = b
	return nil
}

// terminated reads why the host ends the connection.
func (c *conn) terminated(h head) error {
	if h.hlen != termSize || h.plen < termSize || h.plen > termSize+icSize {
		return errors.New("the host ends the connection by a malformed H2CTermReq")
	}
	var b [termSize - headSize]byte
	if _, err := io.ReadFull(c.r, b[:]); err != nil {
		return notEOF(err)
	}
	return fmt.Errorf("the host ends the connection for what it was sent: FES %#x, FEI %#x", le.Uint16(b[:]), le.Uint32(b[2:]))
}

// complete answers a command that returns no data.
func (c *conn) complete(id uint16, result uint64, st status) error {
	return c.replies.Send(c.appendResponse(make([]byte, 0, tailRoom), id, result, st))
}

// appendResponse appends the CapsuleResp of a command. The host learns the head of its queue unless
// it declined.
func (c *conn) appendResponse(b []byte, id uint16, result uint64, st status) []byte {
	at, plen := len(b), responseSize
	if c.headerDigest {
		plen += digestSize
	}
	b = head{kind: pduResponse, flags: flagOf(c.headerDigest, flagHeaderDigest), hlen: responseSize, plen: uint32(plen)}.append(b)
	b = le.AppendUint64(b, result)
	b = le.AppendUint16(b, c.queueHead())
	b = le.AppendUint16(b, 0) // which queue is the connection's to say
	b = le.AppendUint16(b, id)
	b = le.AppendUint16(b, uint16(st)<<1)
	if c.headerDigest {
		b = appendDigest(b, b[at:])
	}
	return b
}

func (c *conn) queueHead() uint16 {
	switch {
	case c.noFlow:
		return 0xffff
	case c.size == 0: // not connected
		return 0
	}
	return uint16(c.fetched.Load() % c.size)
}

// notEOF makes an end in the middle of something an error.
func notEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
