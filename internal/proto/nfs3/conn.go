package nfs3

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"netroot/internal/proto/accept"
)

const (
	readAhead   = 8 << 10   // bytes of requests read at once: some fifty small ones
	quickRead   = 128 << 10 // bytes up to which a READ is quick
	batch       = 64 << 10  // bytes of replies that are held while there are more requests to answer
	batchBuffer = 256 << 10

	quickRequest = 200 * time.Microsecond // unless the last one took longer
)

// conn is one connection.
type conn struct {
	*accept.Conn
	srv *Server
	ctx context.Context
	r   *bufio.Reader
	out *[]byte // replies that have not left yet, or nil

	replies *accept.Replies
	slow    atomic.Bool      // the last request of the quick kind took long
	asked   bool             // a request has come
	creds   map[string]*cred // credentials by their bytes; of the reading goroutine

	last     atomic.Pointer[attachment] // the one used last
	mu       sync.Mutex
	attached []*attachment
	refusal  refusal
}

// serve serves one connection.
func (s *Server) serve(ctx context.Context, nc *accept.Conn) {
	c := &conn{
		Conn: nc, srv: s, ctx: ctx, r: bufio.NewReaderSize(nc, readAhead), replies: accept.NewReplies(nc, "client"),
	}
	var err error
	defer func() { c.end(err) }()
	defer c.Wait()
	defer c.Survive("connection")
	err = c.requests(ctx)
}

// end says why the connection ended, and releases what it used. Requests must be over.
func (c *conn) end(err error) {
	err = c.Cause(err)
	if err != io.EOF && !c.Stopping() && !c.Probed(err) && len(c.attached) == 0 { // else detach says it
		c.refused("connection", err)
	}
	c.detach(c.Reason(err, "connection closed"))
}

func (c *conn) refused(what string, why error) { c.Refused(why, "asked", what) }

// requests answers until the client leaves or an error ends the connection.
func (c *conn) requests(ctx context.Context) error {
	for {
		r, err := c.next(ctx)
		if err == nil && !c.asked {
			c.asked = true
			c.SetReadDeadline(time.Time{})
		}
		if err == nil {
			c.Requested()
			err = c.handle(ctx, r)
		}
		if err != nil {
			c.flush() // what was asked before may still be heard
			return err
		}
	}
}

// record is one request.
type record struct {
	b      []byte
	buf    *[]byte       // that holds b, or nil when the read buffer does, until the next read
	permit accept.Permit // for buf
}

// next returns the next request, once the replies to all before have left or it is there already.
func (c *conn) next(ctx context.Context) (record, error) {
	n, last, ok := c.peek()
	if !ok || !last || c.r.Buffered() < recordMark+n {
		if err := c.flush(); err != nil {
			return record{}, err
		}
		if _, err := c.r.Peek(recordMark); err != nil {
			if err == io.EOF && c.r.Buffered() > 0 {
				err = io.ErrUnexpectedEOF
			}
			if errors.Is(err, os.ErrDeadlineExceeded) && !c.asked {
				err = fmt.Errorf("no request within %v", accept.FirstRequest)
			}
			return record{}, err
		}
		n, last, _ = c.peek()
	}
	if !last || recordMark+n > readAhead {
		return c.assemble(ctx)
	}
	if c.r.Buffered() < recordMark+n {
		defer c.hurry()()
	}
	b, err := c.r.Peek(recordMark + n)
	if err != nil {
		return record{}, cut(err)
	}
	c.r.Discard(recordMark + n) // cannot fail after Peek
	return record{b: b[recordMark:]}, nil
}

// peek looks at the mark of the fragment that comes next (RFC 5531, section 11), if it is there.
func (c *conn) peek() (n int, last, ok bool) {
	if c.r.Buffered() < recordMark {
		return 0, false, false
	}
	b, _ := c.r.Peek(recordMark)
	mark := be.Uint32(b)
	return int(mark &^ lastFragment), mark&lastFragment != 0, true
}

// hurry bounds how long a request that has begun may take to arrive, until what it returns is
// called.
func (c *conn) hurry() (arrived func()) {
	c.SetReadDeadline(time.Now().Add(accept.Stall))
	return func() { c.SetReadDeadline(time.Time{}) }
}

func cut(err error) error {
	switch {
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("a request did not arrive whole in %v", accept.Stall)
	}
	return err
}

// assemble reads a request that is too large for the read buffer, or in fragments.
func (c *conn) assemble(ctx context.Context) (r record, err error) {
	n, last, _ := c.peek()
	size := maxRecord
	if last {
		size = n
	}
	if n > maxRecord {
		return r, fmt.Errorf("a request of %d bytes: more than %d", n, maxRecord)
	}
	if r.permit, _, err = c.Admit(ctx, c.srv.bufferSize(size), c.srv.bufferSize(size)); err != nil {
		return r, err
	}
	r.buf = c.srv.buffer(size)
	defer c.hurry()()
	for {
		c.r.Discard(recordMark)
		at := len(r.b)
		if at+n > maxRecord {
			err = fmt.Errorf("a request of more than %d bytes", maxRecord)
			break
		}
		r.b = (*r.buf)[:at+n]
		if _, err = io.ReadFull(c.r, r.b[at:]); err != nil || last {
			break
		}
		if _, err = c.r.Peek(recordMark); err != nil {
			break
		}
		n, last, _ = c.peek()
	}
	if err != nil {
		c.drop(r)
		return record{}, cut(err)
	}
	return r, nil
}

// drop gives back what r holds.
func (c *conn) drop(r record) {
	if r.buf != nil {
		c.srv.bufs.Put(r.buf)
		c.Leave(r.permit)
	}
}

// flush sends the replies that are held.
func (c *conn) flush() error {
	if c.out == nil {
		return nil
	}
	b := c.out
	c.out = nil
	defer c.srv.bufs.Put(b)
	if len(*b) == 0 {
		return nil
	}
	return c.replies.Send(*b)
}
