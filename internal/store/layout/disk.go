package layout

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// Before is called before a file is changed. See [Layout.At].
func (l *Layout) Before(op, path string) {
	if l.At != nil {
		l.At(op, path)
	}
}

// MakeDir makes a directory that everyone may read, whatever the umask.
func (l *Layout) MakeDir(path string) error {
	l.Before("mkdir", path)
	err := os.Mkdir(path, 0o755)
	if err == nil {
		return os.Chmod(path, 0o755)
	}
	if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
		return nil
	}
	return err
}

// replace replaces one file of the layout at once and durably. The caller holds the lock.
func (l *Layout) replace(name string, content []byte) error {
	if err := l.write(l.Path(name), content); err != nil {
		return l.Unwritable(err)
	}
	return nil
}

func (l *Layout) write(path string, content []byte) error {
	l.Before("create", path)
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(l.Path(TempDir)),
		renameio.WithStaticPermissions(0o644))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	l.Before("write", path)
	if _, err := f.Write(content); err != nil {
		return err
	}
	l.Before("replace", path)
	if err := f.CloseAtomicallyReplace(); err != nil {
		return err
	}
	return l.syncDir(filepath.Dir(path))
}

func (l *Layout) rename(from, to string) error {
	l.Before("rename", to)
	return os.Rename(from, to)
}

// Link makes dst another name of the regular file src; false when the two are on different file
// systems or their file system has no hard links.
func (l *Layout) Link(src, dst string) bool {
	l.Before("link", dst)
	return unix.Linkat(unix.AT_FDCWD, src, unix.AT_FDCWD, dst, unix.AT_SYMLINK_FOLLOW) == nil
}

// Remove removes a file; one that is not there is not an error.
func (l *Layout) Remove(path string) error {
	l.Before("remove", path)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// RemoveAll removes a directory with what is in it.
func (l *Layout) RemoveAll(path string) error {
	l.Before("remove", path)
	return os.RemoveAll(path)
}

// Sync makes the file readable for everyone and puts it on the disk.
func (l *Layout) Sync(f *os.File) error {
	l.Before("sync", f.Name())
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	return f.Sync()
}

func (l *Layout) syncDir(path string) error {
	l.Before("syncdir", path)
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}

// appendTo puts content behind the first size bytes of the file, durably. Bytes after those, which
// an earlier process did not finish, are cut off.
func (l *Layout) appendTo(path string, size int64, content []byte) error {
	l.Before("append", path)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	l.Before("truncate", path)
	if err := f.Truncate(size); err != nil {
		return err
	}
	l.Before("write", path)
	if _, err := f.WriteAt(content, size); err != nil {
		return err
	}
	if err := l.Sync(f); err != nil {
		return err
	}
	if size == 0 {
		return l.syncDir(filepath.Dir(path))
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
