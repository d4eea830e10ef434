package squashfs

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// File is one file of an image.
type File struct {
	Mode     uint32 // type and permissions, as in stat(2)
	UID, GID uint32
	ModTime  time.Time
	Inode    uint32            // the same for all hard links of a file
	Links    uint32            // number of hard links
	Size     int64             // in bytes, of a regular file
	Target   string            // target of a symbolic link
	Rdev     uint64            // number of a device, for unix.Major and unix.Minor
	Xattrs   map[string]string // extended attributes; nil if there are none

	start    uint64   // position of the first data block
	blocks   []uint32 // stored sizes
	fragment uint32   // fragment that contains the end of the file, or none
	offset   uint32   // position in the fragment

	dirStart  uint32 // position of a directory's entries
	dirOffset uint16
	dirSize   uint32
}

// Type returns the type of the file: unix.S_IFREG, ...
func (f *File) Type() uint32 { return f.Mode & unix.S_IFMT }

// These are the types of inodes. The number of the extended form is greater by seven.
const (
	typeDir = iota + 1
	typeFile
	typeSymlink
	typeBlock
	typeChar
	typeFIFO
	typeSocket
	extended = 7
)

var typeModes = [...]uint32{typeDir: unix.S_IFDIR, typeFile: unix.S_IFREG, typeSymlink: unix.S_IFLNK,
	typeBlock: unix.S_IFBLK, typeChar: unix.S_IFCHR, typeFIFO: unix.S_IFIFO, typeSocket: unix.S_IFSOCK}

// inode reads the file at a reference.
func (f *FS) inode(ref uint64) (*File, error) {
	m, err := f.metadata(f.sb.InodeTable, ref)
	if err != nil {
		return nil, err
	}
	var head struct {
		Type, Mode, UID, GID uint16
		Time, Number         uint32
	}
	if err := m.get(&head); err != nil {
		return nil, err
	}
	kind, ext := head.Type, head.Type > extended
	if ext {
		kind -= extended
	}
	if kind < typeDir || kind > typeSocket {
		return nil, bad("a file has the unknown type %d", head.Type)
	}
	if int(head.UID) >= len(f.ids) || int(head.GID) >= len(f.ids) {
		return nil, bad("owner %d:%d is not in the table of %d IDs", head.UID, head.GID, len(f.ids))
	}
	file := &File{Mode: typeModes[kind] | uint32(head.Mode&0o7777), UID: f.ids[head.UID], GID: f.ids[head.GID],
		ModTime: time.Unix(int64(head.Time), 0).UTC(), Inode: head.Number, Links: 1, fragment: none}
	xattr := uint32(none)
	switch kind {
	case typeDir:
		err = file.readDir(m, ext, &xattr)
	case typeFile:
		err = file.readRegular(m, ext, &xattr, f.sb.BlockSize)
	default:
		err = file.readSpecial(m, kind, ext, &xattr)
	}
	if err != nil {
		return nil, err
	}
	file.Xattrs, err = f.readXattrs(xattr)
	return file, err
}

func (file *File) readDir(m *metaReader, ext bool, xattr *uint32) error {
	if !ext {
		var d struct {
			Start, Links uint32
			Size, Offset uint16
			Parent       uint32
		}
		err := m.get(&d)
		file.dirStart, file.dirOffset, file.dirSize, file.Links = d.Start, d.Offset, uint32(d.Size), d.Links
		return err
	}
	var d struct {
		Links, Size, Start, Parent uint32
		Indexes, Offset            uint16
		Xattr                      uint32
	}
	err := m.get(&d)
	file.dirStart, file.dirOffset, file.dirSize, file.Links, *xattr = d.Start, d.Offset, d.Size, d.Links, d.Xattr
	return err
}

func (file *File) readRegular(m *metaReader, ext bool, xattr *uint32, blockSize uint32) error {
	if ext {
		var d struct {
			Start, Size, Sparse            uint64
			Links, Fragment, Offset, Xattr uint32
		}
		if err := m.get(&d); err != nil {
			return err
		}
		file.start, file.Size, file.Links = d.Start, int64(d.Size), d.Links
		file.fragment, file.offset, *xattr = d.Fragment, d.Offset, d.Xattr
	} else {
		var d struct{ Start, Fragment, Offset, Size uint32 }
		if err := m.get(&d); err != nil {
			return err
		}
		file.start, file.Size, file.fragment, file.offset = uint64(d.Start), int64(d.Size), d.Fragment, d.Offset
	}
	if file.Size < 0 {
		return bad("a file has the impossible size of %d bytes", uint64(file.Size))
	}
	n := file.Size / int64(blockSize)
	if file.fragment == none && file.Size%int64(blockSize) != 0 {
		n++
	}
	var size [4]byte
	for range n { // one by one, because n may be wrong
		if err := m.get(&size); err != nil {
			return err
		}
		file.blocks = append(file.blocks, binary.LittleEndian.Uint32(size[:]))
	}
	return nil
}

