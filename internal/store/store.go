// Package store keeps images on disk as an OCI image layout, so that blobs are
// served as they lie and skopeo, oras or a registry can copy them.
//
//	oci-layout                  the layout's version
//	index.json                  which images there are, and their tags
//	blobs/sha256/<hex>          manifests, configurations and parts, by digest
//	netroot.lock                held by the one process that commits
//	netroot.tmp/                what a commit has in hand; empty between commits
//
// An image is one manifest with the artifact type [ArtifactType], a
// configuration ([Config]) and a layer for each part, its role in the annotation
// [AnnotationRole]. Every version has an entry in index.json whose
// org.opencontainers.image.ref.name is "label@id", the id being the first 12
// hexadecimal digits of the manifest's digest; the label's newest version has a
// second entry named "label". So "skopeo copy oci:DIR:debian12 ..." takes the
// newest, "oci:DIR:debian12@0123456789ab" or "oras cp --from-oci-layout
// DIR@sha256:..." an older one. Entries are added and tags moved; no version is
// ever overwritten.
//
// It is not a cache and not a registry client: it fetches nothing, and it does
// not look into the parts. Readers need no lock; writers take turns.
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
	"time"

	"github.com/google/renameio/v2"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

const (
	lockFile = "netroot.lock"
	tempDir  = "netroot.tmp"
)

// ErrNotFound is matched by the errors of Resolve for a reference that names
// no image.
var ErrNotFound = errors.New("no such image")

// Store is an image layout in a directory. Its methods may be called by several
// goroutines and processes at once.
type Store struct {
	dir string
}

// Dir returns the directory of the store.
func (s *Store) Dir() string { return s.dir }

// Open opens the store in dir for reading or committing. It is an error when
// there is none; Create makes one.
func Open(dir string) (*Store, error) {
	s := &Store{dir: dir}
	path := s.path(v1.ImageLayoutFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no image store in %s: build an image first, or name the right directory: %w", dir, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("open image store: %w", err)
	}
	var layout v1.ImageLayout
	if err := json.Unmarshal(raw, &layout); err != nil {
		return nil, fmt.Errorf("image store: %s is damaged (%w): put back {\"imageLayoutVersion\":\"%s\"}", path, err, v1.ImageLayoutVersion)
	}
	if layout.Version != v1.ImageLayoutVersion {
		return nil, fmt.Errorf("image store: %s says version %q, only %q is known: a newer program made it", path, layout.Version, v1.ImageLayoutVersion)
	}
	if _, err := s.readIndex(); err != nil {
		return nil, err
	}
	return s, nil
}

// Create opens the store in dir and makes it first where there is none. The
// directory must be new, empty or a store already. What a commit that was
// killed has left is removed.
func Create(dir string) (*Store, error) {
	s := &Store{dir: dir}
	if err := s.create(); err != nil {
		return nil, err
	}
	return Open(dir)
}

func (s *Store) create() error {
	if err := os.MkdirAll(filepath.Dir(s.dir), 0o755); err != nil {
		return s.unwritable(err)
	}
	if err := makeDir(s.dir); err != nil {
		return s.unwritable(err)
	}
	if err := s.onlyOurs(); err != nil {
		return err
	}
	for _, name := range []string{v1.ImageBlobsDir, s.blobDir(), tempDir} {
		if err := makeDir(s.path(name)); err != nil {
			return s.unwritable(err)
		}
	}
	// Nobody waits long here: only the other's commit can be in the way.
	unlock, err := s.lock(context.Background())
	if err != nil {
		return err
	}
	defer unlock()
	if err := s.cleanUp(); err != nil {
		return err
	}
	// The layout file comes last: where it is, the rest has been made.
	if exists(s.path(v1.ImageLayoutFile)) {
		return nil
	}
	if !exists(s.path(v1.ImageIndexFile)) {
		if err := s.writeIndex(v1.Index{Manifests: []v1.Descriptor{}}); err != nil {
			return err
		}
	}
	return s.writeJSON(v1.ImageLayoutFile, v1.ImageLayout{Version: v1.ImageLayoutVersion})
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// onlyOurs refuses a directory that holds something and is no store, so that a
// mistyped path does not strew blobs over somebody's home.
func (s *Store) onlyOurs() error {
	if exists(s.path(v1.ImageLayoutFile)) {
		return nil
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	known := []string{v1.ImageIndexFile, v1.ImageBlobsDir, lockFile, tempDir}
	for _, e := range entries {
		if !slices.Contains(known, e.Name()) {
			return fmt.Errorf("image store: %s is no image store and not empty (it holds %s): choose another directory", s.dir, e.Name())
		}
	}
	return nil
}

// makeDir makes a directory that everyone may read, whatever the umask.
func makeDir(path string) error {
	err := os.Mkdir(path, 0o755)
	if err == nil {
		return os.Chmod(path, 0o755)
	}
	if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
		return nil
	}
	return err
}

// lock waits until this process is the only one to change the store.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	f, err := os.OpenFile(s.path(lockFile), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, s.unwritable(err)
	}
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("image store: lock %s: %w", f.Name(), err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("image store: waiting for %s, which another process holds: %w", f.Name(), ctx.Err())
		case <-again.C:
		}
	}
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }

