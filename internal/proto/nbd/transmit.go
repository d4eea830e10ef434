package nbd

import (
	"context"
	"fmt"
	"io"
	"time"

	"netroot/internal/proto/accept"
)

const (
	maxExtents   = 4096               // in the reply to one BLOCK_STATUS; the client asks on where it ends
	statusMemory = 4 * maxExtents * 8 // bytes that making it may take, with what append leaves behind
)

// request is one command of a client.
type request struct {
	flags  uint16
	cmd    uint16
	cookie uint64
	offset uint64
	length uint32
}

// errDisconnected ends the requests of a client that sent DISC.
const errDisconnected = accept.Announced("disconnected")

// transmit serves requests until the client leaves (errDisconnected, or io.EOF if it did not
// announce that) or an error ends the connection. When it returns no request is under way.
func (c *conn) transmit(ctx context.Context) error {
	c.replies = accept.NewReplies(c.nc, "client")
	err := c.requests(ctx)
	c.replies.Hold(false) // to a client that sent a disconnect, or half of a request
	c.Wait()
	return err
}

func (c *conn) requests(ctx context.Context) error {
	for {
		if err := c.replies.Hold(c.r.Buffered() >= requestHead); err != nil {
			return err
		}
		r, err := c.readRequest()
		if err != nil {
			return err
		}
		if r.cmd == cmdDisc {
			return errDisconnected
		}
		c.Requested()
		if r.cmd == cmdWrite {
			if err := c.skipPayload(r); err != nil {
				return err
			}
		}
		if err := c.handle(ctx, r); err != nil {
			return err
		}
	}
}

func (c *conn) readRequest() (request, error) {
	b, err := c.r.Peek(requestHead)
	if err != nil {
		if err == io.EOF && len(b) > 0 {
			err = io.ErrUnexpectedEOF
		}
		return request{}, err
	}
	if m := be.Uint32(b); m != magicRequest {
		return request{}, fmt.Errorf("request begins with %#08x, not with the protocol's magic", m)
	}
	r := request{
		flags: be.Uint16(b[4:]), cmd: be.Uint16(b[6:]), cookie: be.Uint64(b[8:]),
		offset: be.Uint64(b[16:]), length: be.Uint32(b[24:]),
	}
	c.r.Discard(requestHead) // cannot fail after Peek
	return r, nil
}

// skipPayload reads past the data of a WRITE, which is refused after.
func (c *conn) skipPayload(r request) error {
	if r.length > maxPayload {
		return fmt.Errorf("WRITE of %d bytes: more than %d", r.length, maxPayload)
	}
	if _, err := c.r.Discard(int(r.length)); err != nil {
		return fmt.Errorf("data of a WRITE: %w", notEOF(err))
	}
	return nil
}

// handle answers r at once, or starts what takes time.
func (c *conn) handle(ctx context.Context, r request) error {
	if code, text := c.check(r); code != 0 {
		c.Misused("request", text, "export", c.name, "command", r.cmd, "offset", r.offset, "length", r.length)
		return c.refuse(r, code, text)
	}
	switch {
	case r.cmd == cmdBlockStatus:
		return c.start(ctx, r, statusMemory)
	case r.cmd == cmdRead && r.length > 0:
		return c.start(ctx, r, c.srv.bufs.Size(int(min(r.length, maxPiece))))
	}
	return c.succeed(r) // FLUSH and CACHE have nothing to do, an empty READ has no data
}

// check returns the error number and text for a request that cannot be served, or 0.
func (c *conn) check(r request) (code uint32, text string) {
	var allowed uint16
	switch r.cmd {
	case cmdWrite, cmdTrim, cmdWriteZeroes:
		return errPerm, "the export is read-only"
	case cmdRead:
		if c.structured {
			allowed = cmdFlagDF
		}
	case cmdBlockStatus:
		allowed = cmdFlagReqOne
		if c.context == nil || *c.context != c.name {
			return errInval, "no metadata context was selected for this export"
		}
		if r.length == 0 {
			return errInval, "a status of nothing"
		}
	case cmdFlush, cmdCache:
	default:
		return errInval, "unknown command"
	}
	switch size := uint64(c.size); {
	case r.flags&^allowed != 0:
		return errInval, "command flag that was not offered"
	case r.cmd == cmdFlush: // its offset and length are reserved
	case r.offset > size || uint64(r.length) > size-r.offset:
		return errInval, "past the end of the export"
	case r.cmd == cmdRead && r.length > maxPayload && c.structured:
		return errOverflow, "more than the advertised maximum"
	case r.cmd == cmdRead && r.length > maxPayload:
		return errInval, "more than the advertised maximum"
	}
	return 0, ""
}

// start serves r once there is room for n bytes of its reply: beside others, or at once when that
// is likely to be quick. A small read from the page cache takes less time than handing it to a
// goroutine, which would halve the requests per second; one that must wait for a disk should not
// keep the next from waiting beside it.
func (c *conn) start(ctx context.Context, r request, n int64) error {
	p, _, err := c.Admit(ctx, n, n)
	if err != nil {
		return err
	}
	if r.cmd == cmdRead && r.length <= quickRead && !c.slow.Load() {
		c.run(r, p)
	} else {
		go c.run(r, p)
	}
	return nil
}

