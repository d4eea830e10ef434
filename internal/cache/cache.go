// Package cache keeps snapshots of trees, so that a build need not repeat the work of an earlier
// build with the same inputs. The name of a snapshot is a [Key], a digest of everything that
// determines the state. The caller knows what that is.
//
//	<64 hex digits>/tree/       the snapshot
//	<64 hex digits>/meta.json   description ([Meta]); its time is the time of last use
//	.new-*, .old-*              a snapshot that is being made, or removed
//
// A snapshot is a directory that is copied in and out with cp(1): by reference if the file system
// supports it (reflink), otherwise byte by byte. That is fast enough: 254 MB in 11,760 files take
// 0.3 s on ext4 without reflink, as long as writing an uncompressed tar and 1/10 of the time to
// unpack one. Hard links would take no time but would be wrong, because a section that writes into
// a file would write into the snapshot. An overlay over the snapshot would finally have to be
// merged into a plain tree, which is the same copy.
//
// The package is not a store: any snapshot may vanish between two builds, and a build without it
// only takes longer. It does not know whether the distribution has released updates;
// [Options.MaxAge] bounds the age of the states that are used.
package cache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"

	"netroot/internal/topdir"
)

// These are the defaults of Options.
const (
	DefaultLimit  = 20 << 30
	DefaultMaxAge = 7 * 24 * time.Hour
)

// Options bound what is kept. The zero value means the defaults.
type Options struct {
	Limit  int64         // bytes on disk of all snapshots together; 0: DefaultLimit
	MaxAge time.Duration // older snapshots are not used; 0: DefaultMaxAge, negative: no bound
}

// Cache is a directory of snapshots. Several processes may use it at once.
type Cache struct {
	dir string
	opt Options
}

// New returns the cache in dir, which is made by the first Save. dir should be on the file system
// of the trees, because copies by reference work only there.
func New(dir string, opt Options) *Cache {
	if opt.Limit == 0 {
		opt.Limit = DefaultLimit
	}
	if opt.MaxAge == 0 {
		opt.MaxAge = DefaultMaxAge
	}
	return &Cache{dir: dir, opt: opt}
}

// Meta describes a snapshot.
type Meta struct {
	What    string        `json:"what"`            // for messages: "debootstrap bookworm"
	Label   string        `json:"label,omitempty"` // label of the build that made it
	Took    time.Duration `json:"took"`            // to make the state; a restore saves it
	Created time.Time     `json:"created"`         // set by Save
	Size    int64         `json:"size"`            // bytes on disk; set by Save
}

const (
	treeName  = "tree"
	metaName  = "meta.json"
	newPrefix = ".new-"
	oldPrefix = ".old-"
	// A snapshot may take half of the free space, because the build also requires some.
	roomFactor = 2
)

// Save stores a copy of tree under key and replaces an older one. To make room, it removes the
// snapshots that were unused for the longest time. The copy does not exist until it is complete and
// on disk. An error leaves tree and cache unchanged; the build can continue without the snapshot.
func (c *Cache) Save(ctx context.Context, key Key, tree string, meta Meta) error {
	if err := c.save(ctx, key, tree, meta); err != nil {
		return fmt.Errorf("cache: keep %s: %w", meta.What, err)
	}
	return nil
}

func (c *Cache) save(ctx context.Context, key Key, tree string, meta Meta) error {
	if err := key.check(); err != nil {
		return err
	}
	// 0700: the trees contain set-user-ID programs, and possibly files that only root may read.
	if err := topdir.Make(c.dir, 0o700); err != nil {
		return err
	}
	size, err := diskUsage(tree)
	if err != nil {
		return err
	}
	if err := c.makeRoom(size); err != nil {
		return err
	}
	dir, lock, err := c.begin()
	if err != nil {
		return err
	}
	defer lock.Close()
	defer os.RemoveAll(dir) // has no effect once the snapshot has its name
	meta.Created, meta.Size = time.Now().UTC(), size
	if err := fill(ctx, dir, tree, meta); err != nil {
		return err
	}
	return c.publish(dir, key)
}

