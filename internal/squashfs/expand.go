package squashfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Spread says which blocks of a large file are those that the image has, in order. The other blocks
// become holes.
type Spread struct {
	Size   int64   // of the whole file, in bytes
	Blocks []int64 // numbers of the blocks in the file, rising
}

// Expand gives files of an image their holes: the image has each of these files without the blocks
// that are holes, because the program that writes images would read them. The data in the image stays
// where it is. The tables behind it, with inodes and directories, are written again, because an inode
// lists all blocks of its file, holes too. The image must not have fragments. After an error it is no
// longer usable.
func Expand(image *os.File, files map[string]Spread) error {
	f, err := Open(image)
	if err != nil {
		return err
	}
	pack, err := packer(f.sb.Compressor)
	if err != nil {
		return err
	}
	if f.sb.Fragments > 0 {
		return errors.New("the image has fragments")
	}
	x := &expander{f: f, files: files, inodes: tableWriter{pack: pack}, dirs: tableWriter{pack: pack}, refs: map[uint32]uint64{}}
	root, err := x.dir("", f.sb.Root)
	if err != nil {
		return err
	}
	if x.done != len(files) {
		return fmt.Errorf("only %d of the %d files with holes are in the image", x.done, len(files))
	}
	xattrs, head, err := f.rawXattrs()
	if err != nil {
		return err
	}
	return x.write(image, root, xattrs, head)
}

// expander copies the inodes and directories of an image.
type expander struct {
	f            *FS
	files        map[string]Spread
	done         int // files that were found
	inodes, dirs tableWriter
	refs         map[uint32]uint64 // new references by the number of the inode
}

// inode copies the inode of anything but a directory, and returns its new reference.
func (x *expander) inode(path string, e dirEntry) (uint64, error) {
	if ref, ok := x.refs[e.inode]; ok { // a hard link
		return ref, nil
	}
	m, err := x.f.metadata(x.f.sb.InodeTable, e.ref)
	if err != nil {
		return 0, err
	}
	var raw bytes.Buffer
	t := io.TeeReader(m, &raw)
	var head inodeHead
	if err := binary.Read(t, binary.LittleEndian, &head); err != nil {
		return 0, err
	}
	s, spread := x.files[path]
	if spread {
		text, err := x.spread(m, head, s)
		if err != nil {
			return 0, err
		}
		raw.Reset()
		raw.Write(text)
		x.done++
	} else if err := x.f.copyInode(t, head.Type); err != nil {
		return 0, err
	}
	ref := x.inodes.pos()
	x.refs[e.inode] = ref
	return ref, x.inodes.add(raw.Bytes())
}

// inodeHead begins every inode.
type inodeHead struct {
	Type, Mode, UID, GID uint16
	Time, Number         uint32
}

// copyInode reads the rest of an inode from a reader that keeps what is read.
func (f *FS) copyInode(r io.Reader, kind uint16) error {
	skip := func(n int64) error {
		_, err := io.CopyN(io.Discard, r, n)
		return err
	}
	ext := kind > extended
	if ext {
		kind -= extended
	}
	var rest int64 // of the fixed part, behind what is read here
	switch kind {
	case typeFile:
		return f.copyFileInode(r, ext)
	case typeSymlink:
		var s struct{ Links, Size uint32 }
		if err := binary.Read(r, binary.LittleEndian, &s); err != nil {
			return err
		}
		if s.Size > unix.PathMax*16 {
			return bad("the target of a link has %d bytes", s.Size)
		}
		rest = int64(s.Size)
	case typeBlock, typeChar:
		rest = 8
	case typeFIFO, typeSocket:
		rest = 4
	default:
		return bad("a file has the unknown type %d", kind)
	}
	if ext {
		rest += 4 // attributes
	}
	return skip(rest)
}

func (f *FS) copyFileInode(r io.Reader, ext bool) error {
	var size int64
	if ext {
		var d extendedFile
		if err := binary.Read(r, binary.LittleEndian, &d); err != nil {
			return err
		}
		size = int64(d.Size)
	} else {
		var d struct{ Start, Fragment, Offset, Size uint32 }
		if err := binary.Read(r, binary.LittleEndian, &d); err != nil {
			return err
		}
		size = int64(d.Size)
	}
	if size < 0 {
		return bad("a file has the impossible size of %d bytes", uint64(size))
	}
	block := int64(f.sb.BlockSize)
	_, err := io.CopyN(io.Discard, r, (size+block-1)/block*4)
	return err
}

// extendedFile is the inode of a regular file that is large, sparse, linked, or has attributes.
type extendedFile struct {
	Start, Size, Sparse            uint64
	Links, Fragment, Offset, Xattr uint32
}

