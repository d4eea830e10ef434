package build

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"netroot/internal/topdir"
)

// workspace is the directory in which a tree is made before it is published. It lies beside the
// finished tree, on the same file system, so that one system call exchanges the two. It holds the
// tree's lock. The lock keeps a second build out, and tells the next build that any workspace it
// finds was left by a killed build.
type workspace struct {
	tree     string // path of the finished tree
	dir      string // directory of this build
	lock     *lock
	warnings []error // what is wrong beside the tree and does not end the build
}

const workPrefix = ".build-"

// openWorkspace makes a workspace for the tree of a label. Only with force does it accept an
// existing directory that is not a tree.
func openWorkspace(tree, label string, force bool) (*workspace, error) {
	parent := filepath.Dir(tree)
	if err := topdir.Make(parent, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the trees: %w", err)
	}
	l, err := lockTree(tree, label, "build")
	if err != nil {
		return nil, err
	}
	w := &workspace{tree: tree, lock: l}
	if err = replaceable(tree, force); err == nil {
		err = w.sweep(parent, filepath.Base(tree))
	}
	if err == nil {
		err = w.closeToOthers(parent)
	}
	if err == nil {
		w.dir, err = w.makeDir(parent)
	}
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	return w, nil
}

func (w *workspace) makeDir(parent string) (string, error) {
	// The sources of files are compared with the resolved path.
	real, err := filepath.EvalSymlinks(parent)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(real, workPrefix+filepath.Base(w.tree)+"-")
	if err != nil {
		return "", err
	}
	return dir, inheritNothing(dir)
}

// inheritNothing removes what a new directory has from its parent: the set-group-ID bit and access
// control lists. What is made below it would have them too, and a tree would depend on its place.
func inheritNothing(dir string) error {
	for _, name := range []string{"system.posix_acl_default", "system.posix_acl_access"} {
		err := unix.Removexattr(dir, name)
		if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) {
			return fmt.Errorf("remove %s from %s: %w", name, dir, err)
		}
	}
	return os.Chmod(dir, 0o700)
}

// closeToOthers has only root and the group of the directory of the trees reach them. A tree has programs that
// run as root whoever starts them, old ones with known holes among them, and its own /etc/shadow.
// A directory that holds other things too is not changed.
func (w *workspace) closeToOthers(parent string) error {
	if open, err := openToOthers(parent); err != nil || !open {
		return err
	}
	entries, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	for _, e := range entries {
		_, err := os.Lstat(filepath.Join(parent, e.Name(), metaDir))
		if err != nil && !strings.HasPrefix(e.Name(), ".") {
			w.warnings = append(w.warnings, fmt.Errorf(
				"every user of this host reaches the trees in %s and can start their setuid programs: \"chmod o-rwx %s\", or put the trees elsewhere", parent, parent))
			return nil
		}
	}
	fi, err := os.Stat(parent)
	if err != nil {
		return err
	}
	return os.Chmod(parent, fi.Mode().Perm()&^0o007)
}

// openToOthers is whether every user can enter the directory.
func openToOthers(dir string) (bool, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	for err == nil {
		var fi os.FileInfo
		if fi, err = os.Stat(dir); err == nil && fi.Mode()&0o001 == 0 {
			return false, nil
		}
		if dir == "/" {
			return true, err
		}
		dir = filepath.Dir(dir)
	}
	return false, err
}

// replaceable fails, before any work is done, if the finished tree could not or should not replace
// what is at its place. A build removes what it replaces.
func replaceable(tree string, force bool) error {
	fi, err := os.Lstat(tree)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !fi.IsDir():
		return fmt.Errorf("%s, the place of the tree, is not a directory: move it away", tree)
	}
	inside, err := mountsIn(tree)
	switch {
	case err != nil:
		return err
	case len(inside) > 0:
		return fmt.Errorf("%s is a mount point, which a build cannot replace: unmount it, or put the tree in a directory below it", inside[0])
	case force:
		return nil
	}
	entries, err := os.ReadDir(tree)
	if err != nil || len(entries) == 0 {
		return err
	}
	if _, err := os.Lstat(filepath.Join(tree, metaDir)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s contains files and was not built by netroot or Apptainer: a build would remove them; choose another place, or use --force", tree)
	}
	return nil
}

// sweep removes the workspaces of this tree that killed builds left.
func (w *workspace) sweep(parent, name string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), workPrefix+name+"-")
		if ok && strings.Trim(rest, "0123456789") == "" {
			if err := removeTree(filepath.Join(parent, e.Name())); err != nil {
				w.warnings = append(w.warnings, fmt.Errorf("the workspace of a killed build is left: %w", err))
			}
		}
	}
	return nil
}

// publish puts the finished tree in its place. It exchanges an old tree with the new one
// (renameat2(2), RENAME_EXCHANGE); close removes the old tree with the workspace.
func (w *workspace) publish(finished string) error {
	err := unix.Renameat2(unix.AT_FDCWD, finished, unix.AT_FDCWD, w.tree, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.ENOENT) {
		err = unix.Rename(finished, w.tree)
	}
	if err != nil {
		return fmt.Errorf("put the tree at %s: %w", w.tree, err)
	}
	return nil
}

// close removes the workspace and everything in it. What it cannot remove is a warning: the build
// has ended, and the next one tries again.
func (w *workspace) close(warn func(format string, args ...any)) error {
	if err := removeTree(w.dir); err != nil {
		warn("the workspace of this build is left: %v", err)
	}
	return w.lock.close()
}

// removeTree removes a directory. It fails if anything is mounted below it, so that it does not
// delete files of a file system that a recipe's script has mounted there.
func removeTree(dir string) error {
	inside, err := mountsIn(dir)
	if err != nil {
		return err
	}
	if len(inside) > 0 {
		return fmt.Errorf("%s is a mount point: unmount it, then remove %s", inside[0], dir)
	}
	err = os.RemoveAll(dir)
	if errors.Is(err, unix.EPERM) {
		if err = clearFlags(dir); err == nil {
			err = os.RemoveAll(dir)
		}
	}
	return err
}

// clearFlags removes the attributes i and a of chattr(1), with which nobody can remove a file.
func clearFlags(dir string) error {
	const fixed = 0x10 | 0x20 // FS_IMMUTABLE_FL, FS_APPEND_FL: linux/fs.h
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() && !d.Type().IsRegular() {
			return err // other files have no such attributes
		}
		// Not through a link that takes the place of the file meanwhile, and not with its content.
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
		defer unix.Close(fd)
		flags, err := unix.IoctlGetUint32(fd, unix.FS_IOC_GETFLAGS)
		if err != nil || flags&fixed == 0 {
			return nil // a file system without attributes
		}
		if err := unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, int(flags&^fixed)); err != nil {
			return &os.PathError{Op: "chattr -ia", Path: path, Err: err}
		}
		return nil
	})
}

// mountsIn lists the mount points at and below a directory, from proc_pid_mountinfo(5). The fifth
// field of a line is the mount point, in which blanks are written as \040.
func mountsIn(dir string) ([]string, error) {
	abs, err := filepath.Abs(dir)
	if err == nil {
		abs, err = filepath.EvalSymlinks(abs)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	plain := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var found []string
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 {
			if at := plain.Replace(fields[4]); at == abs || strings.HasPrefix(at, abs+"/") {
				found = append(found, at)
			}
		}
	}
	return found, nil
}

type inode struct{ dev, ino uint64 }

// stat returns the identity and the size in bytes of a file.
func stat(path string) (inode, int64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return inode{}, 0, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return inode{uint64(st.Dev), st.Ino}, st.Size, nil
}
