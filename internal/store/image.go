package store

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"netroot/internal/handoff"
	"netroot/internal/store/layout"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types and annotations of an image.
const (
	ArtifactType    = layout.ArtifactType
	MediaTypeConfig = "application/vnd.netroot.image.config.v1+json"

	// AnnotationRole names the role of a layer; its title is in org.opencontainers.image.title.
	AnnotationRole = "vnd.netroot.role"
)

// Role says what a part of an image is for.
type Role string

// The roles of parts. An image has those that its build made.
const (
	RoleRoot              Role = "root"               // the packed root filesystem
	RoleKernel            Role = "kernel"             // the kernel as the loader takes it
	RoleInitramfs         Role = "initramfs"          // what every machine needs
	RoleInitramfsHardware Role = "initramfs-hardware" // drivers of real machines
	RoleInitramfsFirmware Role = "initramfs-firmware" // their firmware
	RoleInitramfsDracut   Role = "initramfs-dracut"   // in place of the three: the one that the tree's own dracut made
	RolePackages          Role = "packages"           // the installed packages, "name version" a line, sorted
)

// MediaType is the media type of a layer with this role.
func (r Role) MediaType() string { return "application/vnd.netroot.image." + string(r) + ".v1" }

// Config holds the facts about an image that its builder knew. It is part of the image's bytes.
type Config struct {
	Created       time.Time           `json:"created"`
	Architecture  string              `json:"architecture,omitempty"`  // as Go names it: "amd64"
	System        string              `json:"system,omitempty"`        // PRETTY_NAME of its os-release
	RecipeDigest  string              `json:"recipeDigest,omitempty"`  // "sha256:..." of the recipe after substitution
	KernelRelease string              `json:"kernelRelease,omitempty"` // "6.1.0-56-amd64"
	RootFormat    string              `json:"rootFormat,omitempty"`    // file system type of the packed root: "squashfs", "erofs"
	Compressor    string              `json:"compressor,omitempty"`    // of the packed root: "zstd", "none"
	Transports    []handoff.Transport `json:"transports,omitempty"`    // that the kernel can attach a root with, the preferred one first
	// DracutTransports are those that the initramfs of dracut can attach a root with; none where
	// the image has no such initramfs.
	DracutTransports []handoff.Transport `json:"dracutTransports,omitempty"`
	TreeSize         int64               `json:"treeSize,omitempty"` // bytes of the files before packing

	// Packages are the installed packages, "name version", sorted. Commit makes a part of them; an
	// image from the store has them in [Image.Packages] alone.
	Packages []string `json:"-"`
}

// oldConfig is what configurations held before labels and packages left them.
type oldConfig struct {
	Label    string   `json:"label"`
	Packages []string `json:"packages"`
}

// Image is one version of a label's system. It never changes. The slices in it are shared with
// other users and are not to be written to.
type Image struct {
	Label    string        // that the version belongs to
	Ref      string        // the tag or label that it was found by, without an id; its label when it was found by its id alone
	Digest   digest.Digest // of the manifest: the image's identity
	Config   Config
	Manifest v1.Manifest
	Newest   bool // the label's own tag pointed to it when the image was looked up

	store *Store
	size  int64 // of the manifest, bytes
}

// ID is the first 12 hexadecimal digits of the image's digest.
func (im *Image) ID() string { return shortID(im.Digest) }

// Name is "label@id", which Resolve understands for as long as the version exists. For an image
// without a label it is the id.
func (im *Image) Name() string { return nameOf(im.Label, im.Digest) }

func nameOf(label string, d digest.Digest) string {
	if label == "" {
		return shortID(d)
	}
	return versionName(label, d)
}

// Size is the number of bytes of all the parts together.
func (im *Image) Size() int64 { return sizeOf(im.Manifest) }

func sizeOf(m v1.Manifest) int64 {
	var n int64
	for _, l := range m.Layers {
		n += l.Size
	}
	return n
}

// layer is the part with that role; false when the image has none.
func (im *Image) layer(role Role) (v1.Descriptor, bool) {
	for _, l := range im.Manifest.Layers {
		if l.Annotations[AnnotationRole] == string(role) {
			return l, true
		}
	}
	return v1.Descriptor{}, false
}

