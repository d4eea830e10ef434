package layer

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// FromDir writes the tree below dir to w as an archive and returns the digest of what it wrote.
//
// Kept are: permission bits, numeric owners, modification times to the nanosecond, symbolic links, hard links between
// files of the tree, extended attributes (so ACLs and file capabilities too), devices and named pipes. Left out are
// sockets, which belong to a running process; dir's own mode and owner, which would become those of the node's "/"; and
// SELinux labels and overlayfs' private attributes, which say something about this machine and not about the node.
//
// The deletion list of a layer is a file like any other here; ApplyLayer knows what it means. edit, where it is not nil,
// may change an entry (its owner, say) on the way.
func FromDir(w io.Writer, dir string, edit func(*tar.Header)) (digest string, err error) {
	sum := sha256.New()
	d := dirReader{dir: dir, edit: edit, tw: tar.NewWriter(io.MultiWriter(w, sum))}
	// A dir that is itself a symbolic link would be an empty layer.
	if fi, err := os.Lstat(dir); err != nil || !fi.IsDir() {
		return "", fmt.Errorf("layer directory %s: %w", dir, errors.Join(err, errors.New("is not a directory")))
	}
	if err := d.archive(); err != nil {
		return "", fmt.Errorf("layer directory %s: %w", dir, err)
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), nil
}

// RootOwned makes root the owner of what belongs to whoever owns dir: a checkout in somebody's home is not to give that
// somebody files on the nodes. Other owners are kept; they were given on purpose. It is nil where dir is root's.
func RootOwned(dir string) func(*tar.Header) {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil || st.Uid == 0 {
		return nil
	}
	return func(h *tar.Header) {
		if h.Uid == int(st.Uid) {
			h.Uid, h.Gid = 0, 0
		}
	}
}

type inode struct{ dev, ino uint64 }

type dirReader struct {
	dir    string // what is read
	name   string // what it is called in the archive; empty: dir is the archive's root, which has no entry
	edit   func(*tar.Header)
	labels bool        // keep SELinux labels: what is read and what is written are one machine's
	report func(error) // where it is not nil, it is told of a file that cannot be read, and the others follow
	tw     *tar.Writer
	links  map[inode]string // first name of each file that has several
}

// archive writes dir and all below it. WalkDir visits in lexical order, which makes the archive the same each time.
func (d *dirReader) archive() error {
	d.links = make(map[inode]string)
	if err := filepath.WalkDir(d.dir, d.visit); err != nil {
		return err
	}
	return d.tw.Close()
}

func (d *dirReader) visit(file string, _ fs.DirEntry, err error) error {
	var hdr *tar.Header
	var body *os.File
	if err == nil {
		hdr, body, err = d.open(file)
	}
	switch {
	case err != nil && d.report != nil:
		d.report(err)
		return nil
	case err != nil:
		return err
	case hdr == nil:
		return nil
	case body == nil:
		return writeEntry(d.tw, hdr, nil)
	}
	defer body.Close()
	return writeEntry(d.tw, hdr, body)
}

// open returns the entry of a file, nil if it is left out, and the content of a regular one.
func (d *dirReader) open(file string) (hdr *tar.Header, body *os.File, err error) {
	rel, err := filepath.Rel(d.dir, file)
	if err != nil || rel == "." && d.name == "" {
		return nil, nil, err
	}
	fi, err := os.Lstat(file)
	if err != nil || fi.Mode().Type() == fs.ModeSocket {
		return nil, nil, err
	}
	if hdr, err = d.header(file, path.Join(d.name, filepath.ToSlash(rel)), fi); err != nil {
		return nil, nil, err
	}
	if d.edit != nil {
		d.edit(hdr)
	}
	if hdr.Typeflag == tar.TypeReg {
		body, err = os.OpenFile(file, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	}
	return hdr, body, err
}

func (d *dirReader) header(file, name string, fi fs.FileInfo) (*tar.Header, error) {
	st := fi.Sys().(*syscall.Stat_t)
	hdr := &tar.Header{
		Format: tar.FormatPAX, Name: name, Mode: int64(st.Mode & 0o7777),
		Uid: int(st.Uid), Gid: int(st.Gid), ModTime: time.Unix(st.Mtim.Unix()),
	}
	if !fi.IsDir() && st.Nlink > 1 && name != DeletionList { // which may be one file in several layers
		key := inode{uint64(st.Dev), st.Ino}
		if first, ok := d.links[key]; ok {
			hdr.Typeflag, hdr.Linkname = tar.TypeLink, first
			return hdr, nil
		}
		d.links[key] = name
	}
	var err error
	switch fi.Mode().Type() {
	case 0:
		hdr.Typeflag, hdr.Size = tar.TypeReg, fi.Size()
	case fs.ModeDir:
		hdr.Typeflag, hdr.Name = tar.TypeDir, name+"/"
	case fs.ModeSymlink:
		hdr.Typeflag = tar.TypeSymlink
		hdr.Linkname, err = os.Readlink(file)
	case fs.ModeNamedPipe:
		hdr.Typeflag = tar.TypeFifo
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		hdr.Typeflag = tar.TypeBlock
		if fi.Mode()&fs.ModeCharDevice != 0 {
			hdr.Typeflag = tar.TypeChar
		}
		hdr.Devmajor, hdr.Devminor = int64(unix.Major(uint64(st.Rdev))), int64(unix.Minor(uint64(st.Rdev)))
	default:
		err = fmt.Errorf("%s: cannot keep a %s in a layer", file, fi.Mode().Type())
	}
	if err != nil {
		return nil, err
	}
	hdr.PAXRecords, err = readXattrs(file)
	if !d.labels {
		delete(hdr.PAXRecords, xattrRecord+"security.selinux")
	}
	return hdr, err
}

// readXattrs returns the extended attributes of a file (of the link itself for a symbolic link) as pax records.
func readXattrs(file string) (map[string]string, error) {
	list, err := growing(func(b []byte) (int, error) { return unix.Llistxattr(file, b) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "listxattr", Path: file, Err: err}
	}
	records := make(map[string]string)
	for raw := range bytes.SplitSeq(list, []byte{0}) {
		name := string(raw)
		if name == "" || foreignXattr(name) {
			continue
		}
		value, err := growing(func(b []byte) (int, error) { return unix.Lgetxattr(file, name, b) })
		if errors.Is(err, unix.ENODATA) {
			continue // gone since it was listed
		}
		if err != nil {
			return nil, &fs.PathError{Op: "getxattr " + name, Path: file, Err: err}
		}
		records[xattrRecord+name] = string(value)
	}
	return records, nil
}

// foreignXattr reports attributes that describe an overlay's copy of a file.
func foreignXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}

// growing calls get with larger buffers until its answer fits. Attribute lists and values end at 64 KiB
// (XATTR_LIST_MAX, XATTR_SIZE_MAX in linux/limits.h).
func growing(get func([]byte) (int, error)) ([]byte, error) {
	for size := 1 << 10; ; size <<= 1 {
		buf := make([]byte, size)
		n, err := get(buf)
		if errors.Is(err, unix.ERANGE) && size < 1<<16 {
			continue
		}
		if err != nil {
			return nil, err
		}
		return slices.Clone(buf[:n]), nil
	}
}
