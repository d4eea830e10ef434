// Package layer makes, names and applies configuration layers: small file trees that are put over a
// root file system while a machine boots.
//
// A layer is transferred as a tar archive (POSIX pax format, POSIX.1-2017 pax(1)) whose name is the
// SHA-256 of its bytes. The same tree always gives the same bytes. Extended attributes are pax
// records "SCHILY.xattr.NAME", as written by star, GNU tar and bsdtar.
//
// A root may also have its own layers, as directories below /etc/rootovl. Both kinds remove files
// of the root with a list (DeletionList). They are applied from the last to the first, so that the
// first wins. Look shows the result of layers without a node.
//
// The package is not an image format (roots are packed file systems, package pack) and has no
// templates. The node's init imports it, so it uses only archive/tar and x/sys.
package layer

import (
	"archive/tar"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"netroot/internal/handoff"
)

// MediaType is the content type under which an archive is served and stored.
const MediaType = "application/vnd.netroot.layer.v1.tar"

// MaxArchive is the greatest length of an archive in bytes. A node holds the archive in memory and
// checks it before it unpacks any of it.
const MaxArchive = 512 << 20

// xattrRecord starts the key of a pax record that holds an extended attribute.
const xattrRecord = "SCHILY.xattr."

// Digest returns the name of an archive.
func Digest(archive []byte) handoff.Digest { return handoff.DigestOf(archive) }

// Builder collects files for a layer that is made in memory, for example a key for root's
// authorized_keys. Entries may be added in any order; the archive is sorted by path. The zero value
// is ready to use.
type Builder struct {
	// ModTime is the modification time of every entry. The zero value means the Unix epoch, so
	// that the archive depends only on the added entries.
	ModTime time.Time

	entries []entry
}

type entry struct {
	hdr  tar.Header
	body []byte
}

// AddFile adds a regular file. The path is relative to the root of the layer
// ("root/.ssh/authorized_keys"). mode is the permission bits as in chmod(2), including set-user-ID
// and sticky.
func (b *Builder) AddFile(name string, mode uint32, uid, gid int, content []byte) {
	b.add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(mode), Uid: uid, Gid: gid, Size: int64(len(content))}, content)
}

// AddDir adds a directory. Apply makes missing parents that were not added (0755, owned by root);
// existing parents keep their owner and mode.
func (b *Builder) AddDir(name string, mode uint32, uid, gid int) {
	b.add(tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimSuffix(name, "/") + "/", Mode: int64(mode), Uid: uid, Gid: gid}, nil)
}

func (b *Builder) add(hdr tar.Header, body []byte) {
	b.entries = append(b.entries, entry{hdr, slices.Clone(body)})
}

// Archive returns the archive of the added entries. It fails if a path is not below the root of the
// layer, or was added twice.
func (b *Builder) Archive() ([]byte, error) {
	mtime := b.ModTime
	if mtime.IsZero() {
		mtime = time.Unix(0, 0)
	}
	entries := slices.Clone(b.entries)
	slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Compare(a.hdr.Name, b.hdr.Name) })
	seen := make(map[string]bool)
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	for _, e := range entries {
		name, err := cleanName(e.hdr.Name)
		switch {
		case err != nil:
			return nil, fmt.Errorf("layer entry %q: %w", e.hdr.Name, err)
		case name == ".":
			return nil, errors.New("layer entry: the root of the layer itself has no owner or mode in a layer")
		case seen[name]:
			return nil, fmt.Errorf("layer entry %q: added twice", name)
		}
		seen[name] = true
		e.hdr.ModTime, e.hdr.Format = mtime, tar.FormatPAX
		if err := writeEntry(tw, &e.hdr, bytes.NewReader(e.body)); err != nil {
			return nil, err
		}
	}
	if err := tw.Close(); err != nil {
		return nil, fmt.Errorf("layer archive: %w", err)
	}
	return out.Bytes(), nil
}

// Below checks that all entries of an archive are below dir, a path relative to the root.
func Below(archive []byte, dir string) error {
	tr := tar.NewReader(bytes.NewReader(archive))
	for {
		hdr, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("layer archive: %w", err)
		}
		name, err := cleanName(hdr.Name)
		if err == nil && name != "." && name != dir && !strings.HasPrefix(name, dir+"/") {
			err = fmt.Errorf("is not below %s/", dir)
		}
		if err != nil {
			return fmt.Errorf("layer entry %q: %w", hdr.Name, err)
		}
	}
}

// writeEntry writes one header and, for a regular file, exactly hdr.Size bytes of its content.
func writeEntry(tw *tar.Writer, hdr *tar.Header, body io.Reader) error {
	if err := tw.WriteHeader(hdr); err != nil {
		return fmt.Errorf("layer entry %q: %w", hdr.Name, err)
	}
	if hdr.Typeflag != tar.TypeReg {
		return nil
	}
	n, err := io.CopyN(tw, body, hdr.Size)
	if err != nil {
		return fmt.Errorf("layer entry %q: %d of %d bytes: %w", hdr.Name, n, hdr.Size, err)
	}
	return nil
}

// cleanName returns the path of an archive member relative to the root, or an error if it is not
// below the root. The root itself is ".".
func cleanName(name string) (string, error) {
	switch {
	case name == "":
		return "", errors.New("has no name")
	case path.IsAbs(name):
		return "", errors.New("is an absolute path: names in a layer must be relative to its root")
	case strings.ContainsRune(name, 0):
		return "", errors.New("has a NUL byte in its name")
	case slices.Contains(strings.Split(name, "/"), ".."):
		return "", errors.New(`has ".." in its name`)
	}
	return path.Clean(name), nil
}
