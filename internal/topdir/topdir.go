// Package topdir makes directories that hold file trees which have nothing to do with each other.
package topdir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const flag = 0x00020000 // FS_TOPDIR_FL, linux/fs.h

// Make makes a directory, with its parents, for trees to be made in; one that is there is left as it is.
//
// On ext4 the new one gets the attribute T of chattr(1), top of directory hierarchies: the trees in it are then spread
// over the disk. Otherwise a tree goes where the last one was removed, and there ext4 takes no inode that was freed in
// the last half minute or so and looks at each of them for each new file (fs/ext4/ialloc.c, recently_deleted): copying
// a tree of 12,000 files took 4 s instead of 0.4 s.
func Make(dir string, perm fs.FileMode) error {
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	err := os.Mkdir(dir, perm)
	if errors.Is(err, fs.ErrExist) {
		return os.MkdirAll(dir, perm) // which knows whether it is a directory
	}
	if err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	// Other file systems have no such attribute, and need none.
	if flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS); err == nil {
		unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags|flag))
	}
	return nil
}
