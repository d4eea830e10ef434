package bootstrap

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
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"netroot/internal/layer"
)

// unpack puts one layer of an image, an uncompressed tar stream whose digest is want, over what lies in root. The layer's
// whiteouts remove files of the layers below (OCI image-spec, layer.md). Nothing outside root is read or written.
func unpack(root *os.Root, r io.Reader, want v1.Hash) error {
	sum := sha256.New()
	r = io.TeeReader(r, sum)
	if err := layer.Apply(root, newChangeset(root, r)); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, r); err != nil { // what follows the archive's end mark belongs to the digest, too
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); want.Algorithm != "sha256" || got != want.Hex {
		return fmt.Errorf("has the digest sha256:%s, and the image says %s: it is damaged, or not what was pushed", got, want)
	}
	return nil
}

// changeset turns a layer of an image into an archive for layer.Apply. What only images have it does itself: it removes
// what a whiteout hides, and what is in the way of an entry of another kind.
//
// It is a reader that Apply pulls: the next entry is looked at when Apply asks for it, and so when the one before is in
// its place. (archive/tar reads no byte ahead.)
type changeset struct {
	root *os.Root
	src  *tar.Reader
	out  io.Reader // what is left of the present entry
	err  error     // io.EOF: the end mark is in out

	// A whiteout hides the layers below, and nothing of its own layer. Entries are noted by name, and their places are
	// looked up when the first whiteout asks.
	noted []string
	own   map[string]bool
}

func newChangeset(root *os.Root, r io.Reader) *changeset {
	return &changeset{root: root, src: tar.NewReader(r), out: bytes.NewReader(nil), own: make(map[string]bool)}
}

func (c *changeset) Read(p []byte) (int, error) {
	for {
		n, err := c.out.Read(p)
		if n > 0 || err != io.EOF {
			return n, err
		}
		if c.err != nil {
			return 0, c.err
		}
		c.err = c.next()
	}
}

const (
	whiteoutPrefix = ".wh."
	opaqueMark     = ".wh..wh..opq"
	aufsPrefix     = ".wh..wh." // what AUFS notes for itself
	blockSize      = 512
)

// next brings the next entry into out; those that are no files are dealt with at once.
func (c *changeset) next() error {
	for {
		hdr, err := c.src.Next()
		if err == io.EOF {
			c.out = bytes.NewReader(make([]byte, 2*blockSize))
			return io.EOF
		}
		if err != nil {
			return err
		}
		done, err := c.apply(hdr)
		if err != nil {
			return fmt.Errorf("entry %q: %w", hdr.Name, err)
		}
		if !done {
			return c.pass(hdr)
		}
	}
}

// apply does what has to be done before an entry can be made, and says whether that was all of it.
func (c *changeset) apply(hdr *tar.Header) (done bool, err error) {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return true, nil
	}
	switch {
	case path.IsAbs(hdr.Name):
		return false, errors.New("is an absolute path; names in a layer are relative to its root")
	case slices.Contains(strings.Split(hdr.Name, "/"), ".."):
		return false, errors.New(`has ".." in its name`)
	}
	name := path.Clean(hdr.Name)
	dir, base := path.Dir(name), path.Base(name)
	switch {
	case name == ".":
		return true, c.rootAttributes(hdr)
	case base == opaqueMark:
		return true, c.hideBelow(dir)
	case strings.HasPrefix(base, aufsPrefix), strings.HasPrefix(name, aufsPrefix):
		return true, nil
	case strings.HasPrefix(base, whiteoutPrefix):
		return true, c.whiteout(dir, strings.TrimPrefix(base, whiteoutPrefix))
	}
	c.noted = append(c.noted, name)
	return false, c.makeRoom(dir, base, hdr.Typeflag == tar.TypeDir)
}

func (c *changeset) rootAttributes(hdr *tar.Header) error {
	if hdr.Typeflag != tar.TypeDir {
		return errors.New("would make the tree's root something else than a directory")
	}
	if err := c.root.Chown(".", hdr.Uid, hdr.Gid); err != nil {
		return err
	}
	return c.root.Chmod(".", hdr.FileInfo().Mode())
}

