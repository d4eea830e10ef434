package attach

import (
	"crypto/sha256"
	"io"
	"os"
	"time"
)

// endSize is how many bytes of each end of a packed root tell it from others. Its file system has
// its superblock in the first of them, with the sizes and places of everything else. squashfs has
// its tables of files in the last ones.
const endSize = 64 << 10

// identity is a digest of both ends of a root that has so many bytes. A name and a size do not tell
// images apart: a server may have got another file under the name.
func identity(root io.ReaderAt, size int64) ([]byte, error) {
	size = size / sectorSize * sectorSize // the kernel has no more
	n := min(size, endSize)
	h := sha256.New()
	for _, off := range []int64{0, size - n} {
		if _, err := io.Copy(h, io.NewSectionReader(root, off, n)); err != nil {
			return nil, err
		}
	}
	return h.Sum(nil), nil
}

// readerAt is a function that reads at a place.
type readerAt func(p []byte, off int64) (int, error)

func (f readerAt) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }

// identityOfDevice is that of a device whose reads may wait for its server for any length of time.
// nil: it cannot be known.
func identityOfDevice(path string, size int64, limit time.Duration) []byte {
	got := make(chan []byte, 1)
	go func() {
		f, err := os.Open(path)
		if err != nil {
			got <- nil
			return
		}
		defer f.Close()
		id, _ := identity(f, size) // nil with an error
		got <- id
	}()
	select {
	case id := <-got:
		return id
	case <-time.After(limit):
		return nil
	}
}
