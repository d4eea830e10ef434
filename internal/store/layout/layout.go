// Package layout keeps an OCI image layout on disk, with the journals of its tags, and changes it
// so that a killed process leaves it as it was before a change or as it is after.
//
// A change takes the lock, writes down what it is about to do (pending.json), renames blobs into
// place, replaces index.json, which is the moment that counts, and finishes journals and removals;
// the next change completes or takes back what a killed process left. Readers need no lock.
//
// It knows files, digests and entries. What an image is, which labels and versions there are and
// what may be removed is not known here: that is package store.
package layout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Files beside those of the image-spec.
const (
	LockFile   = "netroot.lock"
	TempDir    = "netroot.tmp"
	JournalDir = "netroot.journal"
	UseDir     = "netroot.use" // of package store, for the versions in use
)

// Layout is an image layout in a directory. Its methods may be called by several goroutines and
// processes at once, except those for which the caller holds the lock.
type Layout struct {
	Dir string
	// At, where it is not nil, is called before each change to a file with the operation and the
	// path: tests kill the process there, at every point in turn.
	At func(op, path string)
}

// Open checks that there is a layout. The error matches fs.ErrNotExist when there is none.
func (l *Layout) Open() error {
	if err := l.Check(); err != nil {
		return err
	}
	if !exists(l.Path(v1.ImageIndexFile)) {
		return l.noIndex()
	}
	return nil
}

// Create makes the layout where there is none. The directory must be new, empty or a layout
// already. What a killed process left is removed.
func (l *Layout) Create() error {
	if err := os.MkdirAll(filepath.Dir(l.Dir), 0o755); err != nil {
		return l.Unwritable(err)
	}
	if err := l.MakeDir(l.Dir); err != nil {
		return l.Unwritable(err)
	}
	if err := l.onlyOurs(); err != nil {
		return err
	}
	for _, name := range []string{v1.ImageBlobsDir, l.blobDir()} {
		if err := l.MakeDir(l.Path(name)); err != nil {
			return l.Unwritable(err)
		}
	}
	unlock, err := l.Lock(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	// The layout file comes last: where it is, the rest has been made.
	if exists(l.Path(v1.ImageLayoutFile)) {
		return nil
	}
	if !exists(l.Path(v1.ImageIndexFile)) {
		if err := l.replace(v1.ImageIndexFile, new(Index).Bytes()); err != nil {
			return err
		}
	}
	raw, err := json.Marshal(v1.ImageLayout{Version: v1.ImageLayoutVersion})
	if err != nil {
		return err
	}
	return l.replace(v1.ImageLayoutFile, append(raw, '\n'))
}

// Lock waits until this process is the only one to change the store, and completes or takes back
// what a killed process left.
func (l *Layout) Lock(ctx context.Context) (unlock func(), err error) {
	f := flock.New(l.Path(LockFile), flock.SetPermissions(0o644), flock.SetFlag(os.O_CREATE|os.O_RDWR))
	if err := l.wait(ctx, f, f.TryLockContext); err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err == nil && info.Mode().Perm() != 0o644 { // by an umask
		os.Chmod(f.Path(), 0o644) //nolint:errcheck // readers of others then read without a lock
	}
	if err := l.recover(); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}

// Stage makes a directory for files that may become blobs. It is locked, before anybody can take it
// for left over, until it is removed with what is in it.
func (l *Layout) Stage(ctx context.Context) (dir string, remove func() error, err error) {
	unlock, err := l.Lock(ctx)
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	l.Before("mkdir", l.Path(TempDir))
	dir, err = os.MkdirTemp(l.Path(TempDir), "commit-")
	if err != nil {
		return "", nil, l.Unwritable(err)
	}
	l.Before("create", dir)
	f := flock.New(filepath.Join(dir, LockFile))
	if _, err := f.TryLock(); err != nil {
		return "", nil, l.Unwritable(err)
	}
	return dir, func() error {
		defer f.Close()
		if err := l.RemoveAll(dir); err != nil {
			return l.Unwritable(err)
		}
		return nil
	}, nil
}

// Check reads the file that makes a directory a layout.
func (l *Layout) Check() error {
	path := l.Path(v1.ImageLayoutFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no image store in %s: build an image first, or name the right directory: %w",
			l.Dir, fs.ErrNotExist)
	}
	if err != nil {
		return fmt.Errorf("open image store: %w", err)
	}
	var layout v1.ImageLayout
	if err := json.Unmarshal(raw, &layout); err != nil {
		return fmt.Errorf("image store: %s is damaged (%w): put back {\"imageLayoutVersion\":\"%s\"}",
			path, err, v1.ImageLayoutVersion)
	}
	if layout.Version != v1.ImageLayoutVersion {
		return fmt.Errorf("image store: %s says version %q, only %q is known: a newer program made it",
			path, layout.Version, v1.ImageLayoutVersion)
	}
	return nil
}

