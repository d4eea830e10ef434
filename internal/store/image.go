package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"netroot/internal/handoff"
	"netroot/internal/nearest"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types and annotations of an image.
const (
	ArtifactType    = "application/vnd.netroot.image.v1"
	MediaTypeConfig = "application/vnd.netroot.image.config.v1+json"

	// AnnotationRole names a layer's role; its title is in
	// org.opencontainers.image.title.
	AnnotationRole = "vnd.netroot.role"
)

// Role says what a part of an image is for.
type Role string

// The roles there are. Only the image's builder knows which of them an image has.
const (
	RoleRoot              Role = "root"               // the packed root filesystem
	RoleKernel            Role = "kernel"             // the kernel as the loader takes it
	RoleInitramfs         Role = "initramfs"          // what every machine needs
	RoleInitramfsHardware Role = "initramfs-hardware" // drivers of real machines
	RoleInitramfsFirmware Role = "initramfs-firmware" // their firmware
	RoleInitramfsDracut   Role = "initramfs-dracut"   // in place of the three: the one that the tree's own dracut made
)

// MediaType is the media type of a layer with this role.
func (r Role) MediaType() string { return "application/vnd.netroot.image." + string(r) + ".v1" }

// Config holds the facts about an image that its builder knew. It is written
// into the image and is part of its identity.
type Config struct {
	Label         string              `json:"label"`
	Created       time.Time           `json:"created"`
	Architecture  string              `json:"architecture,omitempty"`  // as Go names it: "amd64"
	System        string              `json:"system,omitempty"`        // PRETTY_NAME of its os-release
	RecipeDigest  string              `json:"recipeDigest,omitempty"`  // "sha256:..." of the recipe after substitution
	KernelRelease string              `json:"kernelRelease,omitempty"` // "6.1.0-56-amd64"
	RootFormat    string              `json:"rootFormat,omitempty"`    // file system type of the packed root: "squashfs", "erofs"
	Compressor    string              `json:"compressor,omitempty"`    // of the packed root: "zstd", "none"
	Transports    []handoff.Transport `json:"transports,omitempty"`    // that the kernel can take a root by, the preferred one first
	// DracutTransports are those that the initramfs of dracut can take a root by; none where the image has no such initramfs.
	DracutTransports []handoff.Transport `json:"dracutTransports,omitempty"`
	TreeSize         int64               `json:"treeSize,omitempty"` // bytes of the files before packing
	Packages         []string            `json:"packages,omitempty"` // "name version", sorted
}

// Image is one version of a label's system. It never changes.
type Image struct {
	Label    string
	Digest   digest.Digest // of the manifest: the image's identity
	Config   Config
	Manifest v1.Manifest
	Newest   bool // the label's tag named it when the image was looked up

	store *Store
	size  int64 // of the manifest, bytes
}

// ID is the first 12 hexadecimal digits of the image's digest.
func (im *Image) ID() string { return shortID(im.Digest) }

// Name is "label@id", which Resolve understands for as long as the version exists.
func (im *Image) Name() string { return versionName(im.Label, im.Digest) }

// Size is the number of bytes of all the parts together.
func (im *Image) Size() int64 {
	var n int64
	for _, l := range im.Manifest.Layers {
		n += l.Size
	}
	return n
}

// Blob is an open part of an image. It may be read by several goroutines at once.
type Blob struct {
	f      *os.File
	size   int64
	Digest digest.Digest
}

// ReadAt reads as io.ReaderAt says.
func (b *Blob) ReadAt(p []byte, off int64) (int, error) { return b.f.ReadAt(p, off) }

// Size is the length in bytes.
func (b *Blob) Size() int64 { return b.size }

// Path is the file that holds the blob, for programs that want a file.
func (b *Blob) Path() string { return b.f.Name() }

// File is the open file, which is the blob's to close. Its offset is nobody's.
func (b *Blob) File() *os.File { return b.f }

// Close ends the use of the blob.
func (b *Blob) Close() error { return b.f.Close() }

// Blob opens the part with the given role; false when the image has none. The
// caller closes it.
func (im *Image) Blob(role Role) (*Blob, bool, error) {
	for _, l := range im.Manifest.Layers {
		if l.Annotations[AnnotationRole] != string(role) {
			continue
		}
		f, err := im.store.openBlob(l)
		if err != nil {
			return nil, true, fmt.Errorf("image %s, part %s: %w", im.Name(), role, err)
		}
		return &Blob{f: f, size: l.Size, Digest: l.Digest}, true, nil
	}
	return nil, false, nil
}

// openBlob opens what d describes, when it is there in full length.
func (s *Store) openBlob(d v1.Descriptor) (*os.File, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w", d.Digest, err)
	}
	f, err := os.Open(s.blobPath(d.Digest))
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if info.Size() != d.Size {
		f.Close()
		return nil, fmt.Errorf("%s is damaged: it has %d bytes and should have %d: remove it and build the image again", f.Name(), info.Size(), d.Size)
	}
	return f, nil
}

