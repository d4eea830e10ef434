package nfs3

import (
	"context"
	"math/bits"
	"sync"

	"golang.org/x/sync/semaphore"
)

// slack is what a buffer has beside its power of two, so that the largest READ and WRITE fit with their heads.
const slack = 2048

const (
	minBufferBits = 12 // 4 KiB
	maxBufferBits = 20 // maxData
	maxRecord     = maxData + slack
)

// buffers keeps the buffers of requests and replies between uses, in powers of two and slack.
type buffers [maxBufferBits - minBufferBits + 1]sync.Pool

func bufferClass(n int) int {
	return max(bits.Len(uint(max(n-slack, 1)-1)), minBufferBits) - minBufferBits
}

// bufferSize returns how many bytes the buffer for n has.
func bufferSize(n int) int64 { return slack + 1<<(minBufferBits+bufferClass(n)) }

// get returns an empty buffer with room for n bytes, at most maxRecord.
func (p *buffers) get(n int) *[]byte {
	if b, ok := p[bufferClass(n)].Get().(*[]byte); ok {
		*b = (*b)[:0]
		return b
	}
	b := make([]byte, 0, bufferSize(n))
	return &b
}

func (p *buffers) put(b *[]byte) {
	if n := cap(*b); n <= maxRecord && bufferSize(n) == int64(n) { // not one that append made
		p[bufferClass(n)].Put(b)
	}
}

const (
	connMemory   = 16 << 20 // bytes of one connection's requests under way
	connInFlight = 64       // and their number
	smallRead    = 128 << 10
	smallRequest = smallRead + 16<<10 // bytes of requests that nobody can stop, see admit
)

// permit is what a request holds of its connection's and of the server's memory, in bytes.
type permit struct{ own, shared int64 }

// gate admits the requests of one connection.
type gate struct {
	own    *semaphore.Weighted // of connMemory
	shared *semaphore.Weighted // of Server.MaxBuffer
}

// admit waits until a request may hold n bytes. Each counts for at least its share of the connection's memory, which
// bounds their number. When the server's memory is taken, by clients that do not take what they asked for, this
// connection goes one request at a time; a small one, or one that can make do with few bytes, then needs no permit, so
// that nobody can stop the others. It is to make do with least when full is not set.
func (g *gate) admit(ctx context.Context, n, least int64) (p permit, full bool, err error) {
	p.own = min(max(n, connMemory/connInFlight), connMemory)
	if err := g.own.Acquire(ctx, p.own); err != nil {
		return permit{}, false, err
	}
	if g.shared.TryAcquire(n) {
		p.shared = n
		return p, true, nil
	}
	g.own.Release(p.own)
	p.own = connMemory
	if err := g.own.Acquire(ctx, p.own); err != nil {
		return permit{}, false, err
	}
	if least <= smallRequest {
		return p, n == least, nil
	}
	if err := g.shared.Acquire(ctx, n); err != nil {
		g.own.Release(p.own)
		return permit{}, false, err
	}
	p.shared = n
	return p, true, nil
}

func (g *gate) leave(p permit) {
	if p.shared > 0 {
		g.shared.Release(p.shared)
	}
	if p.own > 0 {
		g.own.Release(p.own)
	}
}

// wait returns when no request is under way.
func (g *gate) wait() { g.own.Acquire(context.Background(), connMemory) }
