package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// workspace is where a tree grows before it takes its place: a directory beside
// the finished tree, on the same file system, so that it can be exchanged with
// it in one system call. The lock beside it keeps a second build of the same
// tree out, and tells the next build that what it finds is left over.
type workspace struct {
	tree string // where the finished tree goes
	dir  string // of this build
	lock *os.File
}

const workPrefix = ".build-"

func openWorkspace(ctx context.Context, tree, label string) (*workspace, error) {
	parent := filepath.Dir(tree)
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, fmt.Errorf("directory of the trees: %w", err)
	}
	name := filepath.Base(tree)
	lock, err := os.OpenFile(filepath.Join(parent, "."+name+".lock"), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another build of %s is running (it holds %s): wait for it to end", label, lock.Name())
		}
		return nil, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	w := &workspace{tree: tree, lock: lock}
	if err := w.sweep(parent, name); err != nil {
		lock.Close()
		return nil, err
	}
	w.dir, err = os.MkdirTemp(parent, workPrefix+name+"-")
	if err != nil {
		lock.Close()
		return nil, err
	}
	return w, nil
}

// sweep removes what builds of this tree left that were killed outright.
func (w *workspace) sweep(parent, name string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), workPrefix+name+"-")
		if ok && strings.Trim(rest, "0123456789") == "" {
			if err := removeTree(filepath.Join(parent, e.Name())); err != nil {
				return fmt.Errorf("remove what a killed build left: %w", err)
			}
		}
	}
	return nil
}

// publish puts the finished tree in its place. An old one is exchanged with it
// (renameat2(2), RENAME_EXCHANGE) and goes with the workspace.
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

// close removes the workspace with all that is in it.
func (w *workspace) close() error {
	err := removeTree(w.dir)
	return errors.Join(err, w.lock.Close())
}

// removeTree removes a directory, but nothing that is mounted below it: what a
// recipe's script mounted by force elsewhere is not ours to delete.
func removeTree(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], abs+"/") {
			return fmt.Errorf("%s is a mount point: unmount it and remove %s", fields[4], dir)
		}
	}
	return os.RemoveAll(dir)
}

type inode struct{ dev, ino uint64 }

// stat returns a file's identity and its size in blocks of 512 bytes.
func stat(path string) (inode, int64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return inode{}, 0, &os.PathError{Op: "lstat", Path: path, Err: err}
	}
	return inode{uint64(st.Dev), st.Ino}, st.Blocks, nil
}
