package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Entry is one snapshot.
type Entry struct {
	Key Key `json:"key"`
	Meta
	Used time.Time `json:"used"` // time when it was last saved or restored
}

// List returns the snapshots, the last used first. A snapshot whose description cannot be read is
// marked as damaged: it is not restored, and the next Save or Prune removes it. If the cache was
// never written to, the list is empty.
func (c *Cache) List() ([]Entry, error) {
	files, err := os.ReadDir(c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	var entries []Entry
	for _, f := range files {
		e := Entry{Key: Key(f.Name())}
		if e.Key.check() != nil {
			continue
		}
		if e.Meta, err = readMeta(c.place(e.Key)); err != nil {
			e.Meta = Meta{What: "damaged"}
		}
		if fi, err := os.Stat(filepath.Join(c.place(e.Key), metaName)); err == nil {
			e.Used = fi.ModTime()
		} else if !exists(c.place(e.Key)) {
			continue // it has just been removed
		}
		entries = append(entries, e)
	}
	slices.SortStableFunc(entries, func(a, b Entry) int { return b.Used.Compare(a.Used) })
	return entries, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// Remove removes the only snapshot whose key begins with prefix (four digits or more). If a build
// is restoring it, Remove returns an error.
func (c *Cache) Remove(prefix string) error {
	files, err := os.ReadDir(c.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var found []Key
	for _, f := range files {
		if key := Key(f.Name()); key.check() == nil && len(prefix) >= 4 && strings.HasPrefix(f.Name(), prefix) {
			found = append(found, key)
		}
	}
	switch len(found) {
	case 0:
		return fmt.Errorf("cache: no snapshot %q: use \"netroot cache ls\" to list them", prefix)
	case 1:
		if err := c.remove(found[0]); err != nil {
			return fmt.Errorf("cache: remove %s: %w", found[0].ID(), err)
		}
		return nil
	}
	return fmt.Errorf("cache: %d snapshots begin with %q: use more digits of the key", len(found), prefix)
}

// remove first removes a snapshot's name, and then its files. If it is killed in between, nothing
// is left that looks like a snapshot.
func (c *Cache) remove(key Key) error {
	lock, err := lockDir(c.place(key))
	if err != nil {
		return err
	}
	defer lock.Close()
	old := filepath.Join(c.dir, oldPrefix+string(key)+"-"+time.Now().UTC().Format("150405.000000000"))
	if err := os.Rename(c.place(key), old); err != nil {
		return err
	}
	return os.RemoveAll(old)
}

// Prune removes what killed builds left, and the snapshots that will not be used any more. Of the
// others it keeps the last used ones that fit into limit bytes. It does not remove snapshots in
// use. It returns the removed snapshots.
func (c *Cache) Prune(limit int64) ([]Entry, error) {
	if err := c.sweep(); err != nil {
		return nil, fmt.Errorf("cache: %w", err)
	}
	entries, err := c.List()
	if err != nil {
		return nil, err
	}
	var total int64
	var removed []Entry
	for _, e := range entries {
		if total+e.Size <= limit && !c.expired(e.Meta) {
			total += e.Size
			continue
		}
		switch err := c.remove(e.Key); {
		case err == nil:
			removed = append(removed, e)
		case errors.Is(err, errBusy):
			total += e.Size
		case !errors.Is(err, fs.ErrNotExist):
			return removed, fmt.Errorf("cache: remove %s: %w", e.Key.ID(), err)
		}
	}
	return removed, nil
}

// sweep removes unfinished snapshots that no running process is writing.
func (c *Cache) sweep() error {
	files, err := os.ReadDir(c.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, f := range files {
		if !strings.HasPrefix(f.Name(), newPrefix) && !strings.HasPrefix(f.Name(), oldPrefix) {
			continue
		}
		dir := filepath.Join(c.dir, f.Name())
		lock, err := lockDir(dir)
		if errors.Is(err, errBusy) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		err = os.RemoveAll(dir)
		lock.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// makeRoom prunes the cache so that size more bytes stay below the limit. It refuses a snapshot for
// which the file system has too little space, because a cache must not fill the disk.
func (c *Cache) makeRoom(size int64) error {
	if size > c.opt.Limit {
		return fmt.Errorf("its %d MiB exceed the cache's limit of %d MiB", size>>20, c.opt.Limit>>20)
	}
	if _, err := c.Prune(c.opt.Limit - size); err != nil {
		return err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(c.dir, &st); err != nil {
		return &fs.PathError{Op: "statfs", Path: c.dir, Err: err}
	}
	if free := int64(st.Bavail) * st.Bsize; free < roomFactor*size {
		return fmt.Errorf("%s has %d MiB free: a snapshot of %d MiB would leave too little space for the build", c.dir, free>>20, size>>20)
	}
	return nil
}