// readBlob decodes a JSON blob after checking its digest.
func (s *Store) readBlob(d v1.Descriptor, v any) error {
	const limit = 64 << 20 // a package list is a few hundred KiB
	if d.Size > limit {
		return fmt.Errorf("%s has %d bytes, too many for a description", d.Digest, d.Size)
	}
	f, err := s.openBlob(d)
	if err != nil {
		return err
	}
	defer f.Close()
	raw, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if d.Digest.Algorithm().FromBytes(raw) != d.Digest {
		return damaged(f.Name())
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	return nil
}

func damaged(path string) error {
	return fmt.Errorf("%s is damaged: its bytes do not have its digest: remove it and build the image again", path)
}

// load reads the image of one index entry; nil when it is something else that
// lives in the same layout.
func (s *Store) load(d v1.Descriptor) (*Image, error) {
	if d.MediaType != v1.MediaTypeImageManifest || d.ArtifactType != "" && d.ArtifactType != ArtifactType {
		return nil, nil
	}
	im := &Image{Digest: d.Digest, store: s, size: d.Size}
	if err := s.readBlob(d, &im.Manifest); err != nil {
		return nil, fmt.Errorf("image %s: manifest: %w", shortID(d.Digest), err)
	}
	if im.Manifest.ArtifactType != ArtifactType {
		return nil, nil
	}
	if err := s.readBlob(im.Manifest.Config, &im.Config); err != nil {
		return nil, fmt.Errorf("image %s: configuration: %w", shortID(d.Digest), err)
	}
	im.Label = im.Config.Label
	return im, nil
}

// List returns every version of every label: labels in order, the newest
// version of each first, the others by age. Images that cannot be read are left
// out and named in the error, which then comes beside the readable ones.
func (s *Store) List() ([]*Image, error) {
	index, err := s.readIndex()
	if err != nil {
		return nil, err
	}
	var errs []error
	found := map[digest.Digest]*Image{}
	for _, d := range index.Manifests {
		im, seen := found[d.Digest]
		if !seen {
			im, err = s.load(d)
			if err != nil {
				errs = append(errs, err)
			}
			found[d.Digest] = im
		}
		if im != nil && d.Annotations[v1.AnnotationRefName] == im.Label {
			im.Newest = true
		}
	}
	var images []*Image
	for _, im := range found {
		if im != nil {
			images = append(images, im)
		}
	}
	slices.SortFunc(images, byLabelAndAge)
	return images, errors.Join(errs...)
}

func byLabelAndAge(a, b *Image) int {
	switch c := strings.Compare(a.Label, b.Label); {
	case c != 0:
		return c
	case a.Newest != b.Newest && a.Newest:
		return -1
	case a.Newest != b.Newest:
		return 1
	}
	if c := b.Config.Created.Compare(a.Config.Created); c != 0 {
		return c
	}
	return strings.Compare(string(a.Digest), string(b.Digest))
}

// Resolve finds the image that ref names: "label" is its newest version,
// "label@id" and "id" one version, an id being the beginning (four digits or
// more) of the image's digest or all of it with "sha256:". The error matches
// ErrNotFound when there is no such image.
func (s *Store) Resolve(ref string) (*Image, error) {
	images, listErr := s.List()
	if images == nil && listErr != nil {
		return nil, listErr
	}
	label, id, versioned := splitRef(ref)
	for _, im := range images {
		if !versioned && im.Newest && im.Label == label {
			return im, nil
		}
	}
	if !versioned {
		label, id = "", strings.TrimPrefix(ref, string(digest.SHA256)+":")
	}
	var found []*Image
	for _, im := range images {
		if (label == "" || im.Label == label) && len(id) >= 4 && strings.HasPrefix(im.Digest.Encoded(), id) {
			found = append(found, im)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nil, errors.Join(s.notFound(ref, images), listErr)
	default:
		return nil, fmt.Errorf("image %s is ambiguous: it begins %s", ref, strings.Join(names(found), ", "))
	}
}

// notFound says what there is instead of ref.
func (s *Store) notFound(ref string, images []*Image) error {
	label, _, _ := splitRef(ref)
	var labels []string
	var versions []*Image
	for _, im := range images {
		labels = append(labels, im.Label)
		if im.Label == label {
			versions = append(versions, im)
		}
	}
	switch {
	case len(versions) > 0:
		return fmt.Errorf("%w: %s; there are %s", ErrNotFound, ref, strings.Join(names(versions), ", "))
	case len(images) == 0:
		return fmt.Errorf("%w: %s: the image store %s is empty: build the image first", ErrNotFound, ref, s.dir)
	}
	if hint := nearest.Hint(label, labels); hint != "" {
		return fmt.Errorf("%w: %s%s", ErrNotFound, ref, hint)
	}
	return fmt.Errorf("%w: %s in the image store %s: build the image first; there are %s", ErrNotFound, ref, s.dir, strings.Join(slices.Compact(labels), ", "))
}

func names(images []*Image) []string {
	var out []string
	for _, im := range images {
		out = append(out, im.Name())
	}
	return out
}

// Verify reads every byte of the image and compares it with its digest. The
// error names each file that is missing or damaged.
func (s *Store) Verify(ctx context.Context, im *Image) error {
	blobs := append([]v1.Descriptor{{Digest: im.Digest, Size: im.size}, im.Manifest.Config}, im.Manifest.Layers...)
	var errs []error
	for _, d := range blobs {
		if err := s.verifyBlob(ctx, d); err != nil {
			errs = append(errs, fmt.Errorf("image %s: %w", im.Name(), err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

func (s *Store) verifyBlob(ctx context.Context, d v1.Descriptor) error {
	f, err := s.openBlob(d)
	if err != nil {
		return err
	}
	defer f.Close()
	verifier := d.Digest.Verifier()
	if _, err := io.Copy(verifier, reader{ctx, f}); err != nil {
		return err
	}
	if !verifier.Verified() {
		return damaged(f.Name())
	}
	return nil
}

// reader stops when its context ends.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
