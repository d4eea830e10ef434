package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"netroot/internal/handoff"
	"netroot/internal/store/layout"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Part is a file that becomes a part of an image.
type Part struct {
	Role Role
	Path string
}

// ErrName is matched by errors for labels and tags of a wrong form.
var ErrName = errors.New("it must be lower-case letters and digits, with single dots, hyphens or underscores between them, 128 at most")

func checkName(what, name string) error {
	if !handoff.ValidLabel(name) {
		return fmt.Errorf("%s %q: %w", what, name, ErrName)
	}
	return nil
}

// staged is a complete file that may become a blob.
type staged struct {
	v1.Descriptor
	path   string
	source string      // to remove when the commit is done; may be empty
	known  os.FileInfo // the blob that was there already and has these bytes; nil: there was none
}

// stage is a directory of parts that one process writes.
type stage struct {
	*Store
	ctx  context.Context
	dir  string
	next int // number of the next file
}

// Commit adds a version of label made of cfg and parts, and moves the label's tag to it. The parts
// move into the store: each is linked where it lies on the same file system and copied elsewhere,
// and Part.Path is removed at the end. Until then nothing but the temporary directory changes, so
// an error or a kill leaves the parts and the store as they were. A part must be complete: nothing
// may write to it any more.
//
// Several processes may commit at once: the parts are read and written without the lock of the
// store. A blob that is there already is used if its bytes have the digest, and replaced otherwise.
func (s *Store) Commit(ctx context.Context, label string, cfg Config, parts []Part) (*Image, error) {
	if err := check(label, parts); err != nil {
		return nil, err
	}
	im, err := s.commit(ctx, label, cfg, parts)
	if err != nil {
		return nil, fmt.Errorf("commit image %s: %w", label, err)
	}
	return im, nil
}

func check(label string, parts []Part) error {
	if err := checkName("commit image: label", label); err != nil {
		return err
	}
	if len(parts) == 0 {
		return fmt.Errorf("commit image %s: it has no parts", label)
	}
	seen := map[Role]bool{}
	for _, p := range parts {
		if p.Role == "" || p.Role == RolePackages || seen[p.Role] {
			return fmt.Errorf("commit image %s: part %s: role %q is empty, given twice or made by the store", label, p.Path, p.Role)
		}
		seen[p.Role] = true
	}
	return nil
}

func (s *Store) commit(ctx context.Context, label string, cfg Config, parts []Part) (im *Image, err error) {
	dir, remove, err := s.layout.Stage(ctx)
	if err != nil {
		return nil, err
	}
	st := &stage{Store: s, ctx: ctx, dir: dir}
	defer func() {
		if closeErr := remove(); err == nil {
			err = closeErr
		}
	}()
	c := &contents{config: cfg}
	c.config.Packages = nil
	c.manifest = v1.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    v1.MediaTypeImageManifest,
		ArtifactType: ArtifactType,
	}
	var files []staged
	for _, p := range parts {
		f, err := st.part(p, cfg)
		if err != nil {
			return nil, fmt.Errorf("part %s: %w", p.Role, err)
		}
		files = append(files, f)
		c.manifest.Layers = append(c.manifest.Layers, f.Descriptor)
	}
	if len(cfg.Packages) > 0 {
		f, err := st.bytes(RolePackages.MediaType(), []byte(strings.Join(cfg.Packages, "\n")+"\n"))
		if err != nil {
			return nil, fmt.Errorf("part %s: %w", RolePackages, err)
		}
		f.Annotations = map[string]string{v1.AnnotationTitle: "packages.txt", AnnotationRole: string(RolePackages)}
		files = append(files, f)
		c.manifest.Layers = append(c.manifest.Layers, f.Descriptor)
	}
	config, err := st.json(MediaTypeConfig, c.config)
	if err != nil {
		return nil, err
	}
	c.manifest.Config = config.Descriptor
	manifest, err := st.json(v1.MediaTypeImageManifest, c.manifest)
	if err != nil {
		return nil, err
	}
	manifest.ArtifactType = ArtifactType
	files = append(files, config, manifest)
	if err := st.compare(files); err != nil {
		return nil, err
	}
	im = s.imageOf(c, manifest.Descriptor, label, label)
	im.Newest = true
	if err := st.publish(label, files, c, manifest.Descriptor); err != nil {
		return nil, err
	}
	for _, f := range files {
		if f.source == "" {
			continue
		}
		if err := s.layout.Remove(f.source); err != nil {
			return nil, fmt.Errorf("image %s is committed, but %w", im.Name(), err)
		}
	}
	return im, nil
}