// run serves r and gives back its permit.
func (c *conn) run(r request, p accept.Permit) {
	defer c.Leave(p)
	defer c.Survive("request")
	var err error
	switch {
	case c.Failed(): // while the request waited for its permit
	case r.cmd == cmdRead:
		err = c.read(r)
	default:
		err = c.blockStatus(r)
	}
	if err != nil {
		c.Fail(err)
	}
}

// read answers a READ. Nothing of a reply is sent before the first piece of its data is there, and
// that is all of what Linux asks for: a simple reply cannot take back its success.
func (c *conn) read(r request) error {
	buf := c.srv.bufs.Get(int(min(r.length, maxPiece)))
	defer c.srv.bufs.Put(buf)
	data, err := c.piece(*buf, r, 0)
	if err != nil {
		return c.refuse(r, errIO, "the server cannot read this part of the export")
	}
	var b []byte
	if c.structured {
		b = (*buf)[headRoom-dataChunkHead : headRoom+len(data)]
		be.AppendUint64(appendChunk(b[:0], r, chunkData, 8+r.length), r.offset)
	} else {
		b = (*buf)[headRoom-simpleHead : headRoom+len(data)]
		appendSimple(b[:0], r, 0)
	}
	if r.length <= maxPiece {
		err = c.replies.Send(b)
	} else {
		err = c.replies.Stream(b, int(r.length)-len(data), func(left int) ([]byte, error) {
			return c.piece(*buf, r, r.length-uint32(left))
		})
	}
	if err == nil {
		c.session.Read(int(r.length))
	}
	return err
}

// piece reads what of r begins at byte from into buf, as much as a piece has, and returns it.
func (c *conn) piece(buf []byte, r request, from uint32) ([]byte, error) {
	if c.Failed() {
		return nil, c.Cause(nil)
	}
	data := buf[headRoom : headRoom+int(min(r.length-from, maxPiece))]
	begin := time.Now()
	n, err := c.export.Backend.ReadAt(data, int64(r.offset)+int64(from))
	if r.length <= quickRead {
		c.slow.Store(time.Since(begin) > slowBackend)
	}
	if n == len(data) {
		return data, nil
	}
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	c.session.Failed("read failed, told the client EIO", err, "offset", r.offset, "length", r.length)
	return nil, err
}

// blockStatus answers BLOCK_STATUS with the extents of base:allocation.
func (c *conn) blockStatus(r request) error {
	count := maxExtents
	if r.flags&cmdFlagReqOne != 0 {
		count = 1
	}
	all := extents(c.export.Backend, int64(r.offset), int64(r.length), count)
	b := appendChunk(nil, r, chunkBlockStatus, uint32(4+8*len(all)))
	b = be.AppendUint32(b, contextAllocationID)
	for _, e := range all {
		b = be.AppendUint32(b, e.length)
		b = be.AppendUint32(b, e.status)
	}
	return c.replies.Send(b)
}

// extent is a run of bytes of one status.
type extent struct{ length, status uint32 }

// extents describes n bytes from off in at most count extents; they may end early. What a backend
// does not know is data.
func extents(b Backend, off, n int64, count int) []extent {
	s, ok := b.(Sparse)
	if !ok {
		return []extent{{length: uint32(n)}}
	}
	var all []extent
	for n > 0 {
		k, hole, err := s.Extent(off, n)
		if err != nil || k <= 0 || k > n {
			k, hole = n, false
		}
		var status uint32
		if hole {
			status = stateHole | stateZero
		}
		if last := len(all) - 1; last >= 0 && all[last].status == status {
			all[last].length += uint32(k)
		} else if len(all) == count {
			break
		} else {
			all = append(all, extent{uint32(k), status})
		}
		off, n = off+k, n-k
	}
	return all
}

// succeed answers a request that has no data to return.
func (c *conn) succeed(r request) error {
	if c.structured {
		return c.replies.Send(appendChunk(nil, r, chunkNone, 0))
	}
	return c.replies.Send(appendSimple(nil, r, 0))
}

// refuse answers with an error number; text reaches clients with structured replies.
func (c *conn) refuse(r request, code uint32, text string) error {
	if !c.structured {
		return c.replies.Send(appendSimple(nil, r, code))
	}
	b := appendChunk(nil, r, chunkError, uint32(6+len(text)))
	b = be.AppendUint32(b, code)
	b = be.AppendUint16(b, uint16(len(text)))
	return c.replies.Send(append(b, text...))
}

func appendSimple(b []byte, r request, code uint32) []byte {
	b = be.AppendUint32(b, magicSimple)
	b = be.AppendUint32(b, code)
	return be.AppendUint64(b, r.cookie)
}

// appendChunk appends the header of the only chunk of a reply, whose payload has n bytes.
func appendChunk(b []byte, r request, kind uint16, n uint32) []byte {
	b = be.AppendUint32(b, magicStructured)
	b = be.AppendUint16(b, chunkDone)
	b = be.AppendUint16(b, kind)
	b = be.AppendUint64(b, r.cookie)
	return be.AppendUint32(b, n)
}
