package nfs3

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// tree is an export's directory as this server sees it: through a mount of its own that hangs
// nowhere. What other file systems are mounted inside of the directory does not show there, so they
// are not exported: a client sees the directory that is beneath (as with the kernel's server
// without "crossmnt"). And no ".." leads out of it: that of the mount's root is the root, and that
// of a directory which was moved to outside of the mount is ENOENT (path_connected in fs/namei.c).
type tree struct {
	key   treeKey
	mount int // by open_tree(2); the mount lasts as long as it
	fd    int // the root directory in it
	fsid  uint64
	refs  int // of Server.mu
}

// treeKey says when two exports are one tree.
type treeKey struct {
	id       ID
	dev, ino uint64
	readOnly bool
}

// Check says why dir cannot be exported, or nil. It needs root as a server does.
func Check(dir *os.File) error {
	t, err := newTree(&Export{Name: dir.Name(), Dir: dir, ReadOnly: true})
	if err == nil {
		t.close()
	}
	return err
}

// tree returns the tree of e, with a reference to leave.
func (s *Server) tree(e *Export) (*tree, error) {
	if e.Dir == nil {
		return nil, fmt.Errorf("export %s has no directory", e.Name)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(e.Dir.Fd()), &st); err != nil {
		return nil, fmt.Errorf("export %s: %w", e.Name, err)
	}
	key := treeKey{e.ID, st.Dev, st.Ino, e.ReadOnly}
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.trees[key]
	if t == nil {
		var err error
		if t, err = newTree(e); err != nil {
			return nil, err
		}
		t.key = key
		s.trees[key] = t
	}
	t.refs++
	return t, nil
}

// leave gives back a reference. Files of a tree without users are closed at once, so that its file
// system can be unmounted.
func (s *Server) leave(t *tree) {
	s.mu.Lock()
	t.refs--
	over := t.refs == 0
	if over {
		delete(s.trees, t.key)
	}
	s.mu.Unlock()
	if over {
		s.files.purge(t)
		t.close()
	}
}

func newTree(e *Export) (*tree, error) {
	fail := func(what string, err error) (*tree, error) {
		return nil, fmt.Errorf("cannot export %s: %s: %w", e.Dir.Name(), what, err)
	}
	t := &tree{mount: -1, fd: -1, fsid: be.Uint64(e.ID[:])}
	lower, err := raiseAdmin()
	if err != nil {
		return fail("capabilities", err)
	}
	defer lower()
	t.mount, err = unix.OpenTree(int(e.Dir.Fd()), "", unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	switch {
	case errors.Is(err, unix.EPERM):
		return fail("an NFS server needs root with CAP_SYS_ADMIN", err)
	case errors.Is(err, unix.ENOSYS):
		return fail("an NFS server needs Linux 5.8 or later", err)
	case err != nil:
		return fail("open_tree", err)
	}
	if e.ReadOnly { // a second lock on the door, where there is one (Linux 5.12)
		err := unix.MountSetattr(t.mount, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
		if err != nil && !errors.Is(err, unix.ENOSYS) {
			t.close()
			return fail("mount_setattr", err)
		}
	}
	// open_by_handle_at(2) takes no O_PATH descriptor, which open_tree returns.
	if t.fd, err = unix.Openat(t.mount, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		t.close()
		return fail("open", err)
	}
	if err := t.probe(); err != nil {
		t.close()
		return nil, fmt.Errorf("cannot export %s: %w", e.Dir.Name(), err)
	}
	return t, nil
}

// raiseAdmin makes CAP_SYS_ADMIN effective for this goroutine, which open_tree(2) and
// mount_setattr(2) require, in a process that has it permitted alone; lower ends that. A process
// whose calls have it anyway, or that does not have it at all, stays as it is.
func raiseAdmin() (lower func(), err error) {
	runtime.LockOSThread()
	h := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3} // of pid 0: this thread
	var d [2]unix.CapUserData
	if err := unix.Capget(&h, &d[0]); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	const admin = 1 << unix.CAP_SYS_ADMIN
	if d[0].Effective&admin != 0 || d[0].Permitted&admin == 0 {
		return runtime.UnlockOSThread, nil
	}
	d[0].Effective |= admin
	if err := unix.Capset(&h, &d[0]); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	return func() {
		d[0].Effective &^= admin
		if err := unix.Capset(&h, &d[0]); err != nil {
			return // the thread ends with its goroutine, to which it stays locked
		}
		runtime.UnlockOSThread()
	}, nil
}

// probe finds out whether files can be found again by handles, and asked for permission.
func (t *tree) probe() error {
	fh, err := kernelHandle(t.fd)
	if err != nil {
		return fmt.Errorf("its file system %s has no file handles that a client could keep: %w; "+
			"export a directory of ext4, XFS, Btrfs or tmpfs (an overlay needs nfs_export=on)", fsName(t.fd), err)
	}
	fd, err := unix.OpenByHandleAt(t.fd, fh, unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open_by_handle_at on %s: %w; an NFS server needs root with CAP_DAC_READ_SEARCH", fsName(t.fd), err)
	}
	defer unix.Close(fd)
	if err := access(fd, unix.X_OK); errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("faccessat2: %w: an NFS server needs Linux 5.8 or later", err)
	}
	return nil
}

func (t *tree) close() {
	for _, fd := range []int{t.fd, t.mount} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// isRoot says whether st is the tree's root directory.
func (t *tree) isRoot(st *unix.Stat_t) bool { return st.Ino == t.key.ino && st.Dev == t.key.dev }

// fsidOf is the file system that a client is told for a file. Inside of a tree st_dev differs only
// between Btrfs subvolumes, each of which counts inodes anew: they must be different file systems
// to the client.
func (t *tree) fsidOf(st *unix.Stat_t) uint64 {
	if st.Dev == t.key.dev {
		return t.fsid
	}
	return t.fsid ^ (st.Dev+1)*0x9e3779b97f4a7c15
}

// fsName is the file system's name for an error, or its number (statfs(2)).
func fsName(fd int) string {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return "(unknown)"
	}
	switch fs.Type {
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlay"
	case unix.NFS_SUPER_MAGIC:
		return "nfs"
	case unix.FUSE_SUPER_MAGIC:
		return "fuse"
	case unix.PROC_SUPER_MAGIC:
		return "proc"
	case unix.SYSFS_MAGIC:
		return "sysfs"
	case unix.RAMFS_MAGIC:
		return "ramfs"
	case unix.V9FS_MAGIC:
		return "9p"
	}
	return fmt.Sprintf("%#x", uint32(fs.Type))
}
