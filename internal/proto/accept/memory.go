package accept

import (
	"context"
	"sync"
	"sync/atomic"
)

// unshared is how many bytes a connection may hold for one request when it cannot have memory of
// the loop's.
const unshared = 144 << 10

// budget bounds bytes of memory that many connections hold. It takes a lock only when one of them
// has to wait.
type budget struct {
	size    int64
	held    atomic.Int64
	waiting atomic.Int64 // in acquire

	mu    sync.Mutex
	freed chan struct{} // closed and made anew when something is given back while others wait
}

func newBudget(size int64) *budget { return &budget{size: size, freed: make(chan struct{})} }

// tryAcquire takes n bytes if they are there and nothing waits for bytes.
func (b *budget) tryAcquire(n int64) bool { return b.waiting.Load() == 0 && b.take(n) }

func (b *budget) take(n int64) bool {
	for {
		held := b.held.Load()
		if held+n > b.size {
			return false
		}
		if b.held.CompareAndSwap(held, held+n) {
			return true
		}
	}
}

// acquire waits until n bytes are there.
func (b *budget) acquire(ctx context.Context, n int64) error {
	b.waiting.Add(1) // before take: a release that does not see it was before take, too
	defer b.waiting.Add(-1)
	for {
		b.mu.Lock()
		freed := b.freed
		b.mu.Unlock()
		if b.take(n) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-freed:
		}
	}
}

func (b *budget) release(n int64) {
	b.held.Add(-n)
	if b.waiting.Load() > 0 {
		b.mu.Lock()
		close(b.freed)
		b.freed = make(chan struct{})
		b.mu.Unlock()
	}
}

// Permit is what one request holds of its connection's and of the loop's memory, in bytes. The zero
// value holds nothing.
type Permit struct{ own, shared int64 }

// Admit waits until a request may hold n bytes. Each request counts for at least its share of what
// the connection may have under way, which bounds their number.
//
// When the loop's memory or the peer's share of it is taken, by clients that do not read what they
// asked for, the connection goes one request at a time. A request that can do with least bytes, and
// these are few, then needs no memory of the loop's, so that no peer can stop the others: full is
// false, and the request must use least bytes.
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
		c.loop.memory.release(p.shared)
		c.peer.memory.release(p.shared)
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
	if !c.peer.memory.tryAcquire(n) {
		return false
	}
	if !c.loop.memory.tryAcquire(n) {
		c.peer.memory.release(n)
		return false
	}
	return true
}

func (c *Conn) awaitMemory(ctx context.Context, n int64) error {
	if err := c.peer.memory.acquire(ctx, n); err != nil {
		return err
	}
	if err := c.loop.memory.acquire(ctx, n); err != nil {
		c.peer.memory.release(n)
		return err
	}
	return nil
}
