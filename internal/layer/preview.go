package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Dir is a layer in a directory of this machine.
type Dir struct {
	Name string
	Path string
	Edit func(*tar.Header) // as for FromDir
}

// Preview is the effect of layers on a tree.
type Preview struct {
	Changes []Change // sorted by path; a directory comes before its content
	Reports []Report
}

// Change is one place where layers added, changed or removed a file. An added file may be the same
// as the tree's.
type Change struct {
	Path  string // "/etc/motd"
	Layer string // the last layer that changed the place
	Old   *File  // file in the tree; nil: none
	New   *File  // resulting file; nil: removed
}

// File describes a file.
type File struct {
	Mode    uint32 // type and permissions, as in stat(2)
	UID     int
	GID     int
	Size    int64             // in bytes, of a regular file
	Target  string            // target of a symbolic link
	Rdev    uint64            // number of a device
	Link    string            // first name, if this is a further hard link: "/etc/motd"
	Xattrs  map[string]string // by name
	Sum     [32]byte          // SHA-256 of a regular file that a layer added
	Content []byte            // content of such a file, if it is at most MaxContent bytes
}

// Report is an instruction of a layer that cannot be carried out.
type Report struct {
	Layer string
	Err   error
}

// Look computes what a node's root will be when it is made from tree. It runs the same code as the
// node, but writes nothing. It applies first the layers that the tree itself has, named as for
// ApplyTree, and then dirs; the first of dirs wins. It reads only those places of the tree that the
// layers change.
func Look(tree *os.Root, names []string, dirs []Dir) (*Preview, error) {
	s := &sketch{tree: tree, touched: make(map[string]*sketching)}
	p := &Preview{}
	for _, name := range slices.Backward(names) {
		s.layer = name
		applyTree(s, tree, []string{name}, p.report)
	}
	for _, d := range slices.Backward(dirs) {
		s.layer = d.Name
		a := newApplier(s)
		err := a.layer(func() error { return a.copy(&dirReader{dir: d.Path, edit: d.Edit}) }, func(err error) { p.report(d.Name, err) })
		if err != nil {
			p.report(d.Name, fmt.Errorf("cannot be applied: %w", err))
		}
	}
	return p, p.collect(s)
}

func (p *Preview) report(layer string, err error) {
	p.Reports = append(p.Reports, Report{layer, err})
}

// collect turns the sketch into changes.
func (p *Preview) collect(s *sketch) error {
	first := make(map[*sketched]string)
	places := slices.SortedFunc(maps.Keys(s.touched), ByComponents)
	for _, place := range places {
		t := s.touched[place]
		c := Change{Path: "/" + place, Layer: t.layer}
		_, err := s.old(place)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err == nil {
			before := sketch{tree: s.tree}
			f, err := before.file(place)
			if err != nil {
				return err
			}
			c.Old = f.describe()
		}
		if t.file != nil {
			c.New = t.file.describe()
			name, named := first[t.file]
			if o := t.file.origin; !named && o != "" && o != place && s.touched[o] == nil {
				name, named = "/"+o, true
			}
			if first[t.file] = name; !named {
				first[t.file] = c.Path
			}
			c.New.Link = name
		}
		p.Changes = append(p.Changes, c)
	}
	return nil
}

// ByComponents compares paths so that a directory comes before its content, and its content before
// what follows the directory.
func ByComponents(a, b string) int {
	return strings.Compare(strings.ReplaceAll(a, "/", "\x00"), strings.ReplaceAll(b, "/", "\x00"))
}

var typeBits = map[byte]uint32{
	tar.TypeReg: unix.S_IFREG, tar.TypeDir: unix.S_IFDIR, tar.TypeSymlink: unix.S_IFLNK, tar.TypeFifo: unix.S_IFIFO,
	tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK,
}

func (f *sketched) describe() *File {
	h := f.hdr
	out := &File{Mode: typeBits[h.Typeflag] | uint32(h.Mode&0o7777), UID: h.Uid, GID: h.Gid, Xattrs: make(map[string]string), Sum: f.sum, Content: f.content}
	switch h.Typeflag {
	case tar.TypeReg:
		out.Size = h.Size
	case tar.TypeSymlink:
		out.Target = h.Linkname
	case tar.TypeChar, tar.TypeBlock:
		out.Rdev = unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	}
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, xattrRecord); ok {
			out.Xattrs[name] = value
		}
	}
	return out
}
