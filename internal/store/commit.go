package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Part is a file that becomes a part of an image.
type Part struct {
	Role Role
	Path string
}

// validLabel is what an OCI reference name allows of a label without slashes
// (image-spec, annotations.md).
var validLabel = regexp.MustCompile(`^[a-z0-9]+(?:[._-][a-z0-9]+)*$`)

// pendingFile holds a pending.
const pendingFile = "pending.json"

// pending is what a commit is about to do, so that the next one can take the
// blobs back when this one is killed before it reaches the index.
type pending struct {
	Manifest digest.Digest   `json:"manifest"`
	Added    []digest.Digest `json:"added"` // blobs that were not there before
}

// staged is a complete file in the temporary directory.
type staged struct {
	v1.Descriptor
	path   string
	source string // to remove when the commit is done; may be empty
}

// commit is one Commit under way, holding the lock.
type commit struct {
	*Store
	ctx  context.Context
	next int // number of the next temporary file
}

// Commit adds a version of label made of cfg and parts, and moves the label's
// tag to it. cfg.Label is set to label. The parts move into the store: each is
// linked where it lies on the same file system and copied elsewhere, and
// Part.Path is removed at the end. Until then nothing but the temporary
// directory changes, so an error or a kill leaves the parts and the store as
// they were. A part must be complete: nothing may write to it any more.
func (s *Store) Commit(ctx context.Context, label string, cfg Config, parts []Part) (*Image, error) {
	if err := check(label, parts); err != nil {
		return nil, err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.cleanUp(); err != nil {
		return nil, err
	}
	c := &commit{Store: s, ctx: ctx}
	im, err := c.run(label, cfg, parts)
	if cleanErr := s.cleanUp(); err == nil {
		err = cleanErr
	}
	if err != nil {
		return nil, fmt.Errorf("commit image %s: %w", label, err)
	}
	return im, nil
}

func check(label string, parts []Part) error {
	if !validLabel.MatchString(label) {
		return fmt.Errorf("commit image %q: a label is lower-case letters and digits, with single dots, hyphens or underscores between them", label)
	}
	if len(parts) == 0 {
		return fmt.Errorf("commit image %s: it has no parts", label)
	}
	seen := map[Role]bool{}
	for _, p := range parts {
		if p.Role == "" || seen[p.Role] {
			return fmt.Errorf("commit image %s: part %s: role %q is empty or given twice", label, p.Path, p.Role)
		}
		seen[p.Role] = true
	}
	return nil
}

func (c *commit) run(label string, cfg Config, parts []Part) (*Image, error) {
	cfg.Label = label
	im := &Image{Label: label, Config: cfg, Newest: true, store: c.Store}
	im.Manifest = v1.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    v1.MediaTypeImageManifest,
		ArtifactType: ArtifactType,
	}
	var files []staged
	for _, p := range parts {
		f, err := c.stagePart(p, cfg)
		if err != nil {
			return nil, fmt.Errorf("part %s: %w", p.Role, err)
		}
		files = append(files, f)
		im.Manifest.Layers = append(im.Manifest.Layers, f.Descriptor)
	}
	config, err := c.stageJSON(MediaTypeConfig, cfg)
	if err != nil {
		return nil, err
	}
	im.Manifest.Config = config.Descriptor
	manifest, err := c.stageJSON(v1.MediaTypeImageManifest, im.Manifest)
	if err != nil {
		return nil, err
	}
	im.Digest, im.size = manifest.Digest, manifest.Size
	manifest.ArtifactType = ArtifactType
	if err := c.publish(label, append(files, config, manifest), manifest.Descriptor); err != nil {
		return nil, err
	}
	for _, f := range files {
		if err := os.Remove(f.source); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("image %s is committed, but %w", im.Name(), err)
		}
	}
	return im, nil
}

// stagePart brings the part into the temporary directory and hashes it.
func (c *commit) stagePart(p Part, cfg Config) (staged, error) {
	src, err := os.Open(p.Path)
	if err != nil {
		return staged{}, err
	}
	defer src.Close()
	before, err := src.Stat()
	if err != nil {
		return staged{}, err
	}
	if !before.Mode().IsRegular() || before.Size() == 0 {
		return staged{}, fmt.Errorf("%s is empty or not a file", p.Path)
	}
	dst := c.temp()
	var d digest.Digest
	if c.link(p.Path, dst) {
		d, err = c.copy(io.Discard, src)
		if err == nil {
			err = finish(src)
		}
	} else {
		d, err = c.write(dst, src)
	}
	if err != nil {
		return staged{}, err
	}
	after, err := src.Stat()
	if err != nil {
		return staged{}, err
	}
	if after.Size() != before.Size() || !after.ModTime().Equal(before.ModTime()) {
		return staged{}, fmt.Errorf("%s changed while it was read: something still writes to it", p.Path)
	}
	title := string(p.Role)
	if p.Role == RoleRoot && cfg.RootFormat != "" {
		title += "." + cfg.RootFormat
	}
	return staged{path: dst, source: p.Path, Descriptor: v1.Descriptor{
		MediaType: p.Role.MediaType(), Digest: d, Size: after.Size(),
		Annotations: map[string]string{v1.AnnotationTitle: title, AnnotationRole: string(p.Role)},
	}}, nil
}

