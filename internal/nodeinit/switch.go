package nodeinit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// mountEarly mounts what everything else needs. The four mounts are moved into the root later.
func mountEarly() error {
	for _, m := range []struct {
		target, fstype, options string
		flags                   uintptr
	}{
		{"/proc", "proc", "", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV},
		{"/sys", "sysfs", "", unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV},
		{"/dev", "devtmpfs", "mode=0755", unix.MS_NOSUID},
		{"/run", "tmpfs", "mode=0755", unix.MS_NOSUID | unix.MS_NODEV},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		err := unix.Mount(m.fstype, m.target, m.fstype, m.flags, m.options)
		if err != nil && !errors.Is(err, unix.EBUSY) { // the kernel may have mounted /dev itself
			return fmt.Errorf("mount %s on %s: %w", m.fstype, m.target, err)
		}
	}
	return nil
}

// environment is what the init of the root starts with, and the rescue shell's "sh".
var environment = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=linux"}

// switchRoot moves the early mounts into the new root, frees the memory of the initramfs, makes the
// new root the root and executes its init. It returns only with an error.
func switchRoot(init string) error {
	for _, dir := range []string{"/dev", "/proc", "/sys", "/run"} {
		if err := moveMount(dir, newRoot+dir); err != nil {
			return err
		}
	}
	if err := unix.Chdir(newRoot); err != nil {
		return err
	}
	emptyInitramfs()
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the root to /: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	if err := syscall.Exec(init, []string{init}, environment); err != nil {
		return fmt.Errorf("exec %s: %w", init, err)
	}
	return nil
}

// moveMount moves a mount into the new root. It is an error if the root does not have the directory
// and it cannot be made.
func moveMount(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return fmt.Errorf("the root lacks a directory to mount on: %w", err)
	}
	if err := unix.Mount(from, to, "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move %s to %s: %w", from, to, err)
	}
	return nil
}

// Magic numbers of the file systems that an initramfs is unpacked into
// (include/uapi/linux/magic.h).
const (
	ramfsMagic = 0x858458f6
	tmpfsMagic = 0x01021994
)

// emptyInitramfs deletes the files of the initramfs, which cannot be reached any more but would
// stay in memory. It changes one file system only, and only if that is an initramfs.
func emptyInitramfs() {
	var sfs unix.Statfs_t
	var root unix.Stat_t
	if unix.Statfs("/", &sfs) != nil || unix.Stat("/", &root) != nil {
		return
	}
	if kind := uint32(sfs.Type); kind != ramfsMagic && kind != tmpfsMagic {
		return
	}
	filepath.WalkDir("/", func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == "/" {
			return nil
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) != nil {
			return nil
		}
		if st.Dev != root.Dev { // a mount: the new root
			return fs.SkipDir
		}
		if !d.IsDir() {
			os.Remove(path)
		}
		return nil
	})
}
