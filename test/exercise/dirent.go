package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// entry is a directory entry as returned by getdents64(2).
type entry struct {
	ino  uint64
	next int64 // position of the next entry, for lseek(2)
	kind byte  // DT_*
	name string
}

// readSome reads the next entries. At the end there are no entries and no error. A small buffer
// leads to more requests.
func readSome(fd int, buf []byte) ([]entry, error) {
	n, err := unix.Getdents(fd, buf)
	if err != nil {
		return nil, err
	}
	var list []entry
	for b := buf[:n]; len(b) > 0; {
		// struct linux_dirent64: ino, offset, length, type, name with a zero.
		size := int(binary.NativeEndian.Uint16(b[16:]))
		name, _, _ := bytes.Cut(b[19:size], []byte{0})
		list = append(list, entry{binary.NativeEndian.Uint64(b), int64(binary.NativeEndian.Uint64(b[8:])), b[18], string(name)})
		b = b[size:]
	}
	return list, nil
}

func readAll(fd int) ([]entry, error) {
	var all []entry
	buf := make([]byte, 32<<10)
	for {
		some, err := readSome(fd, buf)
		if err != nil || len(some) == 0 {
			return all, err
		}
		all = append(all, some...)
	}
}

// summarize lists the names, sorted, with their errors. A type may be unknown, but must not be
// wrong.
func summarize(fd int, list []entry) string {
	slices.SortFunc(list, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	var b strings.Builder
	for _, e := range list {
		fmt.Fprintf(&b, " %s", short(e.name))
		var st unix.Stat_t
		if e.name == ".." || unix.Fstatat(fd, e.name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			continue
		}
		if st.Ino != e.ino {
			fmt.Fprintf(&b, " (inode %d is listed as %d)", st.Ino, e.ino)
		}
		// DT_* are the bits of the type in a mode.
		if kind := byte(st.Mode & unix.S_IFMT >> 12); e.kind != unix.DT_UNKNOWN && e.kind != kind {
			fmt.Fprintf(&b, " (type %d is listed as %d)", kind, e.kind)
		}
	}
	return b.String()
}
