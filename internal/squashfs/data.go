package squashfs

import (
	"bytes"
	"errors"
	"io"
)

// Open returns a reader for the content of a regular file.
func (f *FS) Open(file *File) io.Reader { return &content{f: f, file: file, at: file.start} }

// content reads a file block by block.
type content struct {
	f    *FS
	file *File
	rest []byte
	i    int    // next block
	at   uint64 // its position in the image
	done int64  // bytes read from blocks
}

// Read implements io.Reader.
func (c *content) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		if c.done >= c.file.Size {
			return 0, io.EOF
		}
		var err error
		if c.rest, err = c.next(); err != nil {
			return 0, err
		}
		c.done += int64(len(c.rest))
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// next unpacks the next block and checks its length.
func (c *content) next() ([]byte, error) {
	want := int(min(int64(c.f.sb.BlockSize), c.file.Size-c.done))
	if c.i == len(c.file.blocks) {
		return c.f.tail(c.file, want)
	}
	size := c.file.blocks[c.i]
	c.i++
	if size == 0 { // a hole
		return make([]byte, want), nil
	}
	raw, err := c.f.raw(c.at, size)
	if err != nil {
		return nil, err
	}
	c.at += uint64(len(raw))
	if size&stored == 0 {
		raw, err = c.f.unpack(raw, int(c.f.sb.BlockSize))
	}
	if err == nil && len(raw) != want {
		err = bad("a block has %d bytes instead of %d", len(raw), want)
	}
	return raw, err
}

// raw reads a data block without unpacking it.
func (f *FS) raw(at uint64, size uint32) ([]byte, error) {
	n := size &^ stored
	if n > f.sb.BlockSize {
		return nil, bad("a block has %d bytes, but the limit is %d", n, f.sb.BlockSize)
	}
	raw := make([]byte, n)
	return raw, f.readAt(raw, at)
}

// tail returns the end of a file, which is stored in a fragment.
func (f *FS) tail(file *File, want int) ([]byte, error) {
	if int64(file.fragment) >= int64(len(f.fragments)) {
		return nil, bad("there is no fragment %d of %d", file.fragment, len(f.fragments))
	}
	block, err := f.tails.get(file.fragment, func() ([]byte, error) {
		frag := f.fragments[file.fragment]
		raw, err := f.raw(frag.Start, frag.Size)
		if err == nil && frag.Size&stored == 0 {
			raw, err = f.unpack(raw, int(f.sb.BlockSize))
		}
		return raw, err
	})
	if err != nil {
		return nil, err
	}
	if int64(file.offset)+int64(want) > int64(len(block)) {
		return nil, bad("a fragment of %d bytes is too short", len(block))
	}
	return block[file.offset:][:want], nil
}

// Same reports whether two regular files of two images have the same content. It does not unpack
// blocks that are the same in compressed form.
func Same(f *FS, a *File, g *FS, b *File) (bool, error) {
	if a.Size != b.Size {
		return false, nil
	}
	x, y := &content{f: f, file: a, at: a.start}, &content{f: g, file: b, at: b.start}
	if f.sb.Compressor == g.sb.Compressor && f.sb.BlockSize == g.sb.BlockSize {
		if err := skipSame(x, y); err != nil {
			return false, err
		}
	}
	return sameRest(x, y)
}

// skipSame skips the blocks at the beginning whose stored form is the same in both images.
func skipSame(x, y *content) error {
	for x.i < len(x.file.blocks) && y.i < len(y.file.blocks) && x.file.blocks[x.i] == y.file.blocks[y.i] {
		size := x.file.blocks[x.i]
		a, errA := x.f.raw(x.at, size)
		b, errB := y.f.raw(y.at, size)
		if err := errors.Join(errA, errB); err != nil {
			return err
		}
		if !bytes.Equal(a, b) {
			return nil
		}
		for _, c := range []*content{x, y} {
			c.i++
			c.at += uint64(len(a))
			c.done += min(int64(c.f.sb.BlockSize), c.file.Size-c.done)
		}
	}
	return nil
}

// sameRest compares the rest of two files of the same size.
func sameRest(x, y *content) (bool, error) {
	const piece = 64 << 10
	a, b := make([]byte, piece), make([]byte, piece)
	for {
		n, errA := io.ReadFull(x, a)
		m, errB := io.ReadFull(y, b)
		for _, err := range []error{errA, errB} {
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return false, err
			}
		}
		if n != m || !bytes.Equal(a[:n], b[:m]) {
			return false, nil
		}
		if n < piece {
			return true, nil
		}
	}
}
