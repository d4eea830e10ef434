package build

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// record describes the files of a tree when its image was made. It lies beside the tree. With it,
// netroot can tell later whether the tree has changed, without reading any file.
//
// For each file the record has type, mode, owner, size, modification time, extended attributes, and
// the target of a link or the number of a device. For directories it has neither size nor time:
// added and removed names show by themselves, and moving a file away and back is not a change. The
// record has neither inode nor ctime, so installing a package again, moving resolv.conf aside
// during a run, and copying the tree with cp -a are not changes. As with rsync and make, a file
// that was rewritten with the same size and modification time counts as unchanged. /run is
// excluded, because it is not in an image.
type record struct {
	recipe string // digest of the recipe's text
	image  string // label@id, or noImage
	file   string // absolute path of the recipe; empty: not known
	files  []file // sorted by path
}

// noImage is the image of a tree of which no image could be made.
const noImage = "-"

// file is an entry of a tree: its path, and all other facts in one string for comparison.
type file struct{ path, facts string }

// recordVersion begins the first line of a record, which has the fields recipe, image and file. Each
// following line describes one file: the facts, and the path quoted as in Go.
const recordVersion = "netroot-tree-1"

func recordFile(tree string) string { return sibling(tree, ".files") }

// listFiles describes all files below dir, in lexical order of their complete paths.
func listFiles(dir string) ([]file, error) {
	var files []file
	l := lister{buf: make([]byte, 64<<10)}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path := strings.TrimPrefix(name, dir)
		if path == "" {
			path = "/"
		}
		facts, err := l.facts(name)
		if err != nil {
			return err
		}
		files = append(files, file{path, facts})
		if path == "/run" && d.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	// WalkDir visits "a/b" before "a-b".
	slices.SortFunc(files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	return files, err
}

// lister holds a buffer for describing files.
type lister struct{ buf []byte }

func (l lister) facts(name string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return "", &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	b := make([]byte, 0, 64)
	b = strconv.AppendUint(b, uint64(st.Mode), 8)
	b = strconv.AppendUint(append(b, ','), uint64(st.Uid), 10)
	b = strconv.AppendUint(append(b, ':'), uint64(st.Gid), 10)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		b = strconv.AppendInt(append(b, ','), st.Size, 10)
		b = strconv.AppendInt(append(b, ','), st.Mtim.Nano(), 10)
	case unix.S_IFLNK:
		n, err := unix.Readlink(name, l.buf)
		if err != nil {
			return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
		}
		b = append(append(b, ','), shortDigest(l.buf[:n])...)
	case unix.S_IFCHR, unix.S_IFBLK:
		b = strconv.AppendUint(append(b, ','), st.Rdev, 16)
	}
	attrs, err := l.attributes(name)
	if err == nil && attrs != "" {
		b = append(append(b, ",x"...), attrs...)
	}
	return string(b), err
}

// attributes returns a digest of a file's extended attributes, or "" if it has none.
func (l lister) attributes(name string) (string, error) {
	n, err := unix.Llistxattr(name, l.buf)
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return "", nil
	}
	if err != nil {
		return "", &fs.PathError{Op: "listxattr", Path: name, Err: err}
	}
	names := strings.Split(strings.TrimSuffix(string(l.buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	var all bytes.Buffer
	for _, attr := range names {
		n, err := unix.Lgetxattr(name, attr, l.buf)
		if err != nil {
			return "", &fs.PathError{Op: "getxattr " + attr, Path: name, Err: err}
		}
		fmt.Fprintf(&all, "%q=%q ", attr, l.buf[:n])
	}
	return shortDigest(all.Bytes()), nil
}

// shortDigest returns a short digest. It distinguishes contents, but it is not a security measure.
func shortDigest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:8])
}

func (r *record) save(name string) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s %s", recordVersion, r.recipe, r.image)
	if r.file != "" {
		b.WriteString(" " + strings.ReplaceAll(strconv.QuoteToASCII(r.file), " ", `\x20`))
	}
	b.WriteByte('\n')
	for _, f := range r.files {
		b.WriteString(f.facts + " " + strconv.Quote(f.path) + "\n")
	}
	if err := renameio.WriteFile(name, b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write the record of the tree: %w", err)
	}
	return nil
}

// loadRecord reads a record. A record that another version of netroot wrote counts as missing: the
// error matches fs.ErrNotExist.
func loadRecord(name string) (*record, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r, err := readRecord(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: remove it", name, err)
	}
	return r, nil
}

func readRecord(from io.Reader) (*record, error) {
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 64<<10)
	if !lines.Scan() {
		return nil, errors.Join(errors.New("file is empty"), lines.Err())
	}
	head := strings.Fields(lines.Text())
	if len(head) > 0 && head[0] != recordVersion {
		return nil, fmt.Errorf("record has another version: %w", fs.ErrNotExist)
	}
	if len(head) != 3 && len(head) != 4 {
		return nil, errors.New("first line is not the first line of a record")
	}
	r := &record{recipe: head[1], image: head[2]}
	if len(head) == 4 {
		var err error
		if r.file, err = strconv.Unquote(head[3]); err != nil {
			return nil, errors.New("first line does not name a recipe")
		}
	}
	for lines.Scan() {
		facts, quoted, _ := strings.Cut(lines.Text(), " ")
		path, err := strconv.Unquote(quoted)
		if err != nil {
			return nil, fmt.Errorf("line %d is not a line of a record", len(r.files)+2)
		}
		r.files = append(r.files, file{path, facts})
	}
	return r, lines.Err()
}

// compare returns the differences between two lists of files, both sorted by path.
func compare(before, now []file) Changes {
	var c Changes
	for len(before) > 0 || len(now) > 0 {
		switch {
		case len(now) == 0 || len(before) > 0 && before[0].path < now[0].path:
			c.Removed = append(c.Removed, before[0].path)
			before = before[1:]
		case len(before) == 0 || now[0].path < before[0].path:
			c.Added = append(c.Added, now[0].path)
			now = now[1:]
		default:
			if before[0].facts != now[0].facts {
				c.Changed = append(c.Changed, now[0].path)
			}
			before, now = before[1:], now[1:]
		}
	}
	return c
}