// makeRoom removes what stands where an entry shall be, unless layer.Apply replaces it by itself or both are
// directories.
func (c *changeset) makeRoom(dir, base string, isDir bool) error {
	parent, err := layer.Resolve(c.root, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	place := path.Join(parent, base)
	fi, err := c.root.Lstat(place)
	switch {
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR):
		return nil // Apply says what is wrong with a parent that is a file
	case err != nil:
		return err
	case fi.IsDir() == isDir:
		return nil
	}
	return c.root.RemoveAll(place)
}

// whiteout hides one name of a directory.
func (c *changeset) whiteout(dir, base string) error {
	if base == "" || base == "." || base == ".." {
		return errors.New("is a whiteout of nothing")
	}
	parent, err := c.lookUp(dir)
	if err != nil || parent == "" {
		return err
	}
	return c.hide(path.Join(parent, base))
}

// hideBelow hides all that the layers below have in a directory.
func (c *changeset) hideBelow(dir string) error {
	place, err := c.lookUp(dir)
	if err != nil || place == "" {
		return err
	}
	return c.hideChildren(place)
}

func (c *changeset) hideChildren(place string) error {
	d, err := c.root.Open(place)
	if err != nil {
		return err
	}
	names, err := d.Readdirnames(-1)
	d.Close()
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := c.hide(path.Join(place, name)); err != nil {
			return err
		}
	}
	return nil
}

// hide removes place and what is below it, but for what this layer made.
func (c *changeset) hide(place string) error {
	if !c.own[place] {
		return c.root.RemoveAll(place)
	}
	if fi, err := c.root.Lstat(place); err != nil || !fi.IsDir() {
		return err
	}
	return c.hideChildren(place)
}

// lookUp finds the place of a directory in which something is to be hidden, "" when it is not there, and the places of the
// entries that were made since it was last called.
func (c *changeset) lookUp(dir string) (string, error) {
	place, err := layer.Resolve(c.root, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	for _, name := range c.noted {
		parent, err := layer.Resolve(c.root, path.Dir(name))
		if err != nil {
			continue // a later entry has taken its parent's place
		}
		for own := path.Join(parent, path.Base(name)); own != "." && !c.own[own]; own = path.Dir(own) {
			c.own[own] = true
		}
	}
	c.noted = c.noted[:0]
	return place, nil
}

// pass brings an entry into out, with what layer.Apply knows of a header and nothing else. A sparse file is passed on
// with its holes as zeros.
func (c *changeset) pass(hdr *tar.Header) error {
	to := tar.Header{
		Typeflag: hdr.Typeflag, Name: hdr.Name, Linkname: hdr.Linkname, Mode: hdr.Mode & 0o7777, Uid: hdr.Uid, Gid: hdr.Gid,
		ModTime: hdr.ModTime, Devmajor: hdr.Devmajor, Devminor: hdr.Devminor, PAXRecords: map[string]string{}, Format: tar.FormatPAX,
	}
	sparse := hdr.Typeflag == tar.TypeGNUSparse
	for key, value := range hdr.PAXRecords {
		if strings.HasPrefix(key, "SCHILY.xattr.") {
			to.PAXRecords[key] = value
		}
		sparse = sparse || strings.HasPrefix(key, "GNU.sparse.")
	}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		to.Typeflag, to.Size = tar.TypeReg, hdr.Size
	case tar.TypeLink: // some builders write the name of the file as it is in the image
		to.Linkname = strings.TrimLeft(hdr.Linkname, "/")
	}
	if sparse {
		if err := c.fits(hdr.Size); err != nil {
			return fmt.Errorf("entry %q: %w", hdr.Name, err)
		}
	}
	var header bytes.Buffer
	if err := tar.NewWriter(&header).WriteHeader(&to); err != nil {
		return fmt.Errorf("entry %q: %w", hdr.Name, err)
	}
	padding := make([]byte, -to.Size&(blockSize-1))
	c.out = io.MultiReader(&header, io.LimitReader(c.src, to.Size), bytes.NewReader(padding))
	return nil
}

// fits refuses a sparse file, of which a few bytes may claim to be exabytes, when the disk has no room for it.
func (c *changeset) fits(size int64) error {
	d, err := c.root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &st); err != nil {
		return err
	}
	if free := int64(st.Bavail) * st.Bsize; size > free {
		return fmt.Errorf("is a sparse file of %d bytes, and the tree's disk has %d left", size, free)
	}
	return nil
}
