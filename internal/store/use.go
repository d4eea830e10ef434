package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"netroot/internal/store/layout"

	"github.com/gofrs/flock"
	"github.com/opencontainers/go-digest"
)

// Times of use files.
const (
	touchEvery = time.Minute // for which a second Touch of the same version costs nothing
	renewEvery = time.Hour   // after which a process that holds a version says so again
)

// DefaultGrace is how long after its last use a version is kept for the machines that run from it:
// they outlive a restart of their server, and a machine whose root is in its memory never tells.
const DefaultGrace = 24 * time.Hour

func (s *Store) usePath(d digest.Digest) string {
	return filepath.Join(s.layout.Path(layout.UseDir), d.Encoded())
}

// Use says that machines run from the image, until release is called or the process ends, however
// it ends: it holds a shared lock on a file of the version, which Remove and GC try to lock. The
// file's time is the last use; it is renewed once an hour, so that a version is kept for some time
// after a server was killed. The error matches ErrNotFound when the version has been removed
// meanwhile. A store that cannot be written is used without a lock file where it has none, and
// Use returns an error that matches fs.ErrPermission or the file system's own.
func (s *Store) Use(im *Image) (release func(), err error) {
	path := s.usePath(im.Digest)
	for {
		l, err := s.openUse(path)
		if err != nil {
			return nil, err
		}
		err = l.RLock() // GC holds it for a moment only
		if errors.Is(err, fs.ErrNotExist) {
			continue // it was removed just now
		}
		if err != nil {
			return nil, fmt.Errorf("image store: %w", err)
		}
		mine, err := l.Stat()
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("image store: %w", err)
		}
		if now, err := os.Stat(path); err != nil || !os.SameFile(mine, now) {
			l.Close() // it was removed, with the version or without
			continue
		}
		snap, err := s.snapshot()
		if err == nil && (snap == nil || snap.byDigest[im.Digest] == nil) {
			err = fmt.Errorf("%w: %s has been removed", ErrNotFound, im.Name())
		}
		if err != nil {
			l.Close()
			return nil, err
		}
		return s.hold(path, l), nil
	}
}

// hold renews the time of the use file until the release.
func (s *Store) hold(path string, l *flock.Flock) (release func()) {
	var mu sync.Mutex
	var timer *time.Timer
	renew := func() {
		mu.Lock()
		defer mu.Unlock()
		if timer != nil {
			s.renew(path)
			timer.Reset(renewEvery)
		}
	}
	s.renew(path)
	mu.Lock()
	timer = time.AfterFunc(renewEvery, renew)
	mu.Unlock()
	return sync.OnceFunc(func() {
		mu.Lock()
		defer mu.Unlock()
		timer.Stop()
		timer = nil
		s.renew(path)
		l.Close()
	})
}

// openUse prepares the lock of a version; a store that cannot be written may have its file already.
func (s *Store) openUse(path string) (*flock.Flock, error) {
	if _, err := os.Stat(path); err != nil {
		if err := s.makeUse(path); err != nil {
			return nil, err
		}
	}
	return flock.New(path, flock.SetFlag(os.O_RDONLY)), nil
}

func (s *Store) makeUse(path string) error {
	if err := s.layout.MakeDir(filepath.Dir(path)); err != nil {
		return s.layout.Unwritable(err)
	}
	s.layout.Before("create", path)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return s.layout.Unwritable(err)
	}
	defer f.Close()
	if err := f.Chmod(0o644); err != nil {
		return s.layout.Unwritable(err)
	}
	return nil
}

// renew sets the time of the last use. Where it cannot, the lock says enough.
func (s *Store) renew(path string) error {
	now := time.Now()
	return os.Chtimes(path, now, now)
}

// Touch says that a machine has been told to boot the image. It may be called for each request:
// within a minute, all calls but the first for a version cost nothing.
func (s *Store) Touch(im *Image) error {
	now := time.Now()
	v, ok := s.touched.Load(im.Digest)
	if !ok {
		v, _ = s.touched.LoadOrStore(im.Digest, new(atomic.Int64))
	}
	last := v.(*atomic.Int64)
	before := last.Load()
	if now.UnixNano()-before < int64(touchEvery) || !last.CompareAndSwap(before, now.UnixNano()) {
		return nil
	}
	path := s.usePath(im.Digest)
	err := s.renew(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = s.makeUse(path)
	}
	if err != nil {
		return fmt.Errorf("image store: note the use of %s: %w", im.Name(), err)
	}
	return nil
}

// busy is why machines may need a version: it is locked now, or was used within the grace time,
// where 0 is no time at all, whatever the clock says. It is empty when they do not. The caller
// holds the lock of the store, and unlock ends what keeps others from beginning to use the version
// meanwhile. A version that was never used gets its file first when guard is set, because without a
// file there is nothing to lock.
func (s *Store) busy(d digest.Digest, grace time.Duration, guard bool) (why string, unlock func()) {
	nothing := func() {}
	unknown := func(err error) (string, func()) {
		return "whether a machine runs from it cannot be found out: " + err.Error(), nothing
	}
	path := s.usePath(d)
	_, err := os.Stat(path)
	used := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unknown(err)
	}
	if !used {
		if !guard {
			return "", nothing
		}
		if err := s.makeUse(path); err != nil {
			return unknown(err)
		}
	}
	l := flock.New(path, flock.SetFlag(os.O_RDONLY))
	free, err := l.TryLock()
	switch {
	case err != nil:
		return unknown(err)
	case !free:
		return "machines run from it", nothing
	}
	info, err := l.Stat() // a use that ended just now has renewed the time
	if err != nil {
		l.Close()
		return unknown(err)
	}
	if !used {
		// If the change fails, the file stays; it does not say that a machine was given the
		// version.
		if err := os.Chtimes(path, time.Unix(0, 0), time.Unix(0, 0)); err != nil {
			l.Close()
			return unknown(err)
		}
	} else if ago := time.Since(info.ModTime()); grace > 0 && ago < grace {
		l.Close()
		return fmt.Sprintf("a machine was given it %s ago, within the grace time of %s (--grace)", max(ago, 0).Round(time.Second), grace), nothing
	}
	return "", func() { l.Close() }
}
