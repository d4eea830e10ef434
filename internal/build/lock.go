package build

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// lock is the lock of a tree. The process that builds the tree or works in it holds the lock alone.
// The kernel releases the lock when that process ends in any way. The lock file names the holder;
// close removes it.
type lock struct{ file *os.File }

// lockTree takes the lock of the tree at path, which need not exist. verb says what the holder
// does: "build", "shell".
func lockTree(path, label, verb string) (*lock, error) {
	f, err := lockFile(sibling(path, ".lock"))
	if errors.Is(err, unix.EWOULDBLOCK) {
		defer f.Close()
		holder, _ := io.ReadAll(io.LimitReader(f, 100)) // only for the message
		return nil, fmt.Errorf("the tree of %s is in use by another netroot%s: wait until it ends", label, holderName(string(holder)))
	}
	if err != nil {
		return nil, err
	}
	l := &lock{f}
	if err := f.Truncate(0); err != nil {
		return nil, errors.Join(err, l.close())
	}
	if _, err := f.WriteAt(fmt.Appendf(nil, "%s %d\n", verb, os.Getpid()), 0); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

// lockFile makes and locks a file. If the previous holder removed the file between the two steps,
// the lock is void and lockFile tries again. The error EWOULDBLOCK means that another process holds
// the lock.
func lockFile(name string) (*os.File, error) {
	for {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return f, err
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
		}
		locked, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if there, err := os.Stat(name); err == nil && os.SameFile(locked, there) {
			return f, nil
		}
		f.Close()
	}
}

// holderName turns the content of a lock file, verb and process ID, into words for a message.
func holderName(holder string) string {
	words := strings.Fields(holder)
	if len(words) != 2 {
		return ""
	}
	return fmt.Sprintf(" %s (process %s)", words[0], words[1])
}

// close removes the file before it releases the lock, so that it cannot remove another holder's
// file.
func (l *lock) close() error {
	return errors.Join(os.Remove(l.file.Name()), l.file.Close())
}

// sibling returns the name of a hidden file that belongs to a tree and lies beside it.
func sibling(tree, suffix string) string {
	return filepath.Join(filepath.Dir(tree), "."+filepath.Base(tree)+suffix)
}

// freeTree refuses to replace a tree that is the root of running machines over NFS, because they
// would lose all their files at once. The server holds a lock (flock(2)) on the directory for as
// long as a machine uses the tree and for some time after. Package serve defines these times
// (readerLinger and others).
func (b *builder) freeTree() error {
	dir, err := os.Open(b.opt.Tree)
	if errors.Is(err, fs.ErrNotExist) || b.opt.Force {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close() // this also releases the lock
	err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("the tree of %s is the root of running machines over NFS, and a build would replace it: shut the machines down first, or use --force "+
			"(the tree counts as in use for one hour after the last connection of a machine has ended, for ten minutes if that machine wrote to the tree, and for five minutes after a request for a boot script)", b.opt.Label)
	}
	return err
}
