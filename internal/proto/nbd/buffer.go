package nbd

import (
	"math/bits"
	"sync"
)

// headRoom is what lies in front of a buffer's data, so that a reply's header and data leave in one write,
// with no copy and, under TLS, in one record.
const headRoom = 32

const (
	minBufferBits = 12 // 4 KiB
	maxBufferBits = 25 // maxPayload
)

// buffers keeps read buffers between requests, in powers of two.
type buffers [maxBufferBits - minBufferBits + 1]sync.Pool

// bufferSize returns how many bytes of data the buffer for n has.
func bufferSize(n uint32) int64 {
	return 1 << (minBufferBits + bufferClass(n))
}

func bufferClass(n uint32) int {
	return max(bits.Len32(max(n, 1)-1), minBufferBits) - minBufferBits
}

// get returns a buffer with room for n bytes of data (at most maxPayload) behind headRoom.
func (p *buffers) get(n uint32) *[]byte {
	if b, ok := p[bufferClass(n)].Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, headRoom+bufferSize(n))
	return &b
}

func (p *buffers) put(b *[]byte) {
	p[bufferClass(uint32(len(*b)-headRoom))].Put(b)
}
