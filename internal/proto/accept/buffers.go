package accept

import (
	"math/bits"
	"sync"
)

const leastBufferBits = 12 // 4 KiB

// Buffers keeps buffers between requests. They hold powers of two bytes of data, and room for what
// a protocol puts around the data.
type Buffers struct {
	room  int
	pools []sync.Pool // for 4 KiB of data, and for twice as much each
}

// NewBuffers returns buffers for up to most bytes of data and room bytes around them.
func NewBuffers(most, room int) *Buffers {
	return &Buffers{room: room, pools: make([]sync.Pool, bufferClass(most)+1)}
}

func bufferClass(n int) int {
	return max(bits.Len(uint(max(n, 1)-1)), leastBufferBits) - leastBufferBits
}

// Size returns how many bytes the buffer for n bytes of data has, with its room.
func (b *Buffers) Size(n int) int64 { return int64(b.room) + 1<<(leastBufferBits+bufferClass(n)) }

// Get returns an empty buffer of capacity Size(n), for n bytes of data.
func (b *Buffers) Get(n int) *[]byte {
	if p, ok := b.pools[bufferClass(n)].Get().(*[]byte); ok {
		return p
	}
	p := make([]byte, 0, b.Size(n))
	return &p
}

// Put takes back a buffer of Get. One that append has replaced is not kept.
func (b *Buffers) Put(p *[]byte) {
	n := cap(*p) - b.room
	if class := bufferClass(n); n > 0 && class < len(b.pools) && b.Size(n) == int64(cap(*p)) {
		*p = (*p)[:0]
		b.pools[class].Put(p)
	}
}