func (file *File) readSpecial(m *metaReader, kind uint16, ext bool, xattr *uint32) error {
	if err := m.get(&file.Links); err != nil {
		return err
	}
	switch kind {
	case typeSymlink:
		var size uint32
		if err := m.get(&size); err != nil {
			return err
		}
		if size > unix.PathMax*16 {
			return bad("the target of a link has %d bytes", size)
		}
		var err error
		if file.Target, err = m.text(int(size)); err != nil {
			return err
		}
	case typeBlock, typeChar:
		var dev uint32
		if err := m.get(&dev); err != nil {
			return err
		}
		// new_decode_dev, include/linux/kdev_t.h
		file.Rdev = unix.Mkdev(dev>>8&0xfff, dev&0xff|dev>>12&0xfff00)
	}
	if ext {
		return m.get(xattr)
	}
	return nil
}

// xattrPrefixes are the name spaces of squashfs.
var xattrPrefixes = [...]string{"user.", "trusted.", "security."}

// readXattrs reads the attributes with an index into the image's table.
func (f *FS) readXattrs(index uint32) (map[string]string, error) {
	if index == none {
		return nil, nil
	}
	if int64(index) >= int64(len(f.xattrs)) {
		return nil, bad("there are no attributes %d of %d", index, len(f.xattrs))
	}
	x := f.xattrs[index]
	m, err := f.metadata(f.pairs, x.Ref)
	if err != nil {
		return nil, err
	}
	out := make(map[string]string)
	for range x.Count {
		name, value, err := f.readXattr(m)
		if err != nil {
			return nil, fmt.Errorf("attributes: %w", err)
		}
		out[name] = value
	}
	return out, nil
}

func (f *FS) readXattr(m *metaReader) (name, value string, err error) {
	const elsewhere = 0x100 // the value is a reference to one that other files share
	var head struct{ Type, Size uint16 }
	if err := m.get(&head); err != nil {
		return "", "", err
	}
	kind := head.Type &^ elsewhere
	if int(kind) >= len(xattrPrefixes) {
		return "", "", bad("an attribute has the unknown type %d", kind)
	}
	if name, err = m.text(int(head.Size)); err != nil {
		return "", "", err
	}
	from := m
	var size uint32
	if head.Type&elsewhere != 0 {
		var ref struct {
			Size uint32
			Ref  uint64
		}
		if err := m.get(&ref); err != nil {
			return "", "", err
		}
		if from, err = f.metadata(f.pairs, ref.Ref); err != nil {
			return "", "", err
		}
	}
	if err := from.get(&size); err != nil {
		return "", "", err
	}
	if size > maxXattrs {
		return "", "", bad("an attribute has %d bytes", size)
	}
	value, err = from.text(int(size))
	return xattrPrefixes[kind] + name, value, err
}

// Walk calls fn for every file of the image, directories before their content, and the entries of
// each directory in the order of their bytes. The root is "/". A file with several names is visited
// once for each name.
func (f *FS) Walk(fn func(path string, file *File) error) error {
	root, err := f.inode(f.sb.Root)
	if err != nil {
		return err
	}
	if root.Type() != unix.S_IFDIR {
		return bad("the root is not a directory")
	}
	if err := fn("/", root); err != nil {
		return err
	}
	return f.walk("", root, map[uint64]bool{f.sb.Root: true}, fn)
}

// walk calls fn for the content of a directory. seen has the directories that were visited: in a
// correct image each is in one place.
func (f *FS) walk(path string, dir *File, seen map[uint64]bool, fn func(string, *File) error) error {
	if len(path) > 1<<16 {
		return bad("the path of a directory has %d bytes", len(path))
	}
	entries, err := f.entries(dir)
	if err != nil {
		return fmt.Errorf("directory %q: %w", path+"/", err)
	}
	for _, e := range entries {
		file, err := f.inode(e.ref)
		if err != nil {
			return fmt.Errorf("file %q: %w", path+"/"+e.name, err)
		}
		if err := fn(path+"/"+e.name, file); err != nil {
			return err
		}
		if file.Type() != unix.S_IFDIR {
			continue
		}
		if seen[e.ref] {
			return bad("the directory %q occurs twice", path+"/"+e.name)
		}
		seen[e.ref] = true
		if err := f.walk(path+"/"+e.name, file, seen, fn); err != nil {
			return err
		}
	}
	return nil
}

// entries reads a directory. Its recorded size is three bytes too large, for "." and "..".
func (f *FS) entries(dir *File) ([]dirEntry, error) {
	if dir.dirSize <= 3 {
		return nil, nil
	}
	m, err := f.metadata(f.sb.DirTable, uint64(dir.dirStart)<<16|uint64(dir.dirOffset))
	if err != nil {
		return nil, err
	}
	var out []dirEntry
	for left := int64(dir.dirSize) - 3; left > 0; {
		var head struct{ Count, Start, Inode uint32 }
		if err := m.get(&head); err != nil {
			return nil, err
		}
		left -= 12
		if head.Count >= 256 {
			return nil, bad("a directory has a run of %d entries", head.Count)
		}
		for range head.Count + 1 {
			var e struct {
				Offset     uint16
				Inode      int16
				Type, Size uint16
			}
			if err := m.get(&e); err != nil {
				return nil, err
			}
			name, err := m.text(int(e.Size) + 1)
			if err != nil {
				return nil, err
			}
			left -= 8 + int64(len(name))
			if name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
				return nil, bad("a file has the invalid name %q", name)
			}
			out = append(out, dirEntry{name, uint64(head.Start)<<16 | uint64(e.Offset), uint32(int64(head.Inode) + int64(e.Inode)), e.Type})
		}
	}
	return out, nil
}