// link makes dst another name of the regular file src; false when the two are
// on different file systems or theirs has no hard links.
func (c *commit) link(src, dst string) bool {
	return unix.Linkat(unix.AT_FDCWD, src, unix.AT_FDCWD, dst, unix.AT_SYMLINK_FOLLOW) == nil
}

func (c *commit) stageJSON(mediaType string, v any) (staged, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return staged{}, err
	}
	path := c.temp()
	d, err := c.write(path, bytes.NewReader(raw))
	return staged{path: path, Descriptor: v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(raw))}}, err
}

func (c *commit) temp() string {
	c.next++
	return filepath.Join(c.dir, tempDir, "part-"+strconv.Itoa(c.next))
}

// write makes the file path of what src gives, durably.
func (c *commit) write(path string, src io.Reader) (digest.Digest, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return "", c.unwritable(err)
	}
	defer f.Close()
	d, err := c.copy(f, src)
	if err != nil {
		return "", c.unwritable(err)
	}
	return d, finish(f)
}

func (c *commit) copy(dst io.Writer, src io.Reader) (digest.Digest, error) {
	digester := digest.SHA256.Digester()
	_, err := io.Copy(io.MultiWriter(dst, digester.Hash()), reader{c.ctx, src})
	return digester.Digest(), err
}

// finish makes a file readable for all and puts it on the disk.
func finish(f *os.File) error {
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	return f.Sync()
}

// publish renames the staged files to their digests and then, last, replaces the
// index: that is the moment from which the image exists.
func (c *commit) publish(label string, files []staged, manifest v1.Descriptor) error {
	index, err := c.readIndex()
	if err != nil {
		return err
	}
	var added []staged
	todo := pending{Manifest: manifest.Digest}
	for _, f := range files {
		if info, err := os.Stat(c.blobPath(f.Digest)); err == nil && info.Size() == f.Size {
			continue
		}
		added = append(added, f)
		todo.Added = append(todo.Added, f.Digest)
	}
	if err := c.ctx.Err(); err != nil {
		return err
	}
	if err := c.writeJSON(filepath.Join(tempDir, pendingFile), todo); err != nil {
		return err
	}
	for _, f := range added {
		if err := os.Rename(f.path, c.blobPath(f.Digest)); err != nil {
			return c.unwritable(err)
		}
	}
	if err := syncDir(c.path(c.blobDir())); err != nil {
		return err
	}
	index.Manifests = retag(index.Manifests, label, manifest)
	return c.writeIndex(index)
}

// retag adds the version to the entries and moves the label's tag to it.
func retag(entries []v1.Descriptor, label string, manifest v1.Descriptor) []v1.Descriptor {
	version := versionName(label, manifest.Digest)
	entries = slices.DeleteFunc(entries, func(d v1.Descriptor) bool {
		name := d.Annotations[v1.AnnotationRefName]
		return name == label || name == version
	})
	for _, name := range []string{version, label} {
		entry := manifest
		entry.Annotations = map[string]string{v1.AnnotationRefName: name}
		entries = append(entries, entry)
	}
	return entries
}

// cleanUp empties the temporary directory and takes back the blobs of a commit
// that never reached the index. The caller holds the lock, so nothing there is
// in anybody's use.
func (s *Store) cleanUp() error {
	if err := makeDir(s.path(tempDir)); err != nil {
		return s.unwritable(err)
	}
	if err := s.takeBack(); err != nil {
		return err
	}
	entries, err := os.ReadDir(s.path(tempDir))
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(s.dir, tempDir, e.Name())); err != nil {
			return s.unwritable(err)
		}
	}
	return nil
}

func (s *Store) takeBack() error {
	raw, err := os.ReadFile(filepath.Join(s.dir, tempDir, pendingFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	var todo pending
	if err := json.Unmarshal(raw, &todo); err != nil {
		return fmt.Errorf("image store: %s: %w", pendingFile, err)
	}
	index, err := s.readIndex()
	if err != nil {
		return err
	}
	if slices.ContainsFunc(index.Manifests, func(d v1.Descriptor) bool { return d.Digest == todo.Manifest }) {
		return nil // the commit was complete
	}
	for _, d := range todo.Added {
		if err := d.Validate(); err != nil {
			return fmt.Errorf("image store: %s: digest %q: %w", pendingFile, d, err)
		}
		if err := os.Remove(s.blobPath(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return s.unwritable(err)
		}
	}
	return nil
}
