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

// lock is the one that a tree has: who builds it, or works inside it, holds it
// alone. It ends with its holder, however that ends. The file says who holds it,
// and goes when the holder lets go of it in order.
type lock struct{ file *os.File }

// lockTree takes the lock of the tree that lies, or will lie, at path. verb is
// what the holder is: "build", "shell".
func lockTree(path, label, verb string) (*lock, error) {
	f, err := lockFile(sibling(path, ".lock"))
	if errors.Is(err, unix.EWOULDBLOCK) {
		defer f.Close()
		holder, _ := io.ReadAll(io.LimitReader(f, 100)) // it only makes the message better
		return nil, fmt.Errorf("the tree of %s is in use by another netroot%s: wait for it to end", label, by(string(holder)))
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

// lockFile makes and locks a file. One that its holder removed between the two
// is no lock, and it is done again. With EWOULDBLOCK the file is somebody else's.
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

// by reads what a holder has written: its verb and process.
func by(holder string) string {
	words := strings.Fields(holder)
	if len(words) != 2 {
		return ""
	}
	return fmt.Sprintf(" %s (process %s)", words[0], words[1])
}

// close removes the file while it is still locked, so that nobody else's goes.
func (l *lock) close() error {
	return errors.Join(os.Remove(l.file.Name()), l.file.Close())
}

// sibling is the name of a hidden file beside a tree that belongs to it.
func sibling(tree, suffix string) string {
	return filepath.Join(filepath.Dir(tree), "."+filepath.Base(tree)+suffix)
}

// freeTree refuses to replace a tree that machines have as their root by NFS:
// they would lose every file at once. Who serves a tree holds a lock of its
// directory (flock(2)) for as long as a machine uses it, and for a time after:
// the times are package serve's (readerLinger and its like).
func (b *builder) freeTree() error {
	dir, err := os.Open(b.opt.Tree)
	if errors.Is(err, fs.ErrNotExist) || b.opt.Force {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close() // and with it goes the lock
	err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return fmt.Errorf("the tree of %s is the root of running machines, by NFS, and a build would take it away from them: shut them down first, or say --force "+
			"(it counts as in use for an hour after the last machine's connection has ended, for ten minutes if that one wrote to it, and for five after a boot script was asked for)", b.opt.Label)
	}
	return err
}
