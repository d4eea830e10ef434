package layer

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// sketch is a target that writes nothing. It records, like an overlay, where the result differs
// from the tree below it.
type sketch struct {
	tree    *os.Root
	layer   string                // name of the layer that is being applied
	touched map[string]*sketching // by place
}

// sketching is the effect of layers on one place.
type sketching struct {
	file  *sketched // nil: removed
	fresh bool      // a directory made by layers, which hides the tree's files below it
	layer string    // the last layer that changed the place
}

// sketched is a file with all its names.
type sketched struct {
	hdr     tar.Header
	sum     [sha256.Size]byte
	content []byte // content of a regular file of at most MaxContent bytes
	origin  string // the tree's name of a file that the tree has
}

// MaxContent is the greatest size, in bytes, of a file whose content a sketch keeps. Files that
// people write are smaller.
const MaxContent = 64 << 10

func (s *sketch) Lstat(name string) (fs.FileInfo, error) {
	if t, ok := s.touched[name]; ok {
		if t.file == nil {
			return nil, &fs.PathError{Op: "lstat", Path: name, Err: fs.ErrNotExist}
		}
		return t.file.hdr.FileInfo(), nil
	}
	if s.hidden(name) {
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: fs.ErrNotExist}
	}
	return s.tree.Lstat(name)
}

// hidden reports whether a name lies below a place that layers removed or made again, so that the
// tree's files are hidden there.
func (s *sketch) hidden(name string) bool {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if t := s.touched[dir]; t != nil && (t.file == nil || t.fresh) {
			return true
		}
	}
	return false
}

func (s *sketch) Readlink(name string) (string, error) {
	if t, ok := s.touched[name]; ok && t.file != nil {
		return t.file.hdr.Linkname, nil
	}
	return s.tree.Readlink(name)
}

func (s *sketch) create(place string, hdr *tar.Header, body io.Reader) error {
	f := &sketched{hdr: *hdr}
	switch hdr.Typeflag {
	case tar.TypeReg:
		if err := f.read(body); err != nil {
			return err
		}
	case tar.TypeLink:
		var err error
		if f, err = s.file(hdr.Linkname); err != nil {
			return err
		}
	}
	s.touched[place] = &sketching{file: f, fresh: hdr.Typeflag == tar.TypeDir, layer: s.layer}
	return nil
}

func (f *sketched) read(body io.Reader) error {
	var kept bytes.Buffer
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(sum, &kept), io.LimitReader(body, MaxContent))
	if err != nil {
		return err
	}
	f.content = kept.Bytes()
	more, err := io.Copy(sum, body)
	if more > 0 {
		f.content = nil
	}
	f.hdr.Size = n + more
	sum.Sum(f.sum[:0])
	return err
}

// file returns the file at a place.
func (s *sketch) file(place string) (*sketched, error) {
	if t := s.touched[place]; t != nil && t.file != nil {
		return t.file, nil
	}
	fi, err := s.tree.Lstat(place)
	if err != nil {
		return nil, err
	}
	d := dirReader{labels: true, links: make(map[inode]string)}
	hdr, err := d.header(s.tree.Name()+"/"+place, place, fi)
	if err != nil {
		return nil, err
	}
	return &sketched{hdr: *hdr, origin: place}, nil
}

func (s *sketch) setAttributes(place string, hdr *tar.Header) error {
	t := s.touched[place]
	if t == nil { // a directory of the tree
		f, err := s.file(place)
		if err != nil {
			return err
		}
		t = &sketching{file: f}
		s.touched[place] = t
	}
	t.layer = s.layer
	to := &t.file.hdr
	to.Mode, to.Uid, to.Gid, to.ModTime = hdr.Mode, hdr.Uid, hdr.Gid, hdr.ModTime
	attributes := maps.Clone(to.PAXRecords)
	if attributes == nil {
		attributes = make(map[string]string)
	}
	maps.Copy(attributes, hdr.PAXRecords)
	to.PAXRecords = attributes
	return nil
}

func (s *sketch) remove(place string) error {
	fi, err := s.Lstat(place)
	if err != nil {
		return err
	}
	if fi.IsDir() {
		below, err := s.below(place)
		if err != nil {
			return err
		}
		if len(below) > 0 {
			return &fs.PathError{Op: "remove", Path: place, Err: unix.ENOTEMPTY}
		}
	}
	s.markEmpty(place)
	return nil
}

func (s *sketch) removeAll(place string) error {
	below, err := s.below(place)
	if err != nil {
		return err
	}
	s.markEmpty(place)
	for _, name := range below {
		s.markEmpty(name)
	}
	return nil
}

// markEmpty records that a place is empty.
func (s *sketch) markEmpty(place string) {
	if _, err := s.old(place); errors.Is(err, fs.ErrNotExist) {
		delete(s.touched, place)
		return
	}
	s.touched[place] = &sketching{layer: s.layer}
}

// old returns the tree's file at a place. Parents of the place may be links in the tree.
func (s *sketch) old(place string) (fs.FileInfo, error) {
	dir, err := walk(s.tree, path.Dir(place), nil)
	if errors.Is(err, unix.ENOTDIR) || err == nil && dir != path.Dir(place) {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	return s.tree.Lstat(place)
}

// below lists everything below a directory.
func (s *sketch) below(dir string) ([]string, error) {
	var names []string
	for name, t := range s.touched {
		if t.file != nil && strings.HasPrefix(name, dir+"/") {
			names = append(names, name)
		}
	}
	if fi, err := s.old(dir); err != nil || !fi.IsDir() || s.hidden(dir+"/x") {
		return names, nil
	}
	err := eachBelow(s.tree, dir, func(name string, d fs.DirEntry) error {
		t := s.touched[name]
		switch {
		case t == nil:
			names = append(names, name)
		case d.IsDir() && (t.file == nil || t.fresh):
			return fs.SkipDir
		}
		return nil
	})
	return names, err
}

func (s *sketch) otherFileSystem(string) (bool, error) { return false, nil } // a tree has no mounts
