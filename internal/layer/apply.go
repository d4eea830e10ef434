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

// Apply extracts an archive over root. If the archive has extended attributes, /proc must be
// mounted.
//
// Apply neither reads nor writes anything outside root, whatever the archive and the tree contain.
// It refuses names that are absolute or contain "..". It follows symbolic links as the node will
// when root is its "/": "bin -> usr/bin" and "var/run -> /run" both lead to places inside.
//
// A file, link or device replaces an existing entry and is not written through it. A directory that
// is not empty is not replaced: that is an error. A directory of the archive is merged into an
// existing directory, or into the directory that an existing symbolic link leads to, and sets its
// owner, mode and time. Missing parents are made (0755). Apply sets the owner, the mode with
// set-user-ID bits, the time and the extended attributes. It drops "user." attributes, which grant
// no rights, if the file system does not support them (tmpfs before Linux 6.6). It ignores the
// entry for the root itself ("./", which tar adds).
//
// Apply stops at the first error and keeps what it has extracted. The caller either continues to
// boot or extracts the whole archive again.
func Apply(root *os.Root, r io.Reader) error { return newApplier(rootTarget{root}).apply(r) }

type applier struct {
	target
	// dirs are the archive's directories by their place. Their owner, mode and time are set
	// when all files have been made: a file that is made later would change the time, and could
	// not be made at all in a read-only directory.
	dirs map[string]*tar.Header
	// take, if it is not nil, receives every entry first, with its clean name. Apply does not
	// extract the entries for which take returns true.
	take func(name string, hdr *tar.Header, body io.Reader) (bool, error)
	// report, if it is not nil, receives the error of an entry that cannot be extracted; the
	// next entries are still extracted.
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

// failed adds the name of the entry to an error, and returns or reports it.
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

// checkHeader refuses entries that Apply would otherwise misread.
func checkHeader(hdr *tar.Header) error {
	const maxID = 1<<32 - 2 // chown(2) does not change the owner if the ID is 2^32-1
	if hdr.Uid < 0 || hdr.Uid > maxID || hdr.Gid < 0 || hdr.Gid > maxID {
		return fmt.Errorf("owner %d:%d is out of range for a user and a group", hdr.Uid, hdr.Gid)
	}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
	default:
		return fmt.Errorf("type %q is not supported in layers", hdr.Typeflag)
	}
	for key := range hdr.PAXRecords {
		// A sparse entry of a few bytes may claim a size of exabytes.
		if strings.HasPrefix(key, "GNU.sparse.") {
			return errors.New("sparse files are not supported in layers")
		}
	}
	return nil
}

// mkdir makes a missing parent directory.
func (a *applier) mkdir(place string) error {
	hdr := &tar.Header{Typeflag: tar.TypeDir, Name: place + "/", Mode: 0o755}
	return a.create(place, hdr, nil)
}

func (a *applier) mergeDir(name string, hdr *tar.Header) error {
	place, err := walk(a, name, a.mkdir)
	if errors.Is(err, unix.ENOTDIR) {
		// The entry there is a file, or a link to one. If a parent is a file, this walk
		// returns the error.
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

// clear removes the entry at place, unless it is a directory that is not empty.
func (a *applier) clear(place string) error {
	err := a.remove(place)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, unix.ENOTEMPTY):
		return fmt.Errorf("%s is a directory that is not empty: a layer replaces it only with a directory", place)
	case err != nil:
		return err
	}
	delete(a.dirs, place)
	return nil
}

// link makes place a hard link to the file that the archive calls target.
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
		return fmt.Errorf("link target %q is a directory or the link itself", target)
	}
	if err := a.clear(place); err != nil {
		return err
	}
	return a.create(place, &tar.Header{Typeflag: tar.TypeLink, Name: place, Linkname: old}, nil)
}

// finish sets the attributes of directories, from the deepest to the highest.
func (a *applier) finish() error {
	for _, place := range slices.Backward(slices.Sorted(maps.Keys(a.dirs))) {
		hdr := a.dirs[place]
		if err := a.failed(hdr, a.setAttributes(place, hdr)); err != nil {
			return err
		}
	}
	return nil
}
