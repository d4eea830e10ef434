package nvmetcp

import (
	"math/bits"
	"sync"
)

// A buffer has room around its data for the rest of a PDU and for the completion that follows it, so that they leave
// in one write and without a copy.
const (
	headRoom = maxAlign
	tailRoom = digestSize + responseSize + digestSize

	minBufferBits = 12 // 4 KiB
	maxBufferBits = 20 // 1 MiB, all that a command returns
	maxChunk      = 1 << maxBufferBits
)

// buffers keeps buffers between requests, in powers of two.
type buffers [maxBufferBits - minBufferBits + 1]sync.Pool

func bufferClass(n int) int {
	return max(bits.Len(uint(max(n, 1)-1)), minBufferBits) - minBufferBits
}

// get returns a buffer for n bytes of data (at most maxChunk) between headRoom and tailRoom.
func (p *buffers) get(n int) *[]byte {
	class := bufferClass(n)
	if b, ok := p[class].Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, headRoom+1<<(minBufferBits+class)+tailRoom)
	return &b
}

func (p *buffers) put(b *[]byte) {
	p[bufferClass(len(*b)-headRoom-tailRoom)].Put(b)
}
