// Package squashfs reads squashfs 4.0 images, as mksquashfs writes them: every file with its owner, mode, attributes and
// content. It needs no mount, no root and no other program, so an unprivileged caller sees what the kernel would.
//
// The format is described in the kernel's Documentation/filesystems/squashfs.rst and fs/squashfs/squashfs_fs.h. Images
// compressed with gzip, xz (without its filters for machine code) and zstd are read; lzma, lzo and lz4 are not.
// It writes nothing (package pack does), and is no fs.FS: it is made for walking through an image once.
package squashfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// ErrFormat is matched by the errors for bytes that are no squashfs, or a damaged one.
var ErrFormat = errors.New("not a sound squashfs")

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

const (
	magic     = 0x73717368
	metaSize  = 8192
	none      = 0xffffffff         // no fragment, no attributes
	noTable   = 0xffffffffffffffff // no such table
	maxBlock  = 1 << 20
	stored    = 1 << 24 // in the size of a data block: it is not compressed
	maxXattrs = 1 << 16
)

// superblock is the beginning of the image.
type superblock struct {
	Magic, Inodes, Time, BlockSize, Fragments uint32
	Compressor, BlockLog, Flags, IDs          uint16
	Major, Minor                              uint16
	Root, Used                                uint64
	IDTable, XattrTable, InodeTable           uint64
	DirTable, FragmentTable, ExportTable      uint64
}

// FS is an open image. It serves one goroutine at a time.
type FS struct {
	r         io.ReaderAt
	sb        superblock
	ids       []uint32
	fragments []fragment
	xattrs    []xattrRef
	pairs     uint64 // where the attributes' metadata begins
	zstd      *zstd.Decoder
	meta      cache[uint64, metaBlock]
	tails     cache[uint32, []byte]
}

// Open reads the superblock and the tables of an image.
func Open(r io.ReaderAt) (*FS, error) {
	f := &FS{r: r, meta: newCache[uint64, metaBlock](64), tails: newCache[uint32, []byte](8)}
	sb := &f.sb
	if err := binary.Read(io.NewSectionReader(r, 0, 96), binary.LittleEndian, sb); err != nil {
		return nil, bad("superblock: %v", err)
	}
	switch {
	case sb.Magic != magic:
		return nil, bad("it begins with %#x", sb.Magic)
	case sb.Major != 4 || sb.Minor != 0:
		return nil, bad("version %d.%d, only 4.0 is known", sb.Major, sb.Minor)
	case sb.BlockSize < 4096 || sb.BlockSize > maxBlock || sb.BlockSize != 1<<(sb.BlockLog&31):
		return nil, bad("blocks of %d bytes", sb.BlockSize)
	}
	switch sb.Compressor {
	case 1, 4, 6:
	default:
		return nil, fmt.Errorf("squashfs with compressor %d cannot be read: only gzip, xz and zstd", sb.Compressor)
	}
	var err error
	if f.zstd, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBlock)); err != nil {
		return nil, err
	}
	if err := errors.Join(f.readIDs(), f.readFragments(), f.readXattrTable()); err != nil {
		return nil, err
	}
	return f, nil
}

// Time is the image's own time, which SOURCE_DATE_EPOCH sets.
func (f *FS) Time() time.Time { return time.Unix(int64(f.sb.Time), 0).UTC() }

// fragment is a block that holds the ends of several files.
type fragment struct {
	Start  uint64
	Size   uint32
	Unused uint32
}

// xattrRef is where the attributes of a file are.
type xattrRef struct {
	Ref   uint64
	Count uint32
	Size  uint32
}

func (f *FS) readIDs() error {
	f.ids = make([]uint32, f.sb.IDs)
	return f.table("ids", f.sb.IDTable, f.ids, 4*len(f.ids))
}

func (f *FS) readFragments() error {
	if f.sb.FragmentTable == noTable || f.sb.Fragments == 0 {
		return nil
	}
	if uint64(f.sb.Fragments) > f.sb.Used { // each is a byte at the least
		return bad("%d fragments in %d bytes", f.sb.Fragments, f.sb.Used)
	}
	var err error
	f.fragments, err = grow[fragment](f, "fragments", f.sb.FragmentTable, f.sb.Fragments, 16)
	return err
}

func (f *FS) readXattrTable() error {
	if f.sb.XattrTable == noTable {
		return nil
	}
	var head struct {
		Start       uint64
		IDs, Unused uint32
	}
	if err := binary.Read(io.NewSectionReader(f.r, int64(f.sb.XattrTable), 16), binary.LittleEndian, &head); err != nil {
		return bad("attributes: %v", err)
	}
	f.pairs = head.Start
	var err error
	f.xattrs, err = grow[xattrRef](f, "attributes", f.sb.XattrTable+16, head.IDs, 16)
	return err
}

// grow reads a table of n elements without believing n: a damaged image must not take memory that it has no bytes for.
func grow[T any](f *FS, what string, at uint64, n uint32, size int) ([]T, error) {
	const step = metaSize / 16
	var out []T
	for done := uint32(0); done < n; done += step {
		part := make([]T, min(n-done, step))
		if err := f.table(what, at+uint64(done)/step*8, part, size*len(part)); err != nil {
			return nil, err
		}
		out = append(out, part...)
	}
	return out, nil
}