// onlyOurs refuses a directory that holds other files, so that a mistyped path does not fill
// somebody's home directory with blobs.
func (l *Layout) onlyOurs() error {
	if exists(l.Path(v1.ImageLayoutFile)) {
		return nil
	}
	entries, err := os.ReadDir(l.Dir)
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	known := []string{"lost+found", v1.ImageIndexFile, v1.ImageBlobsDir, LockFile, TempDir, JournalDir, UseDir}
	for _, e := range entries {
		if !slices.Contains(known, e.Name()) {
			return fmt.Errorf("image store: %s is not an image store and not empty (it holds %s): choose another directory",
				l.Dir, e.Name())
		}
	}
	return nil
}

// rlock waits until nobody changes the store, and keeps it as it is until unlock. Where there is no
// lock file that this user may read, it does neither.
func (l *Layout) rlock(ctx context.Context) (unlock func(), err error) {
	f := flock.New(l.Path(LockFile), flock.SetFlag(os.O_RDONLY))
	err = l.wait(ctx, f, f.TryRLockContext)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}

func (l *Layout) wait(ctx context.Context, f *flock.Flock, try func(context.Context, time.Duration) (bool, error)) error {
	_, err := try(ctx, lockRetry)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("image store: waiting for %s, which another process holds: %w", f.Path(), err)
	default:
		return l.Unwritable(err)
	}
}

// lockRetry is how often a lock is tried that another process holds.
const lockRetry = 10 * time.Millisecond

// Path is the file of that name in the layout.
func (l *Layout) Path(name string) string { return filepath.Join(l.Dir, name) }

func (l *Layout) blobDir() string { return filepath.Join(v1.ImageBlobsDir, string(digest.SHA256)) }

// BlobPath is the file of the blob. The digest must have been validated.
func (l *Layout) BlobPath(d digest.Digest) string {
	return filepath.Join(l.Dir, v1.ImageBlobsDir, string(d.Algorithm()), d.Encoded())
}

func (l *Layout) noIndex() error {
	return fmt.Errorf("image store: %s is missing: put back a copy, or move %s away and build again",
		l.Path(v1.ImageIndexFile), l.Dir)
}

// Unwritable adds to an error of writing what its reader can do about it.
func (l *Layout) Unwritable(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		return fmt.Errorf("image store %s cannot be written: %w: run as its owner or choose another directory", l.Dir, err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("image store %s is full: %w: remove images (\"netroot image gc\", which itself needs room for a second index.json) or choose another directory", l.Dir, err)
	case errors.Is(err, unix.ENOLCK), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("image store %s: its file system does not lock files: %w: choose a directory of another file system", l.Dir, err)
	default:
		return fmt.Errorf("image store %s: %w", l.Dir, err)
	}
}

// DamagedIndex is the error for an index that cannot be understood.
func (l *Layout) DamagedIndex(err error) error {
	return fmt.Errorf("image store: %s is damaged (%w): put back a copy, or move %s away and build again",
		l.Path(v1.ImageIndexFile), err, l.Dir)
}

// ReadIndex reads index.json; nil, without an error, where there is no store yet.
func (l *Layout) ReadIndex() ([]byte, Stamp, error) {
	f, err := os.Open(l.Path(v1.ImageIndexFile))
	if errors.Is(err, fs.ErrNotExist) {
		if exists(l.Path(v1.ImageLayoutFile)) {
			return nil, Stamp{}, l.noIndex()
		}
		return nil, Stamp{}, nil
	}
	if err != nil {
		return nil, Stamp{}, fmt.Errorf("image store: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, Stamp{}, fmt.Errorf("image store: %w", err)
	}
	raw := make([]byte, info.Size())
	if n, err := f.ReadAt(raw, 0); err != nil && n < len(raw) {
		return nil, Stamp{}, fmt.Errorf("image store: read %s: %w", f.Name(), err)
	}
	st := StampOf(info)
	st.Settled = time.Since(info.ModTime()) > clockStep && time.Since(time.Unix(0, st.ctime)) > clockStep
	return raw, st, nil
}

// Stamp tells one state of the file from another.
type Stamp struct {
	size, mtime, ctime int64
	inode              uint64
	Settled            bool // the file was older than the clock's step when it was read
}

// clockStep is more than the step of the clock that file systems take times from.
const clockStep = 50 * time.Millisecond

// StampOf is the state of the file that info describes.
func StampOf(info fs.FileInfo) Stamp {
	st := Stamp{size: info.Size(), mtime: info.ModTime().UnixNano()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		st.inode, st.ctime = sys.Ino, sys.Ctim.Nano()
	}
	return st
}

// Same tells whether a file that was read in state a is in that state still.
func (a Stamp) Same(b Stamp) bool {
	return a.Settled && a.size == b.size && a.mtime == b.mtime && a.ctime == b.ctime && a.inode == b.inode
}
