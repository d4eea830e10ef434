// Package store keeps images on disk as an OCI image layout, so that blobs are served as they lie
// and skopeo, oras or a registry can copy them.
//
//	oci-layout                  the version of the layout
//	index.json                  the images and their tags
//	blobs/sha256/<hex>          manifests, configurations and parts, by digest
//	netroot.journal/<tag>       one line for each move of a tag
//	netroot.use/<hex>           locked while a process uses the version; its time is the last use
//	netroot.lock                held for the moment in which the index changes
//	netroot.tmp/                parts that a commit is writing, and the change that is under way
//
// An image is one manifest with the artifact type [ArtifactType], a configuration ([Config]) and a
// layer for each part, its role in the annotation [AnnotationRole]. Names are not part of these
// bytes: index.json says which label a version belongs to. A version has an entry whose
// org.opencontainers.image.ref.name is "label@id", the id being the first 12 hexadecimal digits of
// the manifest's digest; its annotations are the summary that lists show. A tag has an entry whose
// name is the tag. The tag that has the name of the label is the label's newest version. So
// "skopeo copy oci:DIR:debian12 ..." takes the newest, "oci:DIR:debian12@0123456789ab" or
// "oras cp --from-oci-layout DIR@sha256:..." an older one. No version is ever overwritten.
//
// Other programs may write to the layout. Entries that are not ours are kept as they are. An entry
// of ours that lost its annotations on the way is completed from its manifest, in memory at once
// and in the file with the next change.
//
// It is not a cache and not a registry client: it fetches nothing, and it does not look into the
// parts. Readers need no lock. A change takes the lock, writes down what it is about to do
// (pending.json), renames blobs into place, replaces index.json, which is the moment that counts,
// and finishes journals and removals; the next change completes or takes back what a killed
// process left.
package store