// table reads a table of size bytes: a list of places of metadata blocks, which hold the elements one after another.
func (f *FS) table(what string, at uint64, into any, size int) error {
	raw := make([]byte, 0, size)
	for i := 0; len(raw) < size; i++ {
		var place [8]byte
		if err := f.readAt(place[:], at+8*uint64(i)); err != nil {
			return bad("table of %s: %v", what, err)
		}
		b, err := f.metaBlock(binary.LittleEndian.Uint64(place[:]))
		if err != nil {
			return fmt.Errorf("table of %s: %w", what, err)
		}
		if len(b.data) == 0 {
			return bad("table of %s: an empty block", what)
		}
		raw = append(raw, b.data...)
	}
	_, err := binary.Decode(raw[:size], binary.LittleEndian, into)
	return err
}

func (f *FS) readAt(p []byte, at uint64) error {
	if at > 1<<62 {
		return bad("a place at %#x", at)
	}
	n, err := f.r.ReadAt(p, int64(at))
	if n == len(p) {
		return nil
	}
	if err == io.EOF {
		return bad("it ends at %d, before a place it refers to", at+uint64(n))
	}
	return err
}

// unpack uncompresses a block of at most limit bytes.
func (f *FS) unpack(raw []byte, limit int) ([]byte, error) {
	var out []byte
	var err error
	switch f.sb.Compressor {
	case 6:
		out, err = f.zstd.DecodeAll(raw, make([]byte, 0, limit))
	case 1:
		out, err = drain(limit)(zlib.NewReader(bytes.NewReader(raw)))
	case 4:
		out, err = drain(limit)(xz.NewReader(bytes.NewReader(raw)))
	}
	if err == nil && len(out) > limit {
		err = fmt.Errorf("more than %d bytes", limit)
	}
	if err != nil {
		return nil, bad("unpack a block: %v", err)
	}
	return out, nil
}

func drain(limit int) func(io.Reader, error) ([]byte, error) {
	return func(r io.Reader, err error) ([]byte, error) {
		if err != nil {
			return nil, err
		}
		return io.ReadAll(io.LimitReader(r, int64(limit)+1))
	}
}

// metaBlock is 8 KiB of inodes, directory entries or a table, and the place of the next one.
type metaBlock struct {
	data []byte
	next uint64
}

func (f *FS) metaBlock(at uint64) (metaBlock, error) {
	return f.meta.get(at, func() (metaBlock, error) {
		var head [2]byte
		if err := f.readAt(head[:], at); err != nil {
			return metaBlock{}, err
		}
		size := binary.LittleEndian.Uint16(head[:])
		raw := make([]byte, size&0x7fff)
		if err := f.readAt(raw, at+2); err != nil {
			return metaBlock{}, err
		}
		b := metaBlock{raw, at + 2 + uint64(len(raw))}
		if size&0x8000 != 0 {
			if len(raw) > metaSize {
				return metaBlock{}, bad("metadata of %d bytes", len(raw))
			}
			return b, nil
		}
		var err error
		b.data, err = f.unpack(raw, metaSize)
		return b, err
	})
}

// metaReader reads on from a place in the metadata, from block to block.
type metaReader struct {
	f    *FS
	rest []byte
	next uint64
}

// metadata begins at a reference: the place of a block, counted from start, and in the lower 16 bits one in it.
func (f *FS) metadata(start, ref uint64) (*metaReader, error) {
	b, err := f.metaBlock(start + ref>>16)
	if err != nil {
		return nil, err
	}
	offset := int(ref & 0xffff)
	if offset > len(b.data) {
		return nil, bad("place %d in metadata of %d bytes", offset, len(b.data))
	}
	return &metaReader{f, b.data[offset:], b.next}, nil
}

// Read implements io.Reader.
func (m *metaReader) Read(p []byte) (int, error) {
	if len(m.rest) == 0 && len(p) > 0 {
		b, err := m.f.metaBlock(m.next)
		if err != nil {
			return 0, err
		}
		if len(b.data) == 0 {
			return 0, bad("an empty block of metadata")
		}
		m.rest, m.next = b.data, b.next
	}
	n := copy(p, m.rest)
	m.rest = m.rest[n:]
	return n, nil
}

// get decodes a value of fixed size.
func (m *metaReader) get(v any) error { return binary.Read(m, binary.LittleEndian, v) }

func (m *metaReader) text(n int) (string, error) {
	var b strings.Builder
	_, err := io.CopyN(&b, m, int64(n)) // piece by piece: n may be a lie
	return b.String(), err
}

// cache keeps the last few values.
type cache[K comparable, V any] struct {
	values map[K]V
	order  []K
	size   int
}

func newCache[K comparable, V any](size int) cache[K, V] {
	return cache[K, V]{values: make(map[K]V), size: size}
}

func (c *cache[K, V]) get(key K, read func() (V, error)) (V, error) {
	if v, ok := c.values[key]; ok {
		return v, nil
	}
	v, err := read()
	if err != nil {
		return v, err
	}
	if len(c.order) == c.size {
		delete(c.values, c.order[0])
		c.order = c.order[1:]
	}
	c.values[key], c.order = v, append(c.order, key)
	return v, nil
}
