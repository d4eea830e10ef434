// Package squashfs reads squashfs 4.0 images as mksquashfs writes them: every file with its owner,
// mode, attributes and content. It requires neither a mount nor root nor another program, so that
// an unprivileged caller sees what the kernel would.
//
// The format is described in the kernel's Documentation/filesystems/squashfs.rst and
// fs/squashfs/squashfs_fs.h. The package reads images that are compressed with gzip, xz (without
// its filters for machine code) and zstd, but not with lzma, lzo or lz4. It does not write images
// (package pack does), but gives files of an image their holes (Expand), and it is not an fs.FS: it is for walking once through an image.
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

// ErrFormat is matched by errors about bytes that are not a squashfs or are damaged.
var ErrFormat = errors.New("not a valid squashfs")

func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
}

const (
	magic     = 0x73717368
	metaSize  = 8192
	none      = 0xffffffff         // no fragment, no attributes
	noTable   = 0xffffffffffffffff // the table does not exist
	maxBlock  = 1 << 20
	stored    = 1 << 24 // flag in the size of a data block: the block is not compressed
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

// FS is an open image. Only one goroutine may use it at a time.
type FS struct {
	r         io.ReaderAt
	sb        superblock
	ids       []uint32
	fragments []fragment
	xattrs    []xattrRef
	pairs     uint64 // position of the metadata of the attributes
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
		return nil, bad("the first bytes are %#x", sb.Magic)
	case sb.Major != 4 || sb.Minor != 0:
		return nil, bad("version %d.%d is not supported, only 4.0", sb.Major, sb.Minor)
	case sb.BlockSize < 4096 || sb.BlockSize > maxBlock || sb.BlockSize != 1<<(sb.BlockLog&31):
		return nil, bad("the block size is %d bytes", sb.BlockSize)
	}
	switch sb.Compressor {
	case 1, 4, 6:
	default:
		return nil, fmt.Errorf("cannot read a squashfs with compressor %d, only gzip, xz and zstd", sb.Compressor)
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

// Time returns the time of the image, which SOURCE_DATE_EPOCH sets.
func (f *FS) Time() time.Time { return time.Unix(int64(f.sb.Time), 0).UTC() }

// fragment is a block that contains the ends of several files.
type fragment struct {
	Start  uint64
	Size   uint32
	Unused uint32
}

// xattrRef is the position of the attributes of a file.
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
	if uint64(f.sb.Fragments) > f.sb.Used { // each takes at least one byte
		return bad("%d fragments do not fit into %d bytes", f.sb.Fragments, f.sb.Used)
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

// grow reads a table of n elements. It does not trust n: a damaged image must not make it allocate
// memory for bytes that the image does not have.
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

// table reads a table of size bytes: a list of the positions of metadata blocks, which contain the
// elements in order.
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
			return bad("table of %s: a block is empty", what)
		}
		raw = append(raw, b.data...)
	}
	_, err := binary.Decode(raw[:size], binary.LittleEndian, into)
	return err
}

func (f *FS) readAt(p []byte, at uint64) error {
	if at > 1<<62 {
		return bad("a position is %#x", at)
	}
	n, err := f.r.ReadAt(p, int64(at))
	if n == len(p) {
		return nil
	}
	if err == io.EOF {
		return bad("the image ends at %d, before a position that it refers to", at+uint64(n))
	}
	return err
}

// unpack decompresses a block of at most limit bytes.
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

// metaBlock is 8 KiB of inodes, directory entries or a table, and the position of the next block.
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
				return metaBlock{}, bad("a block of metadata has %d bytes", len(raw))
			}
			return b, nil
		}
		var err error
		b.data, err = f.unpack(raw, metaSize)
		return b, err
	})
}

// metaReader reads metadata from a position on, across blocks.
type metaReader struct {
	f    *FS
	rest []byte
	next uint64
}

// metadata returns a reader at a reference: the upper bits are the position of a block, relative to
// start, and the lower 16 bits a position in the block.
func (f *FS) metadata(start, ref uint64) (*metaReader, error) {
	b, err := f.metaBlock(start + ref>>16)
	if err != nil {
		return nil, err
	}
	offset := int(ref & 0xffff)
	if offset > len(b.data) {
		return nil, bad("position %d in metadata of %d bytes", offset, len(b.data))
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
			return 0, bad("a block of metadata is empty")
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
	_, err := io.CopyN(&b, m, int64(n)) // in steps, because n may be wrong
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
