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
	"time"

	"golang.org/x/sys/unix"
)

// Apply extracts an archive over root. /proc must be mounted when the archive has extended attributes.
//
// Nothing outside root is read or written, whatever the archive and the tree hold: names that are absolute or contain
// ".." are refused, and symbolic links met on the way are followed as the node will follow them once root is its "/":
// "bin -> usr/bin" and "var/run -> /run" both lead to places inside.
//
// A file, link or device takes the place of what stood there, without writing through it, except a directory that is not
// empty: that is an error. A directory of the archive that stands on a directory, or on a symbolic link to one, is merged
// into it and gives it its owner, mode and time. Missing parents are made (0755). Owner, mode with set-user-ID bits, time
// and extended attributes are set; "user." attributes, which carry no rights, are dropped where the file system has no
// room for them (tmpfs before Linux 6.6). The entry for the root itself ("./", which tar adds) is ignored.
//
// The first error ends it, and what was extracted before stays: the caller boots on or tries the whole archive again.
func Apply(root *os.Root, r io.Reader) error {
	a := applier{root: root, dirs: make(map[string]*tar.Header)}
	tr := tar.NewReader(r)
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			return a.finish()
		}
		if err != nil {
			return fmt.Errorf("layer archive: %w", err)
		}
		if err := a.extract(hdr, tr); err != nil {
			return fmt.Errorf("layer entry %q: %w", hdr.Name, err)
		}
	}
}

type applier struct {
	root *os.Root
	// dirs are the archive's directories by their place in root. Their owner, mode and time are set when all files are
	// in: a file made later would change the time, and could not be made at all in a read-only directory.
	dirs map[string]*tar.Header
}

func (a *applier) extract(hdr *tar.Header, body io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(hdr.Name)
	if err != nil || name == "." {
		return err
	}
	if err := checkHeader(hdr); err != nil {
		return err
	}
	if hdr.Typeflag == tar.TypeDir {
		return a.mkdir(name, hdr)
	}
	parent, err := walk(a.root, path.Dir(name), true)
	if err != nil {
		return err
	}
	place := path.Join(parent, path.Base(name))
	if hdr.Typeflag == tar.TypeLink {
		return a.link(place, hdr.Linkname)
	}
	if err := a.clear(place); err != nil {
		return err
	}
	if err := a.create(place, hdr, body); err != nil {
		return err
	}
	return a.setAttributes(place, hdr)
}

// checkHeader refuses what Apply would otherwise misread.
func checkHeader(hdr *tar.Header) error {
	const maxID = 1<<32 - 2 // 2^32-1 tells chown(2) to leave the owner alone
	if hdr.Uid < 0 || hdr.Uid > maxID || hdr.Gid < 0 || hdr.Gid > maxID {
		return fmt.Errorf("owner %d:%d is not a user and group", hdr.Uid, hdr.Gid)
	}
	for key := range hdr.PAXRecords {
		// A sparse entry of a few bytes may claim to hold exabytes.
		if strings.HasPrefix(key, "GNU.sparse.") {
			return errors.New("is a sparse file, which layers do not have")
		}
	}
	return nil
}

func (a *applier) mkdir(name string, hdr *tar.Header) error {
	place, err := walk(a.root, name, true)
	if errors.Is(err, unix.ENOTDIR) {
		// A file, or a link to one, stands there. If it is a parent that is in the way, this walk says so.
		parent, err := walk(a.root, path.Dir(name), true)
		if err != nil {
			return err
		}
		place = path.Join(parent, path.Base(name))
		if err := a.clear(place); err != nil {
			return err
		}
		if err := a.root.Mkdir(place, 0o755); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	if place != "." {
		a.dirs[place] = hdr
	}
	return nil
}

// clear removes what stands at place, but no directory with files in it.
func (a *applier) clear(place string) error {
	err := a.root.Remove(place)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, unix.ENOTEMPTY):
		return fmt.Errorf("%s is a directory with files in it; a layer does not replace it by something else", place)
	case err != nil:
		return err
	}
	delete(a.dirs, place)
	return nil
}

func (a *applier) create(place string, hdr *tar.Header, body io.Reader) error {
	switch hdr.Typeflag {
	case tar.TypeReg:
		return a.writeFile(place, body)
	case tar.TypeSymlink:
		return a.root.Symlink(hdr.Linkname, place)
	case tar.TypeFifo:
		return a.mknod(place, unix.S_IFIFO, hdr)
	case tar.TypeChar:
		return a.mknod(place, unix.S_IFCHR, hdr)
	case tar.TypeBlock:
		return a.mknod(place, unix.S_IFBLK, hdr)
	default:
		return fmt.Errorf("is of type %q, which layers do not have", hdr.Typeflag)
	}
}

func (a *applier) writeFile(place string, body io.Reader) error {
	f, err := a.root.OpenFile(place, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, body)
	return errors.Join(err, f.Close())
}

// link makes place another name of the file that the archive calls target.
func (a *applier) link(place, target string) error {
	name, err := cleanName(target)
	if err != nil {
		return fmt.Errorf("link target %q: %w", target, err)
	}
	parent, err := walk(a.root, path.Dir(name), false)
	if err != nil {
		return fmt.Errorf("link target %q: %w", target, err)
	}
	old := path.Join(parent, path.Base(name))
	fi, err := a.root.Lstat(old)
	if err != nil {
		return fmt.Errorf("link target %q: %w", target, err)
	}
	if fi.IsDir() || old == place {
		return fmt.Errorf("link target %q: is a directory or the link itself", target)
	}
	if err := a.clear(place); err != nil {
		return err
	}
	return a.root.Link(old, place)
}

func (a *applier) mknod(place string, kind uint32, hdr *tar.Header) error {
	return a.inParent(place, func(dir int, base string) error {
		dev := unix.Mkdev(uint32(hdr.Devmajor), uint32(hdr.Devminor))
		if err := unix.Mknodat(dir, base, kind|0o600, int(dev)); err != nil {
			return &fs.PathError{Op: "mknod", Path: place, Err: err}
		}
		return nil
	})
}

// finish sets what directories are to look like, the deepest first.
func (a *applier) finish() error {
	for _, place := range slices.Backward(slices.Sorted(maps.Keys(a.dirs))) {
		hdr := a.dirs[place]
		if err := a.setAttributes(place, hdr); err != nil {
			return fmt.Errorf("layer entry %q: %w", hdr.Name, err)
		}
	}
	return nil
}

// setAttributes sets owner, extended attributes, mode and time, in this order: a new owner clears set-user-ID bits and
// file capabilities, and "user." attributes want write permission, which the mode may take away.
func (a *applier) setAttributes(place string, hdr *tar.Header) error {
	return a.inParent(place, func(dir int, base string) error {
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
func (a *applier) inParent(place string, fn func(dir int, base string) error) error {
	d, err := a.root.Open(path.Dir(place))
	if err != nil {
		return err
	}
	defer d.Close()
	return fn(int(d.Fd()), path.Base(place))
}
