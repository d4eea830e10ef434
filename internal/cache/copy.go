package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
)

// copyTree copies the content of the directory from into the directory to, and gives to the owner,
// mode and times of from. It keeps hard links, extended attributes (including capabilities and
// ACLs), holes, devices and times; it leaves out what is mounted below from. An attribute that
// cannot be kept is an error: otherwise a ping without its capability would be noticed only on the
// node.
func copyTree(ctx context.Context, from, to string) error {
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, "cp", "--archive", "--preserve=xattr", "--one-file-system", "--reflink=auto",
		"--no-target-directory", "--", from, to)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stderr = &said
	// cp must end when this process is killed, because nothing would wait for it. The signal is
	// sent when the thread that started cp ends (prctl(2), PR_SET_PDEATHSIG), so the thread is
	// locked.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case strings.Contains(said.String(), "No space left on device"):
		return fmt.Errorf("no space left in %s", filepath.Dir(to))
	}
	words := strings.Split(strings.TrimSpace(said.String()), "\n")
	return fmt.Errorf("%w: %s", err, strings.Join(words[max(0, len(words)-3):], "; "))
}

// errBusy means that another process has locked a directory.
var errBusy = errors.New("in use by another build")

// lockDir locks a directory for one process alone. It fails with errBusy if another
// process holds a lock of it.
func lockDir(path string) (*flock.Flock, error) {
	lock := dirLock(path)
	locked, err := lock.TryLock()
	if err == nil && !locked {
		return nil, errBusy
	}
	return held(lock, err)
}

// shareDir locks a directory together with others that only read it, and waits for
// the end of a lock that one process has alone: such a lock is held for a rename and
// a removal.
func shareDir(path string) (*flock.Flock, error) {
	lock := dirLock(path)
	return held(lock, lock.RLock())
}

// dirLock is the lock of a directory. Directories are locked themselves, since flock(2) takes any
// open file, so that no lock file can outlive its snapshot.
func dirLock(path string) *flock.Flock {
	return flock.New(path, flock.SetFlag(os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW))
}

// held makes sure that the directory that was locked still has its name.
func held(lock *flock.Flock, err error) (*flock.Flock, error) {
	var path *fs.PathError
	switch {
	case errors.As(err, &path):
		return nil, err
	case err != nil:
		return nil, &fs.PathError{Op: "lock", Path: lock.Path(), Err: err}
	}
	ours, err := lock.Stat()
	if err == nil {
		var named os.FileInfo
		if named, err = os.Lstat(lock.Path()); err == nil && !os.SameFile(ours, named) {
			err = &fs.PathError{Op: "lock", Path: lock.Path(), Err: fs.ErrNotExist}
		}
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// diskUsage returns the number of bytes on disk that the files below dir take.
func diskUsage(dir string) (int64, error) {
	type inode struct{ dev, ino uint64 }
	var total int64
	linked := map[inode]bool{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: path, Err: err}
		}
		if st.Nlink > 1 && !d.IsDir() {
			id := inode{uint64(st.Dev), st.Ino}
			if linked[id] {
				return nil
			}
			linked[id] = true
		}
		total += st.Blocks * 512
		return nil
	})
	return total, err
}
