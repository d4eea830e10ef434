package layer

import (
	"archive/tar"
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
)

// Copy copies the file or tree at src, a path of this machine, to name inside root. It keeps what
// FromDir keeps and is as careful as Apply: it writes nothing outside root, whatever links the tree
// contains. A directory is merged into an existing one. edit, if it is not nil, may change each
// entry (for example its owner).
func Copy(root *os.Root, src, name string, edit func(*tar.Header)) error {
	name = strings.TrimLeft(path.Clean("/"+name), "/")
	return newApplier(rootTarget{root}).copy(&dirReader{dir: src, name: name, edit: edit})
}

// copy applies the entries that d reads, without an archive in between, in which holes would be
// zeros.
func (a *applier) copy(d *dirReader) error {
	d.emit = func(hdr *tar.Header, body *os.File) error {
		if body == nil {
			return a.failed(hdr, a.extract(hdr, nil))
		}
		return a.failed(hdr, a.extract(hdr, body))
	}
	if err := d.walk(); err != nil {
		return err
	}
	return a.finish()
}

// Resolve returns the place that name leads to when root is taken for "/", as a path below root
// without symbolic links. It also follows the last component. If nothing is there, the error is
// fs.ErrNotExist.
func Resolve(root *os.Root, name string) (string, error) { return resolve(root, name) }

func resolve(root lookup, name string) (string, error) {
	for range maxLinks {
		// The path is not cleaned: "link/.." is the parent of the link's target, not the
		// directory of the link.
		dir, base := path.Split(strings.TrimRight(name, "/"))
		if base == "" || base == "." || base == ".." {
			return walk(root, name, nil)
		}
		parent, err := walk(root, dir, nil)
		if err != nil {
			return "", err
		}
		place := path.Join(parent, base)
		fi, err := root.Lstat(place)
		if err != nil || fi.Mode().Type() != fs.ModeSymlink {
			return place, err
		}
		target, err := root.Readlink(place)
		if err != nil {
			return "", err
		}
		if name = target; !path.IsAbs(target) {
			name = parent + "/" + target
		}
	}
	return "", &fs.PathError{Op: "resolve", Path: name, Err: errors.New("too many symbolic links")}
}
