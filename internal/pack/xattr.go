package pack

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// lostAttribute is how mksquashfs begins a line about an attribute that its format has no room for.
// It prints one for each file, without the file's name.
const lostAttribute = "Unrecognised xattr prefix "

// squashfsWarnings are the messages of mksquashfs, with those about lost attributes as one that
// names a file and the way out.
func squashfsWarnings(tree string, lines []string) []string {
	var out, lost []string
	for _, line := range lines {
		if name, ok := strings.CutPrefix(line, lostAttribute); ok {
			lost = append(lost, name)
		} else {
			out = append(out, line)
		}
	}
	if len(lost) == 0 {
		return out
	}
	slices.Sort(lost)
	what := strings.Join(lost, ", ")
	if !slices.ContainsFunc(lost, func(name string) bool { return !strings.HasPrefix(name, "system.posix_acl_") }) {
		what = "POSIX ACLs"
	}
	text := fmt.Sprintf("squashfs has no room for %s, which are left out", what)
	if files := withAttributes(tree, lost); len(files) > 0 {
		text += fmt.Sprintf(" (%d files, the first is %s)", len(files), files[0])
	}
	return append(out, text+`: "pack: erofs" keeps them`)
}

// withAttributes are the files of a tree that have one of the attributes, as paths in the tree. A
// file that cannot be read is passed over: the packer has read it.
func withAttributes(tree string, names []string) (files []string) {
	buf := make([]byte, 64<<10) // the most that listxattr(2) returns
	_ = filepath.WalkDir(tree, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		n, err := unix.Llistxattr(path, buf)
		if err != nil {
			return nil
		}
		for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
			if slices.Contains(names, name) {
				files = append(files, "/"+strings.TrimPrefix(strings.TrimPrefix(path, tree), "/"))
				break
			}
		}
		return nil
	})
	return files
}
