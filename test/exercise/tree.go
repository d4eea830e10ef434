package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// compareTrees compares everything in the two directories.
func (n *names) compareTrees() error {
	n.count["trees"]++
	var trees [2]map[string]string
	for i, s := range n.side {
		// A call may have reached it through a link.
		if err := os.Chmod(filepath.Join(s.path, top), 0o777); err != nil {
			return err
		}
		var err error
		if trees[i], err = scan(s.path, n.links, when); err != nil {
			return err
		}
	}
	return compareScans(trees[0], trees[1])
}

// scan describes each file of a tree: type, mode, owner, links, size, target or content,
// modification time, and which other name refers to the same file. It includes the times of
// directories and links.
func scan(root string, links bool, when func(*unix.Stat_t) string) (map[string]string, error) {
	tree := map[string]string{}
	first := map[uint64]string{} // first name by inode
	err := filepath.WalkDir(root, func(p string, _ fs.DirEntry, err error) error {
		name, _ := filepath.Rel(root, p)
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(p, &st)
		}
		if errors.Is(err, fs.ErrPermission) { // the directory of another user
			tree[name] += " " + reason(err)
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", p, err)
		}
		text := describe(&st, links) + " of " + when(&st)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			target, err := os.Readlink(p)
			text += fmt.Sprintf(" to %q %s", target, reason(err))
		case unix.S_IFREG:
			text += " " + digest(p, st.Size)
		}
		if other, is := first[st.Ino]; is {
			text += fmt.Sprintf(" the same as %q", other)
		} else if st.Nlink > 1 {
			first[st.Ino] = name
		}
		tree[name] = text
		return nil
	})
	return tree, err
}

// digest returns a digest of the content, or of its beginning and end if the file is large and
// therefore has holes.
func digest(p string, size int64) string {
	f, err := os.Open(p)
	if err != nil {
		return reason(err)
	}
	defer f.Close()
	const piece = 1 << 20
	h := sha256.New()
	_, err = io.Copy(h, io.LimitReader(f, piece))
	if err == nil && size > piece {
		_, err = io.Copy(h, io.NewSectionReader(f, max(piece, size-piece), piece))
	}
	if err != nil {
		return reason(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8])
}

// reason returns an error without the path, which differs between the two sides.
func reason(err error) string {
	var e unix.Errno
	if errors.As(err, &e) {
		return unix.ErrnoName(e)
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// compareScans lists the first differences.
func compareScans(got, want map[string]string) error {
	paths := map[string]bool{}
	for p := range got {
		paths[p] = true
	}
	for p := range want {
		paths[p] = true
	}
	var list, out []string
	for p := range paths {
		list = append(list, p)
	}
	slices.Sort(list)
	for _, p := range list {
		g, inGot := got[p]
		w, inWant := want[p]
		switch {
		case !inGot:
			out = append(out, fmt.Sprintf("%s is missing; want %s", short(p), w))
		case !inWant:
			out = append(out, fmt.Sprintf("%s should not exist: %s", short(p), g))
		case g != w:
			out = append(out, fmt.Sprintf("%s is   %s\n    want %s", short(p), g, w))
		}
		if len(out) == 5 {
			break
		}
	}
	if len(out) == 0 {
		return nil
	}
	return fmt.Errorf("the trees differ:\n  %s", strings.Join(out, "\n  "))
}
