package accept

import "context"

// unshared is how many bytes a connection may hold for one request when it cannot have memory of the loop's.
const unshared = 144 << 10

// Permit is what one request holds of its connection's and of the loop's memory, in bytes. The zero value holds nothing.
type Permit struct{ own, shared int64 }

// Admit waits until a request may hold n bytes. Each request counts for at least its share of what the connection may
// have under way, which bounds their number.
//
// When the loop's memory or the peer's share of it is taken, by clients that do not read what they asked for, the
// connection goes one request at a time. A request that can do with least bytes, and these are few, then needs no
// memory of the loop's, so that nobody can stop the others: full is false, and the request must use least bytes.
func (c *Conn) Admit(ctx context.Context, n, least int64) (p Permit, full bool, err error) {
	l := c.loop
	p.own = min(max(n, l.limits.ConnBuffer/int64(l.limits.ConnRequests)), l.limits.ConnBuffer)
	if err := c.own.Acquire(ctx, p.own); err != nil {
		return Permit{}, false, err
	}
	if c.tryMemory(n) {
		p.shared = n
		return p, true, nil
	}
	c.own.Release(p.own)
	p.own = l.limits.ConnBuffer
	if err := c.own.Acquire(ctx, p.own); err != nil {
		return Permit{}, false, err
	}
	if least <= unshared {
		return p, n == least, nil
	}
	if err := c.awaitMemory(ctx, n); err != nil {
		c.own.Release(p.own)
		return Permit{}, false, err
	}
	p.shared = n
	return p, true, nil
}

// Leave gives back what a request held.
func (c *Conn) Leave(p Permit) {
	if p.shared > 0 {
		c.loop.held.Add(-p.shared)
		c.loop.memory.Release(p.shared)
		c.peer.memory.Release(p.shared)
	}
	if p.own > 0 {
		c.own.Release(p.own)
	}
}

// Wait returns when no request of the connection is under way.
func (c *Conn) Wait() {
	c.own.Acquire(context.Background(), c.loop.limits.ConnBuffer)
	c.own.Release(c.loop.limits.ConnBuffer)
}

func (c *Conn) tryMemory(n int64) bool {
	if !c.peer.memory.TryAcquire(n) {
		return false
	}
	if !c.loop.memory.TryAcquire(n) {
		c.peer.memory.Release(n)
		return false
	}
	c.loop.held.Add(n)
	return true
}

func (c *Conn) awaitMemory(ctx context.Context, n int64) error {
	if err := c.peer.memory.Acquire(ctx, n); err != nil {
		return err
	}
	if err := c.loop.memory.Acquire(ctx, n); err != nil {
		c.peer.memory.Release(n)
		return err
	}
	c.loop.held.Add(n)
	return nil
}