// part brings the part into the directory and hashes it.
func (st *stage) part(p Part, cfg Config) (staged, error) {
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
	dst := st.temp()
	var d digest.Digest
	if st.layout.Link(p.Path, dst) {
		d, err = st.copy(io.Discard, src)
		if err == nil {
			err = st.layout.Sync(src)
		}
	} else {
		d, err = st.write(dst, src)
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

func (st *stage) json(mediaType string, v any) (staged, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return staged{}, err
	}
	return st.bytes(mediaType, raw)
}

func (st *stage) bytes(mediaType string, raw []byte) (staged, error) {
	path := st.temp()
	d, err := st.write(path, bytes.NewReader(raw))
	return staged{path: path, Descriptor: v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(raw))}}, err
}

func (st *stage) temp() string {
	st.next++
	return filepath.Join(st.dir, "part-"+strconv.Itoa(st.next))
}

// write makes the file path of what src gives, durably.
func (st *stage) write(path string, src io.Reader) (digest.Digest, error) {
	st.layout.Before("create", path)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return "", st.layout.Unwritable(err)
	}
	defer f.Close()
	d, err := st.copy(f, src)
	if err != nil {
		return "", st.layout.Unwritable(err)
	}
	return d, st.layout.Sync(f)
}

func (st *stage) copy(dst io.Writer, src io.Reader) (digest.Digest, error) {
	digester := digest.SHA256.Digester()
	_, err := io.Copy(io.MultiWriter(dst, digester.Hash()), reader{st.ctx, src})
	return digester.Digest(), err
}

// compare reads the blobs that are there already. Those with the right bytes need not be written.
func (st *stage) compare(files []staged) error {
	for i := range files {
		f := &files[i]
		blob, err := st.layout.OpenBlob(f.Descriptor)
		if err != nil {
			continue // missing, or to be replaced
		}
		info, err := blob.Stat()
		if err == nil {
			var d digest.Digest
			if d, err = st.copy(io.Discard, blob); err == nil && d == f.Digest {
				f.known = info
			}
		}
		blob.Close()
		if st.ctx.Err() != nil {
			return st.ctx.Err()
		}
	}
	return nil
}

// present tells whether the blob is still the one that was compared.
func (st *stage) present(f staged) bool {
	if f.known == nil {
		return false
	}
	info, err := os.Stat(st.layout.BlobPath(f.Digest))
	if err != nil {
		return false
	}
	a, b := layout.StampOf(info), layout.StampOf(f.known)
	a.Settled = true
	return a.Same(b)
}

// publish makes the staged files blobs and changes the index: that is the moment from which the
// image exists.
func (st *stage) publish(label string, files []staged, c *contents, manifest v1.Descriptor) error {
	unlock, err := st.layout.Lock(st.ctx)
	if err != nil {
		return err
	}
	defer unlock()
	snap, err := st.snapshot()
	if err != nil {
		return err
	}
	if snap == nil {
		return st.layout.Check()
	}
	var ch change
	seen := map[digest.Digest]bool{}
	for _, f := range files {
		if !seen[f.Digest] && !st.present(f) {
			ch.Add = append(ch.Add, layout.File{Path: f.path, Digest: f.Digest})
		}
		seen[f.Digest] = true
	}
	if ch.Moves, err = st.moveOf(snap, label, manifest.Digest, "build", time.Now().UTC()); err != nil {
		return err
	}
	entries := st.completed(snap)
	old, rest := take(entries, versionName(label, manifest.Digest), label)
	annotations := summaryOf(c)
	for _, e := range old {
		if _, ok := e.Version(); ok {
			annotations[annotationPin] = e.Desc.Annotations[annotationPin]
		}
	}
	annotations[annotationLabel] = label
	annotations[v1.AnnotationRefName] = versionName(label, manifest.Digest)
	ch.entries = append(rest, layout.NewEntry(manifest).Annotated((&layout.Entry{}).With(annotations)), tagEntry(label, label, manifest))
	return st.apply(st.ctx, snap, ch)
}

// tagEntry is the entry of a tag for a version of the label.
func tagEntry(name, label string, manifest v1.Descriptor) layout.Entry {
	return layout.NewEntry(v1.Descriptor{
		MediaType: manifest.MediaType, ArtifactType: ArtifactType, Digest: manifest.Digest, Size: manifest.Size,
		Annotations: map[string]string{v1.AnnotationRefName: name, annotationLabel: label},
	})
}

// take splits the entries of ours with one of the names off.
func take(entries []layout.Entry, names ...string) (taken, rest []layout.Entry) {
	for _, e := range entries {
		if e.Ours && slices.Contains(names, e.Name()) {
			taken = append(taken, e)
		} else {
			rest = append(rest, e)
		}
	}
	return taken, rest
}
