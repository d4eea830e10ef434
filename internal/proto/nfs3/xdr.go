package nfs3

import (
	"encoding/binary"
	"slices"
)

var be = binary.BigEndian

// args reads XDR (RFC 4506). When something is missing or too long, bad is set and everything from
// there on reads as zero; so callers look at bad once, after the last value.
type args struct {
	b   []byte
	bad bool
}

// take returns the next n bytes, and skips the padding to a multiple of four.
func (a *args) take(n int) []byte {
	whole := (n + 3) &^ 3
	if a.bad || whole > len(a.b) {
		a.bad = true
		return nil
	}
	v := a.b[:n:n]
	a.b = a.b[whole:]
	return v
}

func (a *args) u32() uint32 {
	if v := a.take(4); v != nil {
		return be.Uint32(v)
	}
	return 0
}

func (a *args) u64() uint64 {
	if v := a.take(8); v != nil {
		return be.Uint64(v)
	}
	return 0
}

func (a *args) flag() bool {
	v := a.u32()
	if v > 1 {
		a.bad = true
	}
	return v == 1
}

// opaque returns variable-length bytes of at most most; they lie in the request.
func (a *args) opaque(most int) []byte {
	n := a.u32()
	if n > uint32(most) {
		a.bad = true
		return nil
	}
	return a.take(int(n))
}

func appendU32(b []byte, v uint32) []byte { return be.AppendUint32(b, v) }
func appendU64(b []byte, v uint64) []byte { return be.AppendUint64(b, v) }

func appendFlag(b []byte, v bool) []byte {
	if v {
		return appendU32(b, 1)
	}
	return appendU32(b, 0)
}

// appendOpaque appends v behind its length, padded.
func appendOpaque[T []byte | string](b []byte, v T) []byte {
	b = appendU32(b, uint32(len(v)))
	b = append(b, v...)
	return append(b, padding[:-len(v)&3]...)
}

var padding [3]byte

// extend lengthens b by n bytes, whatever they hold, and returns them too.
func extend(b []byte, n int) (whole, tail []byte) {
	whole = slices.Grow(b, n)[:len(b)+n]
	return whole, whole[len(b):]
}
