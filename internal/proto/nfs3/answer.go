package nfs3

import (
	"bytes"
	"context"
	"time"
)

// handle answers a request at once, or has it answered beside others. A small request to cached
// files takes less time than handing it to a goroutine, and the replies to several leave together;
// one that must wait for a disk should not keep the next from waiting beside it.
func (c *conn) handle(ctx context.Context, r record) error {
	q, err := parseCall(r.b)
	if err != nil {
		c.drop(r)
		return err
	}
	p := c.accepts(&q)
	need := replySize(&q)
	if r.buf != nil && need > slack {
		r = c.behead(r, &q)
	}
	if p == nil || r.buf == nil && !p.beside && need <= quickRead+slack && !c.slow.Load() {
		defer c.drop(r)
		return c.here(p, &q, need)
	}
	if err := c.flush(); err != nil {
		c.drop(r)
		return err
	}
	if r.buf == nil {
		if need, err = c.keep(ctx, &r, &q, need); err != nil {
			return err
		}
	}
	go c.beside(p, &q, need, r)
	return nil
}

// maxHead is more than the bytes of a call without data: its credential, its verifier, a handle and
// numbers, or a path of MOUNT.
const maxHead = 4 << 10

// behead keeps the head of a large request whose reply is large, too. No client needs more than
// that to ask for data; the memory of the rest is given back, so that the reply can be counted.
func (c *conn) behead(r record, q *call) record {
	head := bytes.Clone(r.b[:min(len(r.b), maxHead)])
	c.drop(r)
	who := q.who
	*q, _ = parseCall(head)
	q.who = who
	return record{b: head}
}

// keep copies a request from the read buffer to one of its own, once the server may hold it and its
// reply of need bytes. Of a READ, it returns fewer when there is no memory for all: the client asks
// for the rest again.
func (c *conn) keep(ctx context.Context, r *record, q *call, need int) (int, error) {
	own := c.srv.bufferSize(len(r.b))
	n := own + c.srv.bufferSize(need)
	least := n
	if q.isRead() {
		least = min(n, own+c.srv.bufferSize(smallRead+slack))
	}
	var full bool
	var err error
	if r.permit, full, err = c.Admit(ctx, n, least); err != nil {
		return 0, err
	}
	r.buf = c.srv.buffer(len(r.b))
	*r.buf = append(*r.buf, r.b...)
	who := q.who
	*q, _ = parseCall(*r.buf) // in its new place
	q.who = who
	if !full {
		q.most, need = smallRead, smallRead+slack
	}
	return need, nil
}

// accepts returns the procedure that q calls, with the caller's credentials in q. It is nil when
// the answer is an error, which answer makes.
func (c *conn) accepts(q *call) *procedure {
	if q.rpc != rpcVersion {
		return nil
	}
	p, _ := find(c.srv.programs, q)
	if p == nil {
		return nil
	}
	if q.who = c.identify(q); q.who == nil {
		return nil
	}
	return p
}

// replySize bounds the reply to q, in bytes.
func replySize(q *call) int {
	if q.prog == programMount {
		return maxDir // a list of exports or mounts; see the bounds there
	}
	if q.prog != programNFS {
		return slack
	}
	a := q.args
	switch q.proc {
	case procRead:
		a.opaque(maxHandle)
		a.u64()
		return int(min(a.u32(), maxData)) + slack/2
	case procReaddir, procReaddirplus:
		return maxDir + slack/2
	case procReadlink:
		return maxPath + slack/2
	}
	return slack
}

// here answers q in the reading goroutine.
func (c *conn) here(p *procedure, q *call, need int) error {
	if c.out != nil && len(*c.out)+need > cap(*c.out) {
		if err := c.flush(); err != nil {
			return err
		}
	}
	if c.out == nil {
		c.out = c.srv.buffer(batchBuffer)
	}
	begin := time.Now()
	*c.out = c.answer(p, q, *c.out)
	slow := time.Since(begin) > quickRequest
	c.slow.Store(slow)
	if slow || len(*c.out) >= batch {
		return c.flush()
	}
	return nil
}

// beside answers q in a goroutine of its own, and gives back what r holds.
func (c *conn) beside(p *procedure, q *call, need int, r record) {
	defer c.drop(r)
	defer c.Survive("request")
	out := c.srv.buffer(need)
	defer c.srv.bufs.Put(out)
	if c.Failed() { // while the request waited for its permit
		return
	}
	c.srv.busy <- struct{}{}
	func() {
		defer func() { <-c.srv.busy }()
		begin := time.Now()
		if p.once {
			*out = c.once(p, q, *out)
		} else {
			*out = c.answer(p, q, *out)
		}
		if !p.beside && time.Since(begin) <= quickRequest {
			c.slow.Store(false)
		}
	}()
	if err := c.replies.Send(*out); err != nil {
		c.Fail(err)
	}
}

// answer appends the record that answers q.
func (c *conn) answer(p *procedure, q *call, out []byte) []byte {
	return respond(c.srv.programs, c, p, q, out)
}
