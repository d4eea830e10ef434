package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is the greatest number of symbolic links in one path, as in the kernel (MAXSYMLINKS,
// linux/namei.h).
const maxLinks = 40

// walk finds the directory that name leads to when root is taken for "/", and returns its path
// without symbolic links. Unlike os.Root, which refuses absolute links, it resolves them against
// root; ".." at the top stays at the top, as in chroot(2). mkdir, unless it is nil, makes missing
// directories. If a component is not a directory, the error is unix.ENOTDIR.
func walk(root lookup, name string, mkdir func(place string) error) (string, error) {
	at := "."
	rest := strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		step := rest[0]
		rest = rest[1:]
		if step == "" || step == "." {
			continue
		}
		if step == ".." {
			at = path.Dir(at) // the parent of "." is "."
			continue
		}
		next := path.Join(at, step)
		fi, err := root.Lstat(next)
		if mkdir != nil && errors.Is(err, fs.ErrNotExist) {
			if err = mkdir(next); err == nil {
				at = next
				continue
			}
		}
		switch {
		case err != nil:
			return "", err
		case fi.IsDir():
			at = next
		case fi.Mode().Type() == fs.ModeSymlink:
			if links++; links > maxLinks {
				return "", fmt.Errorf("%s: %w", name, unix.ELOOP)
			}
			target, err := root.Readlink(next)
			if err != nil {
				return "", err
			}
			if path.IsAbs(target) {
				at = "."
			}
			rest = slices.Concat(strings.Split(target, "/"), rest)
		default:
			return "", fmt.Errorf("%s: %w", next, unix.ENOTDIR)
		}
	}
	return at, nil
}
