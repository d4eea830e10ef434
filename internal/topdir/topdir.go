// Package topdir makes directories for independent file trees. It does not make the trees.
package topdir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const flag = 0x00020000 // FS_TOPDIR_FL, linux/fs.h

// Make makes a directory for trees, with its parents. A directory that exists is not changed.
//
// On ext4 a new directory gets the attribute T of chattr(1), top of directory hierarchies, so that
// ext4 spreads the trees in it over the disk. Without it a new tree is placed where the last one
// was removed. ext4 does not reuse an inode that was freed in the last half minute or so, and
// examines each of these again for each new file (fs/ext4/ialloc.c, recently_deleted): the copy of
// a tree of 12,000 files took 4 s instead of 0.4 s.
func Make(dir string, perm fs.FileMode) error {
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	err := os.Mkdir(dir, perm)
	if errors.Is(err, fs.ErrExist) {
		return os.MkdirAll(dir, perm) // fails if it is not a directory
	}
	if err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	// Other file systems do not have the attribute, and do not need it.
	if flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS); err == nil {
		unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags|flag))
	}
	return nil
}
