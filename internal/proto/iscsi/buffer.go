package iscsi

import (
	"math/bits"
	"sync"
)

const (
	headRoom      = 1 << 10 // bytes of a buffer beside its data, for the headers of some twenty PDUs
	minBufferBits = 12
	maxBufferBits = 18
	maxBuffer     = 1 << maxBufferBits // a larger READ goes in several
)

// buffers keeps buffers between commands, in powers of two.
type buffers [maxBufferBits - minBufferBits + 1]sync.Pool

func bufferClass(n int64) int {
	n = min(max(n, 1), maxBuffer)
	return max(bits.Len64(uint64(n-1)), minBufferBits) - minBufferBits
}

// bufferSize returns how many bytes the buffer for n bytes of data takes.
func bufferSize(n int64) int64 { return headRoom + 1<<(minBufferBits+bufferClass(n)) }

// get returns an empty buffer with the capacity bufferSize(n).
func (p *buffers) get(n int64) *[]byte {
	if b, ok := p[bufferClass(n)].Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, 0, bufferSize(n))
	return &b
}

func (p *buffers) put(b *[]byte) {
	*b = (*b)[:0]
	p[bufferClass(int64(cap(*b)-headRoom))].Put(b)
}
