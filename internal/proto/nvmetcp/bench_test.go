package nvmetcp

import (
	"bufio"
	"fmt"
	"io"
	"testing"
)

// zeroes is a Backend that costs nothing, so that what is measured is the protocol.
type zeroes int64

func (z zeroes) Size() int64                           { return int64(z) }
func (z zeroes) ReadAt(p []byte, _ int64) (int, error) { return len(p), nil }

// BenchmarkRead reads over the loopback, 16 commands at once.
func BenchmarkRead(b *testing.B) {
	for _, size := range []int{4 << 10, 128 << 10, 1 << 20} {
		for _, digests := range []uint8{0, 3} {
			b.Run(fmt.Sprintf("%dKiB/digests%d", size>>10, digests), func(b *testing.B) {
				addr, _ := start(b, &Server{Lookup: serving(zeroes(1 << 30))})
				admin := attach(b, addr, rootNQN)
				q := admin.queue(addr, 1, digests, 4, true)
				cmd := q.pdu(read(0, size/512, size))
				r := bufio.NewReaderSize(q.conn, 256<<10)
				var h [headSize]byte
				b.SetBytes(int64(size))
				asked := 0
				ask := func() {
					if asked < b.N {
						q.conn.Write(cmd)
						asked++
					}
				}
				for range 16 {
					ask()
				}
				for range b.N {
					for last := false; !last; {
						if _, err := io.ReadFull(r, h[:]); err != nil {
							b.Fatal(err)
						}
						p := parseHead(h[:])
						r.Discard(int(p.plen) - headSize)
						last = p.flags&flagSuccess != 0
					}
					ask()
				}
			})
		}
	}
}
