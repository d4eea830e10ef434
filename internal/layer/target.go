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

// lookup finds the file with a name. *os.Root implements it.
type lookup interface {
	Lstat(name string) (fs.FileInfo, error)
	Readlink(name string) (string, error)
}

// target is what layers are applied to: a root, or a sketch that shows the result. A place is a
// path below the root without symbolic links among its parents.
type target interface {
	lookup
	// create makes a file, directory, symbolic link, pipe or device, or a hard link to the file
	// at the place hdr.Linkname. The place must be empty. Until setAttributes is called, only a
	// directory may be used.
	create(place string, hdr *tar.Header, body io.Reader) error
	// setAttributes sets owner, mode, extended attributes and time.
	setAttributes(place string, hdr *tar.Header) error
	// remove removes any entry. For a directory that is not empty the error is unix.ENOTEMPTY.
	remove(place string) error
	// removeAll removes a directory and everything in it. If a file system is mounted there, it
	// removes nothing.
	removeAll(place string) error
	// otherFileSystem reports whether a directory is on another file system than the root.
	otherFileSystem(dir string) (bool, error)
}

// rootTarget is a root on disk.
type rootTarget struct{ *os.Root }

func (r rootTarget) remove(place string) error { return r.Remove(place) }

func (r rootTarget) create(place string, hdr *tar.Header, body io.Reader) error {
	switch hdr.Typeflag {
	case tar.TypeDir:
		return r.Mkdir(place, 0o755)
	case tar.TypeReg:
		return r.writeFile(place, body, hdr.Size)
	case tar.TypeSymlink:
		return r.Symlink(hdr.Linkname, place)
	case tar.TypeLink:
		return r.Link(hdr.Linkname, place)
	case tar.TypeFifo:
		return r.mknod(place, unix.S_IFIFO, hdr)
	case tar.TypeChar:
		return r.mknod(place, unix.S_IFCHR, hdr)
	default: // checkHeader has refused all other types
		return r.mknod(place, unix.S_IFBLK, hdr)
	}
}

func (r rootTarget) writeFile(place string, body io.Reader, size int64) error {
	f, err := r.OpenFile(place, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(copyContent(f, body, size), f.Close())
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

// setAttributes sets the attributes in this order because a new owner clears set-user-ID bits and
// file capabilities, and because "user." attributes require write permission, which the mode may
// remove.
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
		// Links have no mode, and fchmodat(2) would follow one. Everything else at base was
		// made here, or is a directory.
		if hdr.Typeflag != tar.TypeSymlink {
			if err := unix.Fchmodat(dir, base, uint32(hdr.Mode&0o7777), 0); err != nil {
				return &fs.PathError{Op: "chmod", Path: place, Err: err}
			}
		}
		return setTime(dir, base, place, hdr.ModTime)
	})
}

// setXattr uses a path in /proc, because setxattrat(2) exists only since Linux 6.13. It does not
// follow the last component.
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

// inParent calls fn with a descriptor of the directory that contains place, for system calls that
// os.Root does not offer. Such a call cannot leave that directory, because it uses one component
// and does not follow it.
func (r rootTarget) inParent(place string, fn func(dir int, base string) error) error {
	d, err := r.Open(path.Dir(place))
	if err != nil {
		return err
	}
	defer d.Close()
	return fn(int(d.Fd()), path.Base(place))
}

func (r rootTarget) otherFileSystem(dir string) (bool, error) {
	top, err := r.device(".")
	if err != nil {
		return false, err
	}
	dev, err := r.device(dir)
	return dev != top, err
}

// device returns the device number of a directory. File systems are compared by their directories,
// because an overlay's files may have device numbers of the layers below
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
		if other, err := r.otherFileSystem(name); err != nil || other {
			return errors.Join(err, fmt.Errorf("cannot be removed: another file system is mounted at /%s", name))
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

// eachBelow calls visit for everything below a directory; fs.SkipDir skips the content of a
// directory. Unlike fs.WalkDir it accepts names that are not UTF-8.
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
