package build

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/gofrs/flock"
)

// lock is the lock of a tree. The process that builds the tree or works in it holds the lock alone.
// The kernel releases the lock when that process ends in any way. The lock file names the holder;
// close removes it.
type lock struct{ file *flock.Flock }

// lockTree takes the lock of the tree at path, which need not exist. verb says what the holder
// does: "build", "shell".
func lockTree(path, label, verb string) (*lock, error) {
	file := flock.New(sibling(path, ".lock"), flock.SetFlag(os.O_CREATE|os.O_RDWR), flock.SetPermissions(0o644))
	locked, err := lockFile(file)
	if err != nil {
		return nil, err
	}
	if !locked {
		return nil, fmt.Errorf("the tree of %s is in use by another netroot%s: wait until it ends", label, holderName(holder(file.Path())))
	}
	l := &lock{file}
	if err := os.WriteFile(file.Path(), fmt.Appendf(nil, "%s %d\n", verb, os.Getpid()), 0o644); err != nil {
		return nil, errors.Join(err, l.close())
	}
	return l, nil
}

// lockFile makes and locks a file, and reports false if another process holds the
// lock. A holder may remove the file after it was opened here and before it was
// locked; the lock is then taken again, on a new file.
func lockFile(file *flock.Flock) (bool, error) {
	for {
		locked, err := file.TryLock()
		if err != nil {
			return false, fmt.Errorf("lock %s: %w", file, err)
		}
		if !locked {
			return false, nil
		}
		ours, err := file.Stat()
		if err != nil {
			return false, errors.Join(err, file.Close())
		}
		if there, err := os.Stat(file.Path()); err == nil && os.SameFile(ours, there) {
			return true, nil
		}
		if err := file.Close(); err != nil {
			return false, err
		}
	}
}

// holder returns the text that the holder of a lock has written into its file. It is only used for
// a message, so a file that cannot be read counts as empty.
func holder(name string) string {
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	text, _ := io.ReadAll(io.LimitReader(f, 100))
	return string(text)
}

// holderName turns the content of a lock file, verb and process ID, into words for a message.
func holderName(holder string) string {
	words := strings.Fields(holder)
	if len(words) != 2 {
		return ""
	}
	return fmt.Sprintf(" %s (process %s)", words[0], words[1])
}

// close removes the file while it is still locked, so that it never removes the
// file of another holder.
func (l *lock) close() error {
	return errors.Join(os.Remove(l.file.Path()), l.file.Close())
}

// sibling returns the name of a hidden file that belongs to a tree and lies beside it.
func sibling(tree, suffix string) string {
	return filepath.Join(filepath.Dir(tree), "."+filepath.Base(tree)+suffix)
}

// freeTree refuses to replace a tree that running machines have as their root over
// NFS: they would lose every file at once. The server of a tree holds a shared lock
// of the tree's directory for as long as a machine uses it, and for some time after:
// the times are package serve's (readerLinger and its neighbours).
func (b *builder) freeTree() error {
	if b.opt.Force {
		return nil
	}
	dir := flock.New(b.opt.Tree, flock.SetFlag(os.O_RDONLY))
	locked, err := dir.TryLock()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case !locked:
		return fmt.Errorf("the tree of %s is the root of running machines over NFS, and a build would replace it: shut the machines down first, or use --force "+
			"(the tree counts as in use for one hour after the last connection of a machine has ended, for ten minutes if that machine wrote to the tree, and for five minutes after a request for a boot script)", b.opt.Label)
	}
	return dir.Close() // only the question mattered
}
