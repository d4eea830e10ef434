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
func Apply(root *os.Root, r io.Reader) error { return newApplier(rootTarget{root}).apply(r) }

type applier struct {
	target
	// dirs are the archive's directories by their place. Their owner, mode and time are set when all files are in: a
	// file made later would change the time, and could not be made at all in a read-only directory.
	dirs map[string]*tar.Header
	// take, where it is not nil, is shown every entry first, by its clean name, and keeps those that it returns true for.
	take func(name string, hdr *tar.Header, body io.Reader) (bool, error)
	// report, where it is not nil, is told of an entry that cannot be extracted, and the others follow.
	report func(error)
}

func newApplier(t target) *applier { return &applier{target: t, dirs: make(map[string]*tar.Header)} }

func (a *applier) apply(r io.Reader) error {
	tr := tar.NewReader(r)
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			return a.finish()
		}
		if err != nil {
			return fmt.Errorf("layer archive: %w", err)
		}
		if err := a.failed(hdr, a.extract(hdr, tr)); err != nil {
			return err
		}
	}
}

// failed gives an error its entry's name, and passes it on or reports it.
func (a *applier) failed(hdr *tar.Header, err error) error {
	if err == nil {
		return nil
	}
	if err = fmt.Errorf("layer entry %q: %w", hdr.Name, err); a.report != nil {
		a.report(err)
		return nil
	}
	return err
}

func (a *applier) extract(hdr *tar.Header, body io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := cleanName(hdr.Name)
	if err != nil || name == "." {
		return err
	}
	if a.take != nil {
		if taken, err := a.take(name, hdr, body); taken || err != nil {
			return err
		}
	}
	if err := checkHeader(hdr); err != nil {
		return err
	}
	if hdr.Typeflag == tar.TypeDir {
		return a.mergeDir(name, hdr)
	}
	parent, err := walk(a, path.Dir(name), a.mkdir)
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
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
	default:
		return fmt.Errorf("is of type %q, which layers do not have", hdr.Typeflag)
	}
	for key := range hdr.PAXRecords {
		// A sparse entry of a few bytes may claim to hold exabytes.
		if strings.HasPrefix(key, "GNU.sparse.") {
			return errors.New("is a sparse file, which layers do not have")
		}
	}
	return nil
}

// mkdir makes a directory that only is on the way.
func (a *applier) mkdir(place string) error {
	hdr := &tar.Header{Typeflag: tar.TypeDir, Name: place + "/", Mode: 0o755}
	return a.create(place, hdr, nil)
}

func (a *applier) mergeDir(name string, hdr *tar.Header) error {
	place, err := walk(a, name, a.mkdir)
	if errors.Is(err, unix.ENOTDIR) {
		// A file, or a link to one, stands there. If it is a parent that is in the way, this walk says so.
		parent, err := walk(a, path.Dir(name), a.mkdir)
		if err != nil {
			return err
		}
		place = path.Join(parent, path.Base(name))
		if err := a.clear(place); err != nil {
			return err
		}
		if err := a.mkdir(place); err != nil {
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
	err := a.remove(place)
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

// link makes place another name of the file that the archive calls target.
func (a *applier) link(place, target string) error {
	name, err := cleanName(target)
	if err != nil {
		return fmt.Errorf("link target %q: %w", target, err)
	}
	parent, err := walk(a, path.Dir(name), nil)
	if err != nil {
		return fmt.Errorf("link target %q: %w", target, err)
	}
	old := path.Join(parent, path.Base(name))
	fi, err := a.Lstat(old)
	if err != nil {
		return fmt.Errorf("link target %q: %w", target, err)
	}
	if fi.IsDir() || old == place {
		return fmt.Errorf("link target %q: is a directory or the link itself", target)
	}
	if err := a.clear(place); err != nil {
		return err
	}
	return a.create(place, &tar.Header{Typeflag: tar.TypeLink, Name: place, Linkname: old}, nil)
}

// finish sets what directories are to look like, the deepest first.
func (a *applier) finish() error {
	for _, place := range slices.Backward(slices.Sorted(maps.Keys(a.dirs))) {
		hdr := a.dirs[place]
		if err := a.failed(hdr, a.setAttributes(place, hdr)); err != nil {
			return err
		}
	}
	return nil
}
