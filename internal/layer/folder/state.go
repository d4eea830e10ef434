package folder

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// clockTick is more than the times of files advance by at once (a hundredth of a second in a kernel
// of 100 ticks a second). A second change within one tick leaves no other mark on a file than the
// first.
const clockTick = 20 * time.Millisecond

// state tells one state of a directory from another without reading its files.
type state struct {
	sum    [sha256.Size]byte
	newest time.Time // the last change of anything in it
	files  int
}

// stateOf takes in the name of everything below dir and what stat(2) says of it: whatever is done
// to a file, its content, owner, mode or attributes, moves the time of its last change (ctime),
// which cannot be set back.
func stateOf(dir string) (state, error) {
	var s state
	sum := sha256.New()
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := os.Lstat(file)
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		fmt.Fprintf(sum, "%s\x00%d %d %o %d %d %d %d.%d %d.%d\x00", file, st.Dev, st.Ino, st.Mode, st.Uid, st.Gid, st.Size,
			st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec)
		if changed := time.Unix(st.Ctim.Unix()); changed.After(s.newest) {
			s.newest = changed
		}
		s.files++
		return nil
	})
	sum.Sum(s.sum[:0])
	return s, err
}
