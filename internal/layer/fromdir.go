package layer

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
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

	"netroot/internal/handoff"
)

// FromDir writes the tree below dir to w as an archive and returns the digest of what it wrote.
//
// It keeps permission bits, numeric owners, modification times to the nanosecond, symbolic links,
// hard links between files of the tree, extended attributes (including ACLs and file capabilities),
// devices and named pipes. It leaves out sockets, which belong to a running process; dir's own mode
// and owner, which would become those of the node's "/"; and SELinux labels and overlayfs' private
// attributes, which describe this machine and not the node.
//
// The deletion list of a layer is an ordinary file here; ApplyLayer interprets it. edit, if it is
// not nil, may change each entry (for example its owner).
func FromDir(w io.Writer, dir string, edit func(*tar.Header)) (digest handoff.Digest, err error) {
	sum := sha256.New()
	tw := tar.NewWriter(io.MultiWriter(w, sum))
	d := dirReader{dir: dir, edit: edit, emit: func(hdr *tar.Header, body *os.File) error { return writeEntry(tw, hdr, body) }}
	// A dir that is itself a symbolic link would give an empty layer.
	if fi, err := os.Lstat(dir); err != nil || !fi.IsDir() {
		return "", fmt.Errorf("layer directory %s: %w", dir, errors.Join(err, errors.New("is not a directory")))
	}
	if err := errors.Join(d.walk(), tw.Close()); err != nil {
		return "", fmt.Errorf("layer directory %s: %w", dir, err)
	}
	return handoff.DigestSum(sum), nil
}

// RootOwned returns a function for FromDir that makes root the owner of the files that belong to
// the owner of dir: a checkout in a user's home must not give that user files on the nodes. Other
// owners were set on purpose and are kept. RootOwned returns nil if dir belongs to root.
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
	dir    string // directory to read
	name   string // name of dir in the archive; empty: its root, without an entry
	edit   func(*tar.Header)
	labels bool // keep SELinux labels, because source and target are on the same machine
	// report, if it is not nil, receives the error of a file that cannot be read; the next
	// files follow.
	report func(error)
	// emit receives each entry, and the open file if it is a regular one.
	emit  func(hdr *tar.Header, body *os.File) error
	links map[inode]string // first name of each file with several hard links
}

// walk emits dir and everything below it. WalkDir visits files in lexical order, so an archive is the
// same each time.
func (d *dirReader) walk() error {
	d.links = make(map[inode]string)
	return filepath.WalkDir(d.dir, d.visit)
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
		return d.emit(hdr, nil)
	}
	defer body.Close()
	return d.emit(hdr, body)
}

// open returns the entry of a file, or nil if the file is left out, and the content of a regular
// file.
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
	// The list may be one file that several layers link.
	if !fi.IsDir() && st.Nlink > 1 && name != DeletionList {
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
		err = fmt.Errorf("%s: a layer cannot contain a %s", file, fi.Mode().Type())
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

// readXattrs returns the extended attributes of a file as pax records. It does not follow a
// symbolic link.
func readXattrs(file string) (map[string]string, error) {
	list, err := withGrowingBuffer(func(b []byte) (int, error) { return unix.Llistxattr(file, b) })
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
		value, err := withGrowingBuffer(func(b []byte) (int, error) { return unix.Lgetxattr(file, name, b) })
		if errors.Is(err, unix.ENODATA) {
			continue // removed since it was listed
		}
		if err != nil {
			return nil, &fs.PathError{Op: "getxattr " + name, Path: file, Err: err}
		}
		records[xattrRecord+name] = string(value)
	}
	return records, nil
}

// foreignXattr reports whether an attribute describes an overlay's copy of a file.
func foreignXattr(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}

// withGrowingBuffer calls get with larger buffers until the answer fits. Attribute lists and values
// are at most 64 KiB (XATTR_LIST_MAX, XATTR_SIZE_MAX in linux/limits.h).
func withGrowingBuffer(get func([]byte) (int, error)) ([]byte, error) {
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