// begin makes a directory for a new snapshot. The lock on it tells other processes that somebody
// works there; it goes when the process does.
func (c *Cache) begin() (dir string, lock *flock.Flock, err error) {
	for {
		dir, err := os.MkdirTemp(c.dir, newPrefix)
		if err != nil {
			return "", nil, err
		}
		lock, err := lockDir(dir)
		if err == nil {
			return dir, lock, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errBusy) {
			return "", nil, err
		}
		// Another process has removed the directory before it was locked.
	}
}

// fill makes a snapshot in dir. When it returns, the snapshot is on disk.
func fill(ctx context.Context, dir, tree string, meta Meta) error {
	to := filepath.Join(dir, treeName)
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	if err := copyTree(ctx, tree, to); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(meta, "", "  ")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, metaName), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(raw, '\n'))
	// The whole file system is synced, not only one file: after a power failure there must be
	// no snapshot of empty files.
	return errors.Join(err, unix.Syncfs(int(f.Fd())), f.Close())
}

// publish gives the snapshot in dir its name. It replaces an existing one, unless a build is
// restoring that one.
func (c *Cache) publish(dir string, key Key) error {
	place := c.place(key)
	if err := c.remove(key); errors.Is(err, errBusy) {
		return nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	err := os.Rename(dir, place)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
		return nil // another build of the same state was faster
	}
	return err
}

// Lookup returns the description of the snapshot of key without restoring it, and false if there is
// no usable one. It counts as a use.
func (c *Cache) Lookup(key Key) (Meta, bool) {
	if key.check() != nil {
		return Meta{}, false
	}
	meta, err := readMeta(c.place(key))
	if err != nil || c.expired(meta) {
		return Meta{}, false // the next Save replaces it
	}
	now := time.Now()
	return meta, os.Chtimes(filepath.Join(c.place(key), metaName), now, now) == nil
}

// Restore copies the snapshot of key into the directory into, which must be empty. It returns false
// if there is none, or only one that is too old. After an error, into is empty again, and the state
// can be made as if there was no snapshot.
func (c *Cache) Restore(ctx context.Context, key Key, into string) (Meta, bool, error) {
	if err := key.check(); err != nil {
		return Meta{}, false, err
	}
	lock, err := shareDir(c.place(key))
	if errors.Is(err, fs.ErrNotExist) {
		return Meta{}, false, nil
	}
	if err != nil {
		return Meta{}, false, fmt.Errorf("cache: %w", err)
	}
	defer lock.Close()
	meta, ok := c.Lookup(key)
	if !ok {
		return Meta{}, false, nil
	}
	if err := c.restore(ctx, key, into); err != nil {
		return Meta{}, false, fmt.Errorf("cache: restore %s: %w", meta.What, err)
	}
	return meta, true, nil
}

func (c *Cache) restore(ctx context.Context, key Key, into string) error {
	there, err := os.ReadDir(into)
	if err != nil {
		return err
	}
	if len(there) > 0 {
		return fmt.Errorf("%s is not empty: it contains %s", into, there[0].Name())
	}
	if err := copyTree(ctx, filepath.Join(c.place(key), treeName), into); err != nil {
		return errors.Join(err, empty(into))
	}
	return nil
}

// empty removes the content of dir.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// expired reports whether a snapshot is too old to be used, or its description could not be read. A
// time in the future comes from a clock that was wrong, and says nothing about the age.
func (c *Cache) expired(m Meta) bool {
	age := time.Since(m.Created)
	return m.Created.IsZero() || age < 0 || c.opt.MaxAge > 0 && age > c.opt.MaxAge
}

func (c *Cache) place(key Key) string { return filepath.Join(c.dir, string(key)) }

func readMeta(dir string) (Meta, error) {
	var m Meta
	path := filepath.Join(dir, metaName)
	raw, err := os.ReadFile(path)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, fmt.Errorf("%s is damaged: %w", path, err)
	}
	return m, nil
}
