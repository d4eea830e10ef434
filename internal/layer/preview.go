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

// Dir is a layer that lies in a directory of this machine.
type Dir struct {
	Name string
	Path string
	Edit func(*tar.Header) // as of FromDir
}

// Preview is what layers make of a tree.
type Preview struct {
	Changes []Change // by path, a directory before what is in it
	Reports []Report
}

// Change is one place that layers brought, changed or emptied. What they brought may be as the tree had it.
type Change struct {
	Path  string // "/etc/motd"
	Layer string // the last that had a hand in it
	Old   *File  // what the tree has there; nil: nothing
	New   *File  // nil: removed
}

// File is what there is to know of a file.
type File struct {
	Mode    uint32 // type and permission, as in stat(2)
	UID     int
	GID     int
	Size    int64             // bytes, of a regular file
	Target  string            // of a symbolic link
	Rdev    uint64            // of a device
	Link    string            // the first name of a file that has several, when this is another one: "/etc/motd"
	Xattrs  map[string]string // by name
	Sum     [32]byte          // SHA-256 of a regular file that a layer brought
	Content []byte            // of such a file, if it is not too large
}

// Report is something that a layer asks for and does not get.
type Report struct {
	Layer string
	Err   error
}

// Look finds out what a node's root will be when it is made of tree, by the same code that the node runs, and writes
// nothing: first the layers that the tree itself has, named as for ApplyTree, then dirs, of which too the first wins.
// Nothing but those places of the tree is read that the layers touch.
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

// ByComponents sorts a directory before what is in it, and that before what follows the directory.
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