// Packages reads the list of installed packages, "name version", sorted. Images made before lists
// were parts have it in their configuration.
func (im *Image) Packages() ([]string, error) {
	l, ok := im.layer(RolePackages)
	if !ok {
		var old oldConfig
		if err := im.store.layout.ReadJSON(im.Manifest.Config, &old); err != nil {
			return nil, fmt.Errorf("image %s: configuration: %w", im.Name(), err)
		}
		return old.Packages, nil
	}
	raw, err := im.store.layout.ReadAll(l)
	if err != nil {
		return nil, fmt.Errorf("image %s, part %s: %w", im.Name(), RolePackages, err)
	}
	return strings.Split(strings.TrimSuffix(string(raw), "\n"), "\n"), nil
}

// Blob is an open part of an image. It may be read by several goroutines at once.
type Blob struct {
	f      *os.File
	size   int64
	of     digest.Digest // manifest of an image that it is a part of
	Digest digest.Digest
	Image  string // name of that image
}

// ReadAt reads as io.ReaderAt says.
func (b *Blob) ReadAt(p []byte, off int64) (int, error) { return b.f.ReadAt(p, off) }

// Size is the length in bytes.
func (b *Blob) Size() int64 { return b.size }

// Path is the file that holds the blob, for programs that need a file name.
func (b *Blob) Path() string { return b.f.Name() }

// File is the open file, which the blob closes. Its offset means nothing.
func (b *Blob) File() *os.File { return b.f }

// Close ends the use of the blob.
func (b *Blob) Close() error { return b.f.Close() }

// Blob opens the part with the given role; false when the image has none. The caller closes it.
func (im *Image) Blob(role Role) (*Blob, bool, error) {
	l, ok := im.layer(role)
	if !ok {
		return nil, false, nil
	}
	f, err := im.store.layout.OpenBlob(l)
	if err != nil {
		return nil, true, fmt.Errorf("image %s, part %s: %w", im.Name(), role, err)
	}
	return &Blob{f: f, size: l.Size, of: im.Digest, Digest: l.Digest, Image: im.Name()}, true, nil
}

// contents are the bytes of an image, decoded.
type contents struct {
	manifest v1.Manifest
	config   Config
}

// read reads the manifest and the configuration that an entry describes.
func (s *Store) read(d v1.Descriptor) (*contents, error) {
	c := new(contents)
	if err := s.layout.ReadJSON(d, &c.manifest); err != nil {
		return nil, fmt.Errorf("image %s: manifest: %w", shortID(d.Digest), err)
	}
	if c.manifest.ArtifactType != ArtifactType {
		return nil, fmt.Errorf("image %s: the manifest is not that of an image of netroot", shortID(d.Digest))
	}
	if err := s.layout.ReadJSON(c.manifest.Config, &c.config); err != nil {
		return nil, fmt.Errorf("image %s: configuration: %w", shortID(d.Digest), err)
	}
	return c, nil
}

// contents reads a version's manifest and configuration once.
func (s *Store) contents(v *version) (*contents, error) {
	if c := v.loaded.Load(); c != nil {
		return c, nil
	}
	c, err := s.read(v.entry.Desc)
	if err == nil {
		v.loaded.Store(c)
	}
	return c, err
}

// image is the image of a version, found by the name ref.
func (s *Store) image(snap *snapshot, v *version, ref string) (*Image, error) {
	c, err := s.contents(v)
	if err != nil {
		return nil, err
	}
	im := s.imageOf(c, v.entry.Desc, v.label, ref)
	im.Newest = snap.newest(v.label) == v
	return im, nil
}

func (s *Store) imageOf(c *contents, d v1.Descriptor, label, ref string) *Image {
	im := &Image{Label: label, Ref: ref, Digest: d.Digest, Config: c.config, Manifest: c.manifest, store: s, size: d.Size}
	if label == "" { // an entry without a name: images made before say their label themselves
		var old oldConfig
		if s.layout.ReadJSON(c.manifest.Config, &old) == nil && handoff.ValidLabel(old.Label) {
			im.Label = old.Label
		}
	}
	if ref == "" {
		im.Ref = im.Label
	}
	return im
}

// Verify reads every byte of the image and compares it with its digest. The error names each file
// that is missing or damaged.
func (s *Store) Verify(ctx context.Context, im *Image) error {
	report := s.verify(ctx, []*Image{im}, nil)
	return report.Err()
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
