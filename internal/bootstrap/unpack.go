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

// unpack unpacks one layer of an image over the files in root. r is an uncompressed tar stream
// whose digest must be want. The layer's whiteouts remove files of the layers below (OCI
// image-spec, layer.md). unpack reads and writes nothing outside root.
func unpack(root *os.Root, r io.Reader, want v1.Hash) error {
	sum := sha256.New()
	r = io.TeeReader(r, sum)
	if err := layer.Apply(root, newChangeset(root, r)); err != nil {
		return err
	}
	// The digest also covers bytes after the archive's end mark.
	if _, err := io.Copy(io.Discard, r); err != nil {
		return err
	}
	if got := hex.EncodeToString(sum.Sum(nil)); want.Algorithm != "sha256" || got != want.Hex {
		return fmt.Errorf("digest is sha256:%s, but the image expects %s: the layer is damaged or was replaced", got, want)
	}
	return nil
}

// changeset turns a layer of an image into an archive for layer.Apply. It handles what only images
// have: it removes the files that a whiteout hides, and files that are in the way of an entry of
// another kind.
//
// It is a reader that Apply pulls from. It looks at the next entry when Apply asks for it, which is
// when the entry before is in its place. (archive/tar does not read ahead.)
type changeset struct {
	root *os.Root
	src  *tar.Reader
	out  io.Reader // rest of the current entry
	err  error     // io.EOF: the end mark is in out

	// A whiteout hides files of the layers below, but none of its own layer. Entries are noted
	// by name; the first whiteout that follows looks up their places.
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
	aufsPrefix     = ".wh..wh." // prefix of AUFS's own metadata
	blockSize      = 512
)

// next puts the next entry into out. It handles entries that are not files itself.
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

// apply makes room for an entry. done means that the entry needs no further work.
func (c *changeset) apply(hdr *tar.Header) (done bool, err error) {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return true, nil
	}
	switch {
	case path.IsAbs(hdr.Name):
		return false, errors.New("absolute path: names in a layer must be relative to its root")
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
		return errors.New("would replace the root of the tree with a file that is not a directory")
	}
	if err := c.root.Chown(".", hdr.Uid, hdr.Gid); err != nil {
		return err
	}
	return c.root.Chmod(".", hdr.FileInfo().Mode())
}

// makeRoom removes the file at the place of an entry, unless layer.Apply replaces it or both are
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
		return nil // Apply reports a parent that is a file
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
		return errors.New("whiteout without a name")
	}
	parent, err := c.lookUp(dir)
	if err != nil || parent == "" {
		return err
	}
	return c.hide(path.Join(parent, base))
}

// hideBelow hides all files of the layers below in a directory.
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

// hide removes place and everything below it, except files that this layer made.
func (c *changeset) hide(place string) error {
	if !c.own[place] {
		return c.root.RemoveAll(place)
	}
	if fi, err := c.root.Lstat(place); err != nil || !fi.IsDir() {
		return err
	}
	return c.hideChildren(place)
}

// lookUp returns the place of a directory in which files are hidden, or "" if it does not exist. It
// also looks up the places of the entries that were noted since the last call.
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
			continue // a later entry has replaced its parent
		}
		for own := path.Join(parent, path.Base(name)); own != "." && !c.own[own]; own = path.Dir(own) {
			c.own[own] = true
		}
	}
	c.noted = c.noted[:0]
	return place, nil
}

// pass puts an entry into out, with only those fields of the header that layer.Apply knows. A
// sparse file is passed on with its holes as zeros.
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
	case tar.TypeLink: // some builders write the file's name with a leading slash
		to.Linkname = strings.TrimLeft(hdr.Linkname, "/")
	}
	if sparse {
		if err := c.checkSpace(hdr.Size); err != nil {
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

// checkSpace refuses a sparse file for which the disk has no space: a few bytes can claim to be
// exabytes.
func (c *changeset) checkSpace(size int64) error {
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
		return fmt.Errorf("sparse file of %d bytes, but the tree's disk has only %d bytes left", size, free)
	}
	return nil
}