import (
	"context"
	_ "crypto/sha256" // go-digest computes with what is linked in
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

const (
	lockFile   = "netroot.lock"
	tempDir    = "netroot.tmp"
	journalDir = "netroot.journal"
	useDir     = "netroot.use"
)

// ErrNotFound is matched by the errors of Resolve for a reference that names no image.
var ErrNotFound = errors.New("no such image")

// Store is an image layout in a directory. Its methods may be called by several goroutines and
// processes at once.
type Store struct {
	dir  string
	disk *disk

	current atomic.Pointer[snapshot] // index.json as it was read last
	quick   atomic.Bool              // one reference has been resolved without a snapshot
	reading sync.Mutex               // held while a snapshot is made
	touched sync.Map                 // digest.Digest -> *atomic.Int64, the time of the last Touch
}

// Dir returns the directory of the store.
func (s *Store) Dir() string { return s.dir }

// At returns the store in dir, which need not exist yet: until it does, no image is found. It is
// for a program that starts before the first build; Create makes a store.
func At(dir string) *Store { return &Store{dir: dir, disk: new(disk)} }

// Open opens the store in dir for reading or committing. It is an error that matches
// fs.ErrNotExist when there is none.
func Open(dir string) (*Store, error) {
	s := At(dir)
	if err := s.checkLayout(); err != nil {
		return nil, err
	}
	if !exists(s.path(v1.ImageIndexFile)) {
		return nil, s.noIndex()
	}
	return s, nil
}

// checkLayout reads the file that makes a directory a layout.
func (s *Store) checkLayout() error {
	path := s.path(v1.ImageLayoutFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no image store in %s: build an image first, or name the right directory: %w",
			s.dir, fs.ErrNotExist)
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

// Create opens the store in dir and makes it first where there is none. The directory must be new,
// empty or a store already. What a killed process left is removed.
func Create(dir string) (*Store, error) {
	s := At(dir)
	if err := s.create(); err != nil {
		return nil, err
	}
	return s, s.checkLayout()
}

func (s *Store) create() error {
	if err := os.MkdirAll(filepath.Dir(s.dir), 0o755); err != nil {
		return s.unwritable(err)
	}
	if err := s.disk.makeDir(s.dir); err != nil {
		return s.unwritable(err)
	}
	if err := s.onlyOurs(); err != nil {
		return err
	}
	for _, name := range []string{v1.ImageBlobsDir, s.blobDir()} {
		if err := s.disk.makeDir(s.path(name)); err != nil {
			return s.unwritable(err)
		}
	}
	unlock, err := s.lock(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	// The layout file comes last: where it is, the rest has been made.
	if exists(s.path(v1.ImageLayoutFile)) {
		return nil
	}
	if !exists(s.path(v1.ImageIndexFile)) {
		if err := s.replace(v1.ImageIndexFile, new(index).bytes()); err != nil {
			return err
		}
	}
	raw, err := json.Marshal(v1.ImageLayout{Version: v1.ImageLayoutVersion})
	if err != nil {
		return err
	}
	return s.replace(v1.ImageLayoutFile, append(raw, '\n'))
}

// onlyOurs refuses a directory that holds other files, so that a mistyped path does not fill
// somebody's home directory with blobs.
func (s *Store) onlyOurs() error {
	if exists(s.path(v1.ImageLayoutFile)) {
		return nil
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	known := []string{"lost+found", v1.ImageIndexFile, v1.ImageBlobsDir, lockFile, tempDir, journalDir, useDir}
	for _, e := range entries {
		if !slices.Contains(known, e.Name()) {
			return fmt.Errorf("image store: %s is not an image store and not empty (it holds %s): choose another directory",
				s.dir, e.Name())
		}
	}
	return nil
}

// lockRetry is how often a lock is tried that another process holds.
const lockRetry = 10 * time.Millisecond

// lock waits until this process is the only one to change the store, and completes or takes back
// what a killed process left.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	l := flock.New(s.path(lockFile), flock.SetPermissions(0o644), flock.SetFlag(os.O_CREATE|os.O_RDWR))
	if err := s.wait(ctx, l, l.TryLockContext); err != nil {
		return nil, err
	}
	if info, err := l.Stat(); err == nil && info.Mode().Perm() != 0o644 { // by an umask
		os.Chmod(l.Path(), 0o644) //nolint:errcheck // readers of others then read without a lock
	}
	if err := s.recover(); err != nil {
		l.Close()
		return nil, err
	}
	return func() { l.Close() }, nil
}

// rlock waits until nobody changes the store, and keeps it as it is until unlock. Where there is no
// lock file that this user may read, it does neither.
func (s *Store) rlock(ctx context.Context) (unlock func(), err error) {
	l := flock.New(s.path(lockFile), flock.SetFlag(os.O_RDONLY))
	err = s.wait(ctx, l, l.TryRLockContext)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return func() {}, nil
	}
	if err != nil {
		return nil, err
	}
	return func() { l.Close() }, nil
}

func (s *Store) wait(ctx context.Context, l *flock.Flock, try func(context.Context, time.Duration) (bool, error)) error {
	_, err := try(ctx, lockRetry)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("image store: waiting for %s, which another process holds: %w", l.Path(), err)
	default:
		return s.unwritable(err)
	}
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }

func (s *Store) blobDir() string { return filepath.Join(v1.ImageBlobsDir, string(digest.SHA256)) }

// blobPath is the file of the blob. The digest must have been validated.
func (s *Store) blobPath(d digest.Digest) string {
	return filepath.Join(s.dir, v1.ImageBlobsDir, string(d.Algorithm()), d.Encoded())
}

// replace replaces one file of the store at once and durably. The caller holds the lock.
func (s *Store) replace(name string, content []byte) error {
	if err := s.disk.replace(s.path(name), s.path(tempDir), content); err != nil {
		return s.unwritable(err)
	}
	return nil
}

func (s *Store) noIndex() error {
	return fmt.Errorf("image store: %s is missing: put back a copy, or move %s away and build again",
		s.path(v1.ImageIndexFile), s.dir)
}

// unwritable adds to an error of writing what its reader can do about it.
func (s *Store) unwritable(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		return fmt.Errorf("image store %s cannot be written: %w: run as its owner or choose another directory", s.dir, err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("image store %s is full: %w: remove images (\"netroot image gc\", which itself needs room for a second index.json) or choose another directory", s.dir, err)
	case errors.Is(err, unix.ENOLCK), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("image store %s: its file system does not lock files: %w: choose a directory of another file system", s.dir, err)
	default:
		return fmt.Errorf("image store %s: %w", s.dir, err)
	}
}

// versionName is the name of one version of a label.
func versionName(label string, manifest digest.Digest) string {
	return label + "@" + shortID(manifest)
}

func shortID(d digest.Digest) string { return d.Encoded()[:12] }

// splitRef splits "label@id"; a full digest "sha256:..." may stand for the id.
func splitRef(ref string) (label, id string, versioned bool) {
	label, id, versioned = strings.Cut(ref, "@")
	return label, strings.TrimPrefix(id, string(digest.SHA256)+":"), versioned
}