// spread returns the inode of a file with its holes.
func (x *expander) spread(m *metaReader, head inodeHead, s Spread) ([]byte, error) {
	file, xattr := &File{Links: 1, fragment: none}, uint32(none)
	if head.Type != typeFile && head.Type != typeFile+extended {
		return nil, errors.New("a file with holes is not a regular file in the image")
	}
	if err := file.readRegular(m, head.Type > extended, &xattr, x.f.sb.BlockSize); err != nil {
		return nil, err
	}
	block := int64(x.f.sb.BlockSize)
	all := make([]uint32, (s.Size+block-1)/block)
	if len(file.blocks) != len(s.Blocks) || file.fragment != none {
		return nil, fmt.Errorf("a file with holes has %d blocks in the image instead of %d", len(file.blocks), len(s.Blocks))
	}
	for i, at := range s.Blocks {
		all[at] = file.blocks[i]
	}
	d := extendedFile{Start: file.start, Size: uint64(s.Size), Links: file.Links, Fragment: none, Xattr: xattr}
	for i, size := range all {
		if size == 0 {
			d.Sparse += uint64(min(block, s.Size-int64(i)*block))
		}
	}
	head.Type = typeFile + extended
	var b bytes.Buffer
	for _, v := range []any{head, d, all} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// write writes the tables behind the data, in the order of mksquashfs, and the superblock.
func (x *expander) write(image *os.File, root uint64, xattrs []byte, head xattrHead) error {
	sb := x.f.sb
	out := &tail{at: sb.InodeTable}
	inodes, inodesErr := x.inodes.finish()
	dirs, dirsErr := x.dirs.finish()
	if err := errors.Join(inodesErr, dirsErr); err != nil {
		return err
	}
	out.Write(inodes)
	sb.DirTable = out.pos()
	out.Write(dirs)
	if sb.FragmentTable != noTable {
		sb.FragmentTable = out.pos()
	}
	if sb.ExportTable != noTable {
		refs := make([]uint64, sb.Inodes)
		for number, ref := range x.refs {
			if number < 1 || int(number) > len(refs) {
				return bad("inode %d of %d", number, len(refs))
			}
			refs[number-1] = ref
		}
		sb.ExportTable = out.table(x.inodes.pack, refs)
	}
	sb.IDTable = out.table(x.inodes.pack, x.f.ids)
	if sb.XattrTable != noTable {
		sb.XattrTable = out.pos() + sb.XattrTable - head.Start
		moved := out.pos() - head.Start
		at := len(xattrs) - 16 - 8*head.blocks()
		binary.LittleEndian.PutUint64(xattrs[at:], head.Start+moved)
		for at += 16; at < len(xattrs); at += 8 {
			binary.LittleEndian.PutUint64(xattrs[at:], binary.LittleEndian.Uint64(xattrs[at:])+moved)
		}
		out.Write(xattrs)
	}
	sb.Root, sb.Used = root, out.pos()
	if out.err != nil {
		return out.err
	}
	if n := out.pos() % page; n > 0 {
		out.Write(make([]byte, page-n))
	}
	var begin bytes.Buffer
	if err := binary.Write(&begin, binary.LittleEndian, sb); err != nil {
		return err
	}
	_, err := image.WriteAt(begin.Bytes(), 0)
	_, tailErr := image.WriteAt(out.Bytes(), int64(out.at))
	return errors.Join(err, tailErr, image.Truncate(int64(out.pos())))
}

// page is what mksquashfs pads an image to, so that it can be a disk.
const page = 4096

// xattrHead begins the table of attributes.
type xattrHead struct {
	Start       uint64
	IDs, Unused uint32
}

// blocks returns the number of metadata blocks of the table.
func (h xattrHead) blocks() int { return (int(h.IDs)*16 + metaSize - 1) / metaSize }

// rawXattrs returns all bytes of the attributes, which end the image.
func (f *FS) rawXattrs() (raw []byte, head xattrHead, err error) {
	if f.sb.XattrTable == noTable {
		return nil, head, nil
	}
	err = binary.Read(io.NewSectionReader(f.r, int64(f.sb.XattrTable), 16), binary.LittleEndian, &head)
	if err != nil {
		return nil, head, bad("attributes: %v", err)
	}
	end := f.sb.XattrTable + 16 + 8*uint64(head.blocks())
	if head.Start > f.sb.XattrTable || end > f.sb.Used {
		return nil, head, bad("the attributes are not at the end of the image")
	}
	raw = make([]byte, end-head.Start)
	return raw, head, f.readAt(raw, head.Start)
}

// tail is the end of an image, from position at on.
type tail struct {
	bytes.Buffer
	at  uint64
	err error
}

func (t *tail) pos() uint64 { return t.at + uint64(t.Len()) }

// table writes the elements in metadata blocks, followed by the positions of these blocks, and
// returns the position of that list.
func (t *tail) table(pack packFunc, elements any) uint64 {
	var raw bytes.Buffer
	t.err = errors.Join(t.err, binary.Write(&raw, binary.LittleEndian, elements))
	var starts []uint64
	for raw.Len() > 0 {
		starts = append(starts, t.pos())
		block, err := packBlock(pack, raw.Next(metaSize))
		t.err = errors.Join(t.err, err)
		t.Write(block)
	}
	at := t.pos()
	t.err = errors.Join(t.err, binary.Write(t, binary.LittleEndian, starts))
	return at
}