func (s *Store) blobDir() string { return filepath.Join(v1.ImageBlobsDir, string(digest.SHA256)) }

// blobPath is where the blob lies. The digest must have been validated.
func (s *Store) blobPath(d digest.Digest) string {
	return filepath.Join(s.dir, v1.ImageBlobsDir, string(d.Algorithm()), d.Encoded())
}

func (s *Store) readIndex() (v1.Index, error) {
	var index v1.Index
	path := s.path(v1.ImageIndexFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return index, s.noIndex()
	}
	if err != nil {
		return index, fmt.Errorf("image store: %w", err)
	}
	if err := json.Unmarshal(raw, &index); err != nil {
		return index, fmt.Errorf("image store: %s is damaged (%w): put back a copy, or move %s away and build again", path, err, s.dir)
	}
	for _, d := range index.Manifests {
		if err := d.Digest.Validate(); err != nil {
			return index, fmt.Errorf("image store: %s is damaged (digest %q: %w): put back a copy, or move %s away and build again", path, d.Digest, err, s.dir)
		}
	}
	return index, nil
}

func (s *Store) noIndex() error {
	return fmt.Errorf("image store: %s is missing: put back a copy, or move %s away and build again", s.path(v1.ImageIndexFile), s.dir)
}

func (s *Store) writeIndex(index v1.Index) error {
	index.Versioned = specs.Versioned{SchemaVersion: 2}
	index.MediaType = v1.MediaTypeImageIndex
	return s.writeJSON(v1.ImageIndexFile, index)
}

// writeJSON replaces one file of the store at once and durably.
func (s *Store) writeJSON(name string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	err = renameio.WriteFile(s.path(name), append(raw, '\n'), 0o644,
		renameio.WithTempDir(s.path(tempDir)), renameio.WithStaticPermissions(0o644))
	if err != nil {
		return s.unwritable(err)
	}
	return syncDir(filepath.Dir(s.path(name)))
}

// unwritable adds to an error of writing what its reader can do about it.
func (s *Store) unwritable(err error) error {
	switch {
	case errors.Is(err, fs.ErrPermission), errors.Is(err, unix.EROFS):
		return fmt.Errorf("image store %s cannot be written: %w: run as its owner or choose another directory", s.dir, err)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("image store %s is full: %w: remove old images or choose another directory", s.dir, err)
	default:
		return fmt.Errorf("image store %s: %w", s.dir, err)
	}
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}

// versionName is the tag of one version.
func versionName(label string, manifest digest.Digest) string {
	return label + "@" + shortID(manifest)
}

func shortID(d digest.Digest) string { return d.Encoded()[:12] }

// splitRef splits "label@id"; a full digest "sha256:..." may stand for the id.
func splitRef(ref string) (label, id string, versioned bool) {
	label, id, versioned = strings.Cut(ref, "@")
	return label, strings.TrimPrefix(id, string(digest.SHA256)+":"), versioned
}
