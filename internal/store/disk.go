package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// disk changes files. Before each change it calls at with the operation and the path, where at is
// not nil: tests kill the process there, at every point in turn.
type disk struct {
	at func(op, path string)
}

func (d *disk) before(op, path string) {
	if d.at != nil {
		d.at(op, path)
	}
}

// makeDir makes a directory that everyone may read, whatever the umask.
func (d *disk) makeDir(path string) error {
	d.before("mkdir", path)
	err := os.Mkdir(path, 0o755)
	if err == nil {
		return os.Chmod(path, 0o755)
	}
	if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
		return nil
	}
	return err
}

// replace writes the file at once and durably. Until then the bytes are in the directory temp.
func (d *disk) replace(path, temp string, content []byte) error {
	d.before("create", path)
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(temp),
		renameio.WithStaticPermissions(0o644))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	d.before("write", path)
	if _, err := f.Write(content); err != nil {
		return err
	}
	d.before("replace", path)
	if err := f.CloseAtomicallyReplace(); err != nil {
		return err
	}
	return d.syncDir(filepath.Dir(path))
}

func (d *disk) rename(from, to string) error {
	d.before("rename", to)
	return os.Rename(from, to)
}

// link makes dst another name of the regular file src; false when the two are on different file
// systems or their file system has no hard links.
func (d *disk) link(src, dst string) bool {
	d.before("link", dst)
	return unix.Linkat(unix.AT_FDCWD, src, unix.AT_FDCWD, dst, unix.AT_SYMLINK_FOLLOW) == nil
}

// remove removes a file; one that is not there is not an error.
func (d *disk) remove(path string) error {
	d.before("remove", path)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (d *disk) removeAll(path string) error {
	d.before("remove", path)
	return os.RemoveAll(path)
}

// sync makes the file readable for everyone and puts it on the disk.
func (d *disk) sync(f *os.File) error {
	d.before("sync", f.Name())
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	return f.Sync()
}

func (d *disk) syncDir(path string) error {
	d.before("syncdir", path)
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
func (d *disk) appendTo(path string, size int64, content []byte) error {
	d.before("append", path)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	d.before("truncate", path)
	if err := f.Truncate(size); err != nil {
		return err
	}
	d.before("write", path)
	if _, err := f.WriteAt(content, size); err != nil {
		return err
	}
	if err := d.sync(f); err != nil {
		return err
	}
	if size == 0 {
		return d.syncDir(filepath.Dir(path))
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
