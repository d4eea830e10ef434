package kernel

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

// tree is a root file system in a directory.
type tree struct {
	root          *os.Root
	dir           string
	compare       func(a, b string) int // compares two kernel releases
	kernelPackage string
	arch          string // as dpkg names it
}

// maxLinks is the limit of the kernel (MAXSYMLINKS in its namei.h).
const maxLinks = 40

// resolve returns the path of name inside the tree without any link in it. As in a chroot, an
// absolute link starts at the top of the tree, and ".." does not lead above it; os.Root refuses
// both.
func (t *tree) resolve(name string) (string, error) {
	rest := strings.Split(name, "/")
	at := "."
	for links := 0; len(rest) > 0; {
		step := path.Join(at, rest[0])
		if step == ".." {
			step = "."
		}
		rest = rest[1:]
		info, err := t.root.Lstat(step)
		if err != nil {
			return "", err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			at = step
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("%s: too many symbolic links", name)
		}
		target, err := t.root.Readlink(step)
		if err != nil {
			return "", err
		}
		if strings.HasPrefix(target, "/") {
			at = "."
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return at, nil
}

// file resolves name, and reports whether it is a regular file that is not empty.
func (t *tree) file(name string) (string, bool) {
	real, err := t.resolve(name)
	if err != nil {
		return "", false
	}
	info, err := t.root.Lstat(real)
	return real, err == nil && info.Mode().IsRegular() && info.Size() > 0
}

func (t *tree) isDir(resolved string) bool {
	info, err := t.root.Lstat(resolved)
	return err == nil && info.IsDir()
}
