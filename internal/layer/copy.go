package layer

import (
	"archive/tar"
	"errors"
	"io"
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

// copy applies the entries that d reads.
func (a *applier) copy(d *dirReader) error {
	pr, pw := io.Pipe()
	d.tw = tar.NewWriter(pw)
	done := make(chan struct{})
	go func() {
		defer close(done)
		pw.CloseWithError(d.archive())
	}()
	err := a.apply(pr)
	pr.CloseWithError(errors.New("no longer read"))
	<-done // the reader may still report an error
	return err
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
