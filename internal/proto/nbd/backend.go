package nbd

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Backend is the bytes of an export. ReadAt is called from several goroutines at once, as
// io.ReaderAt allows, and never past Size. Size is in bytes and is asked once, when a client
// selects the export.
type Backend interface {
	io.ReaderAt
	Size() int64
}

// Sparse is what a Backend may offer besides: where its holes are, for clients that copy. Extent
// returns how many of the limit bytes from off are of one kind, at least one, and whether they are
// a hole that reads as zeroes. An error means "unknown", which the server tells clients as data.
type Sparse interface {
	Extent(off, limit int64) (n int64, hole bool, err error)
}

// Export is something that a client can attach.
type Export struct {
	Name        string // canonical name, at most 4096 bytes
	Description string // for people; may be empty
	Backend     Backend
	// Release, when set, is called once when the server does not use this Export any more. Close a
	// file that Lookup opened here.
	Release func()
}

func (e *Export) release() {
	if e.Release != nil {
		e.Release()
	}
}

// File is a regular file or a block device as a Backend that knows its holes.
type File struct {
	f    *os.File
	size int64
}

// NewFile returns f as a Backend of the size it has now. The file stays the caller's to close.
func NewFile(f *os.File) (File, error) {
	size, err := f.Seek(0, io.SeekEnd) // stat says 0 for a block device
	if err != nil {
		return File{}, fmt.Errorf("size of %s: %w", f.Name(), err)
	}
	return File{f: f, size: size}, nil
}

// ReadAt reads as io.ReaderAt.
func (f File) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }

// Size returns the size in bytes that the file had at NewFile.
func (f File) Size() int64 { return f.size }

// Extent asks the file system by SEEK_DATA and SEEK_HOLE (lseek(2)). They move the file's offset,
// which nothing here uses.
func (f File) Extent(off, limit int64) (n int64, hole bool, err error) {
	data, err := f.f.Seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // no data from here to the end
		return limit, true, nil
	case err != nil:
		return 0, false, err
	case data > off:
		return min(data-off, limit), true, nil
	}
	end, err := f.f.Seek(off, unix.SEEK_HOLE)
	if err != nil {
		return 0, false, err
	}
	if end <= off { // the file changed between the two questions
		return 0, false, fmt.Errorf("no extent at byte %d", off)
	}
	return min(end-off, limit), false, nil
}
