package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lookup finds what stands under a name; an *os.Root does.
type lookup interface {
	Lstat(name string) (fs.FileInfo, error)
	Readlink(name string) (string, error)
}

// target is what layers are applied to: a root, or the sketch of one that shows what would become of it. A place is a
// path below the root with no symbolic link on the way.
type target interface {
	lookup
	// create makes a file, directory, symbolic link, pipe or device, or another name of what stands at the place
	// hdr.Linkname. Nothing stands there yet. Only a directory may be used before setAttributes.
	create(place string, hdr *tar.Header, body io.Reader) error
	// setAttributes sets owner, mode, extended attributes and time.
	setAttributes(place string, hdr *tar.Header) error
	// remove removes anything but a directory with files in it, which is unix.ENOTEMPTY.
	remove(place string) error
	// removeAll removes a directory and all that is in it, unless something is mounted there: then it removes nothing.
	removeAll(place string) error
	// elsewhere reports a directory on another file system than the root.
	elsewhere(dir string) (bool, error)
}

// rootTarget is a root that is written to.
type rootTarget struct{ *os.Root }

func (r rootTarget) remove(place string) error { return r.Remove(place) }

func (r rootTarget) create(place string, hdr *tar.Header, body io.Reader) error {
	switch hdr.Typeflag {
	case tar.TypeDir:
		return r.Mkdir(place, 0o755)
	case tar.TypeReg:
		return r.writeFile(place, body)
	case tar.TypeSymlink:
		return r.Symlink(hdr.Linkname, place)
	case tar.TypeLink:
		return r.Link(hdr.Linkname, place)
	case tar.TypeFifo:
		return r.mknod(place, unix.S_IFIFO, hdr)
	case tar.TypeChar:
		return r.mknod(place, unix.S_IFCHR, hdr)
	default: // checkHeader let nothing else pass
		return r.mknod(place, unix.S_IFBLK, hdr)
	}
}

func (r rootTarget) writeFile(place string, body io.Reader) error {
	f, err := r.OpenFile(place, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, body)
	return errors.Join(err, f.Close())
}

func (r rootTarget) mknod(place string, kind uint32, hdr *tar.Header) error {
	return r.inParent(place, func(dir int, base string) error {
		dev := unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
		if err := unix.Mknodat(dir, base, kind|0o600, int(dev)); err != nil {
			return &fs.PathError{Op: "mknod", Path: place, Err: err}
		}
		return nil
	})
}

// setAttributes keeps to an order: a new owner clears set-user-ID bits and file capabilities, and "user." attributes want
// write permission, which the mode may take away.
func (r rootTarget) setAttributes(place string, hdr *tar.Header) error {
	return r.inParent(place, func(dir int, base string) error {
		if err := unix.Fchownat(dir, base, hdr.Uid, hdr.Gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &fs.PathError{Op: "chown", Path: place, Err: err}
		}
		for _, key := range slices.Sorted(maps.Keys(hdr.PAXRecords)) {
			if name, ok := strings.CutPrefix(key, xattrRecord); ok {
				if err := setXattr(dir, base, name, hdr.PAXRecords[key]); err != nil {
					return &fs.PathError{Op: "set attribute " + name, Path: place, Err: err}
				}
			}
		}
		// Links have no mode of their own, and fchmodat(2) would follow one. Everything else at base was made here, or
		// is a directory.
		if hdr.Typeflag != tar.TypeSymlink {
			if err := unix.Fchmodat(dir, base, uint32(hdr.Mode&0o7777), 0); err != nil {
				return &fs.PathError{Op: "chmod", Path: place, Err: err}
			}
		}
		return setTime(dir, base, place, hdr.ModTime)
	})
}

// setXattr goes by way of /proc because there is no setxattrat(2) before Linux 6.13. The last component is not followed.
func setXattr(dir int, base, name, value string) error {
	err := unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", dir, base), name, []byte(value), 0)
	if errors.Is(err, unix.ENOTSUP) && strings.HasPrefix(name, "user.") {
		return nil
	}
	return err
}

func setTime(dir int, base, place string, mtime time.Time) error {
	ts := []unix.Timespec{{Sec: 0, Nsec: unix.UTIME_NOW}, {Sec: mtime.Unix(), Nsec: int64(mtime.Nanosecond())}}
	if err := unix.UtimesNanoAt(dir, base, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "set time", Path: place, Err: err}
	}
	return nil
}

// inParent calls fn with a descriptor of the directory that holds place, for system calls that os.Root does not have.
// With one component and without following it they cannot leave that directory.
func (r rootTarget) inParent(place string, fn func(dir int, base string) error) error {
	d, err := r.Open(path.Dir(place))
	if err != nil {
		return err
	}
	defer d.Close()
	return fn(int(d.Fd()), path.Base(place))
}

func (r rootTarget) elsewhere(dir string) (bool, error) {
	top, err := r.device(".")
	if err != nil {
		return false, err
	}
	dev, err := r.device(dir)
	return dev != top, err
}

// device tells file systems apart by their directories: an overlay's files may have numbers of the layers below
// (Documentation/filesystems/overlayfs.rst, "Inode properties").
func (r rootTarget) device(dir string) (uint64, error) {
	fi, err := r.Lstat(dir)
	if err != nil {
		return 0, err
	}
	return uint64(fi.Sys().(*syscall.Stat_t).Dev), nil
}

func (r rootTarget) removeAll(place string) error {
	check := func(name string, d fs.DirEntry) error {
		if d != nil && !d.IsDir() {
			return nil
		}
		if other, err := r.elsewhere(name); err != nil || other {
			return errors.Join(err, fmt.Errorf("another file system is mounted at /%s", name))
		}
		return nil
	}
	if err := check(place, nil); err != nil {
		return err
	}
	if err := eachBelow(r.Root, place, check); err != nil {
		return err
	}
	return r.RemoveAll(place)
}

// eachBelow calls visit for all that is below a directory; fs.SkipDir leaves out what is in one. Unlike fs.WalkDir it
// takes names that are not UTF-8.
func eachBelow(root *os.Root, dir string, visit func(name string, d fs.DirEntry) error) error {
	f, err := root.Open(dir)
	if err != nil {
		return err
	}
	entries, err := f.ReadDir(-1)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	for _, d := range entries {
		name := path.Join(dir, d.Name())
		err := visit(name, d)
		if err == nil && d.IsDir() {
			err = eachBelow(root, name, visit)
		}
		if err != nil && !errors.Is(err, fs.SkipDir) {
			return err
		}
	}
	return nil
}
