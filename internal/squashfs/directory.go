package squashfs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// dirEntry is one name in a directory.
type dirEntry struct {
	name  string
	ref   uint64 // reference to the inode
	inode uint32 // its number
	kind  uint16 // its type, in the short form
}

// dir copies a directory and everything below it, and returns the new reference. As in every image,
// the inodes of its content come before it.
func (x *expander) dir(path string, ref uint64) (uint64, error) {
	m, err := x.f.metadata(x.f.sb.InodeTable, ref)
	if err != nil {
		return 0, err
	}
	var head inodeHead
	if err := m.get(&head); err != nil {
		return 0, err
	}
	d := extendedDir{Xattr: none}
	switch head.Type {
	case typeDir + extended:
		err = m.get(&d)
	case typeDir:
		var short shortDir
		err = m.get(&short)
		d = extendedDir{Links: short.Links, Size: uint32(short.Size), Start: short.Start, Offset: short.Offset, Parent: short.Parent, Xattr: none}
	default:
		return 0, bad("%s/ is not a directory", path)
	}
	if err != nil {
		return 0, err
	}
	entries, err := x.f.entries(&File{dirStart: d.Start, dirOffset: d.Offset, dirSize: d.Size})
	if err != nil {
		return 0, fmt.Errorf("directory %q: %w", path+"/", err)
	}
	for i := range entries {
		e := &entries[i]
		if name := path + "/" + e.name; e.kind == typeDir {
			e.ref, err = x.dir(name, e.ref)
		} else {
			e.ref, err = x.inode(name, *e)
		}
		if err != nil {
			return 0, fmt.Errorf("file %q: %w", path+"/"+e.name, err)
		}
	}
	index, err := x.list(&d, entries)
	if err != nil {
		return 0, err
	}
	var raw bytes.Buffer
	parts := []any{head, d, index}
	if head.Type == typeDir && len(index) == 0 && d.Size <= math.MaxUint16 {
		parts = []any{head, shortDir{Start: d.Start, Links: d.Links, Size: uint16(d.Size), Offset: d.Offset, Parent: d.Parent}}
	} else {
		head.Type = typeDir + extended
		parts[0] = head
	}
	for _, p := range parts {
		if err := binary.Write(&raw, binary.LittleEndian, p); err != nil {
			return 0, err
		}
	}
	at := x.inodes.pos()
	x.refs[head.Number] = at
	return at, x.inodes.add(raw.Bytes())
}

type shortDir struct {
	Start, Links uint32
	Size, Offset uint16
	Parent       uint32
}

type extendedDir struct {
	Links, Size, Start, Parent uint32
	Indexes, Offset            uint16
	Xattr                      uint32
}

// list writes the names of a directory in runs: the inodes of a run are in one metadata block, and
// their numbers are close. The index, for the inode, has the runs that begin in another block than
// the one before, so that a lookup need not read all.
func (x *expander) list(d *extendedDir, entries []dirEntry) (index []byte, err error) {
	const maxRun = 256
	begin := x.dirs.pos()
	d.Start, d.Offset, d.Indexes, d.Size = uint32(begin>>16), uint16(begin), 0, 3
	last := begin >> 16
	for len(entries) > 0 {
		first, n := entries[0], 0
		var run bytes.Buffer
		for ; n < len(entries) && n < maxRun; n++ {
			e := entries[n]
			delta := int64(e.inode) - int64(first.inode)
			if e.ref>>16 != first.ref>>16 || delta != int64(int16(delta)) {
				break
			}
			run.Write(le(uint16(e.ref), int16(delta), e.kind, uint16(len(e.name)-1)))
			run.WriteString(e.name)
		}
		if at := x.dirs.pos() >> 16; at != last {
			last = at
			index = append(index, le(d.Size-3, uint32(at), uint32(len(first.name)-1))...)
			index = append(index, first.name...)
			d.Indexes++
		}
		text := append(le(uint32(n-1), uint32(first.ref>>16), first.inode), run.Bytes()...)
		if err := x.dirs.add(text); err != nil {
			return nil, err
		}
		d.Size += uint32(len(text))
		entries = entries[n:]
	}
	return index, nil
}

// le encodes integers.
func le(values ...any) []byte {
	var b []byte
	for _, v := range values {
		b, _ = binary.Append(b, binary.LittleEndian, v) // fails only for other types
	}
	return b
}

// tableWriter writes metadata, to which references point.
type tableWriter struct {
	pack packFunc
	out  bytes.Buffer // complete blocks
	// last is the last complete block and its packed form: the list of a large hole is the same
	// block many times.
	last, packed []byte
	rest         []byte // of the last block
}

// pos returns a reference to what is added next.
func (w *tableWriter) pos() uint64 { return uint64(w.out.Len())<<16 | uint64(len(w.rest)) }

func (w *tableWriter) add(p []byte) error {
	w.rest = append(w.rest, p...)
	done := 0
	for ; len(w.rest)-done >= metaSize; done += metaSize {
		if err := w.flush(w.rest[done : done+metaSize]); err != nil {
			return err
		}
	}
	w.rest = append(w.rest[:0], w.rest[done:]...)
	return nil
}

func (w *tableWriter) flush(p []byte) error {
	if !bytes.Equal(p, w.last) {
		block, err := packBlock(w.pack, p)
		if err != nil {
			return err
		}
		w.last, w.packed = bytes.Clone(p), block
	}
	w.out.Write(w.packed)
	return nil
}

// finish returns all blocks.
func (w *tableWriter) finish() ([]byte, error) {
	var err error
	if len(w.rest) > 0 {
		err = w.flush(w.rest)
	}
	return w.out.Bytes(), err
}

// packFunc compresses one block of metadata.
type packFunc func(p []byte) ([]byte, error)

// packBlock returns a metadata block: its length, whose highest bit says that it is not compressed,
// and its content.
func packBlock(pack packFunc, p []byte) ([]byte, error) {
	const asIs = 1 << 15
	packed, err := pack(p)
	if err != nil || len(packed) >= len(p) {
		return append(le(uint16(len(p)|asIs)), p...), err
	}
	return append(le(uint16(len(packed))), packed...), nil
}

// packer returns the function for a compressor of an image.
func packer(compressor uint16) (packFunc, error) {
	type closer interface {
		Write([]byte) (int, error)
		Close() error
	}
	through := func(open func(b *bytes.Buffer) (closer, error)) packFunc {
		return func(p []byte) ([]byte, error) {
			var b bytes.Buffer
			w, err := open(&b)
			if err == nil {
				_, err = w.Write(p)
			}
			if err == nil {
				err = w.Close()
			}
			return b.Bytes(), err
		}
	}
	switch compressor {
	case 6:
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false), zstd.WithEncoderLevel(zstd.SpeedBetterCompression))
		return func(p []byte) ([]byte, error) { return enc.EncodeAll(p, nil), nil }, err
	case 4: // the kernel knows no other check than CRC32
		return through(func(b *bytes.Buffer) (closer, error) {
			return xz.WriterConfig{DictCap: metaSize, CheckSum: xz.CRC32}.NewWriter(b)
		}), nil
	}
	return through(func(b *bytes.Buffer) (closer, error) { return zlib.NewWriterLevel(b, zlib.BestCompression) }), nil
}
