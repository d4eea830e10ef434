package store

import (
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"netroot/internal/nearest"
	"netroot/internal/store/layout"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Resolve finds the image that ref names: "tag" is the version that the tag points to, which for a
// label's own tag is its newest; "label@id" is one version of the label; "tag@id" is one version
// that the tag points to or pointed to before; "id" is one version of any label. An id is the
// beginning (four digits or more) of the image's digest, or all of it with "sha256:". The error
// matches ErrNotFound when there is no such image.
//
// It reads the index, where that has changed, and of one image the manifest and the configuration.
func (s *Store) Resolve(ref string) (*Image, error) {
	// A command line resolves one name and ends, so the first time only that entry is decoded.
	if s.current.Load() == nil && s.quick.CompareAndSwap(false, true) {
		if im := s.resolveQuickly(ref); im != nil {
			return im, nil
		}
	}
	snap, err := s.snapshot()
	if err != nil {
		return nil, err
	}
	return s.resolve(snap, ref)
}

// resolveQuickly finds a tag or the whole name of a version without decoding the other entries;
// nil where that does not suffice, for whatever reason.
func (s *Store) resolveQuickly(ref string) *Image {
	raw, _, err := s.layout.ReadIndex()
	if err != nil || raw == nil {
		return nil
	}
	unclear := false // an entry of that name has lost its artifact type
	find := func(name string) (found layout.Entry) {
		for e := range layout.Named(raw, name) {
			unclear = unclear || e.Desc.ArtifactType == ""
			if e.Ours {
				found = e
			}
		}
		return found
	}
	e := find(ref)
	label, id := e.Version()
	if !id {
		label = e.Desc.Annotations[annotationLabel]
	}
	if !e.Ours || label == "" {
		return nil
	}
	c, err := s.read(e.Desc)
	if err != nil {
		return nil
	}
	own := e
	if label != ref {
		own = find(label)
	}
	name := ref
	if id {
		name = label
	}
	if unclear {
		return nil
	}
	im := s.imageOf(c, e.Desc, label, name)
	im.Newest = own.Ours && own.Desc.Digest == e.Desc.Digest && cmp.Or(own.Desc.Annotations[annotationLabel], label) == label
	return im
}

func (s *Store) resolve(snap *snapshot, ref string) (*Image, error) {
	v, name, err := s.find(snap, ref)
	if err != nil {
		return nil, err
	}
	im, err := s.image(snap, v, name)
	if err != nil {
		return nil, s.offerOlder(snap, v, err)
	}
	return im, nil
}

// offerOlder adds to an error of reading a version those that could take its place.
func (s *Store) offerOlder(snap *snapshot, damaged *version, err error) error {
	var whole []string
	for _, v := range slices.Backward(snap.labels[damaged.label]) {
		if _, readErr := s.contents(v); v != damaged && readErr == nil {
			whole = append(whole, nameOf(v.label, v.digest))
		}
		if len(whole) == 3 {
			break
		}
	}
	if whole == nil {
		return err
	}
	return fmt.Errorf("%w; other versions can be read: %s", err, strings.Join(whole, ", "))
}

// find finds the version that ref names, and the tag or label in it.
func (s *Store) find(snap *snapshot, ref string) (v *version, name string, err error) {
	if snap == nil {
		return nil, "", fmt.Errorf("%w: %s: no image has been built yet in %s", ErrNotFound, ref, s.Dir())
	}
	if t := snap.byTag[ref]; t != nil {
		return t.to, ref, nil
	}
	name, id, versioned := splitRef(ref)
	var found []*version
	switch {
	case !versioned:
		name = ""
		found = matching(snap.versions, strings.TrimPrefix(ref, string(digest.SHA256)+":"))
	case snap.labels[name] != nil:
		found = matching(snap.labels[name], id)
	}
	if versioned && found == nil {
		past, err := s.past(snap, name)
		if err != nil {
			return nil, "", err
		}
		found = matching(past, id)
	}
	for _, other := range found {
		if other.digest != found[0].digest {
			return nil, "", fmt.Errorf("image %s is ambiguous: it begins %s", ref, strings.Join(names(found), ", "))
		}
	}
	if found == nil {
		return nil, "", s.notFound(snap, ref)
	}
	return found[0], name, nil
}

// matching are the versions whose id begins so.
func matching(versions []*version, id string) (found []*version) {
	if len(id) < 4 {
		return nil
	}
	for _, v := range versions {
		if strings.HasPrefix(v.digest.Encoded(), id) {
			found = append(found, v)
		}
	}
	return found
}

// past are the versions, as far as they still exist, that a tag points to or pointed to before.
func (s *Store) past(snap *snapshot, name string) ([]*version, error) {
	var out []*version
	seen := map[digest.Digest]bool{}
	add := func(d digest.Digest) {
		if v := snap.byDigest[d]; v != nil && !seen[d] {
			seen[d] = true
			out = append(out, v[0])
		}
	}
	if t := snap.byTag[name]; t != nil {
		seen[t.to.digest] = true
		out = append(out, t.to)
	}
	moves, err := s.layout.Journal(name)
	for _, m := range slices.Backward(moves) {
		add(m.To)
		add(m.From)
	}
	return out, err
}

// notFound says what there is instead of ref.
func (s *Store) notFound(snap *snapshot, ref string) error {
	name, _, _ := splitRef(ref)
	known := slices.Collect(maps.Keys(snap.labels))
	known = slices.AppendSeq(known, maps.Keys(snap.byTag))
	slices.Sort(known)
	known = slices.DeleteFunc(slices.Compact(known), func(n string) bool { return n == "" })
	versions := snap.labels[name]
	switch {
	case len(versions) > 0:
		said := names(versions)
		slices.Reverse(said)
		if len(said) > 10 {
			said = append(said[:10], fmt.Sprintf("and %d more", len(said)-10))
		}
		return fmt.Errorf("%w: %s; there are %s", ErrNotFound, ref, strings.Join(said, ", "))
	case len(snap.versions) == 0:
		return fmt.Errorf("%w: %s: the image store %s is empty: build the image first", ErrNotFound, ref, s.Dir())
	}
	if hint := nearest.Hint(name, known); hint != "" {
		return fmt.Errorf("%w: %s%s", ErrNotFound, ref, hint)
	}
	return fmt.Errorf("%w: %s in the image store %s: build the image first; there are %s", ErrNotFound, ref, s.Dir(), strings.Join(known, ", "))
}

// Version is what a list shows of a version: the summary in the index, which nothing but a list
// relies on.
type Version struct {
	Label        string        `json:"label"`
	Digest       digest.Digest `json:"digest"`
	Newest       bool          `json:"newest"`         // the label's own tag points to it
	Tags         []string      `json:"tags,omitempty"` // that point to these bytes, sorted
	Pin          string        `json:"pin,omitempty"`  // why it is kept; empty: it is not pinned
	Created      time.Time     `json:"created"`
	Size         int64         `json:"size"` // bytes of all parts
	RootFormat   string        `json:"rootFormat,omitempty"`
	Compressor   string        `json:"compressor,omitempty"`
	Kernel       string        `json:"kernelRelease,omitempty"`
	System       string        `json:"system,omitempty"`
	Architecture string        `json:"architecture,omitempty"`
}

// ID is the first 12 hexadecimal digits of the digest.
func (v *Version) ID() string { return shortID(v.Digest) }

// Name is "label@id".
func (v *Version) Name() string { return nameOf(v.Label, v.Digest) }

// summaryOf are the annotations that hold a summary.
func summaryOf(c *contents) map[string]string {
	return map[string]string{
		v1.AnnotationCreated: c.config.Created.UTC().Format(time.RFC3339Nano),
		annotationSize:       strconv.FormatInt(sizeOf(c.manifest), 10),
		annotationFormat:     c.config.RootFormat,
		annotationCompressor: c.config.Compressor,
		annotationKernel:     c.config.KernelRelease,
		annotationSystem:     c.config.System,
		annotationArch:       c.config.Architecture,
	}
}

// Versions returns every version of every label, from the index alone: labels in order, the newest
// version of each first, then those that were the newest before, the last one first. Versions
// whose entry has no summary and whose manifest cannot be read are left out and named in the error,
// which then comes beside the others.
func (s *Store) Versions() ([]Version, error) {
	snap, err := s.snapshot()
	if snap == nil || err != nil {
		return nil, err
	}
	var errs []error
	var out []Version
	for _, v := range s.ordered(snap, &errs) {
		said, err := s.summary(snap, v)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, said)
	}
	return out, errors.Join(errs...)
}

func (s *Store) summary(snap *snapshot, v *version) (Version, error) {
	a := v.entry.Desc.Annotations
	if a[annotationSize] == "" {
		c, err := s.contents(v)
		if err != nil {
			return Version{}, err
		}
		a = summaryOf(c)
	}
	out := Version{
		Label: v.label, Digest: v.digest, Newest: snap.newest(v.label) == v, Tags: snap.tagsOf(v.digest),
		Pin: v.entry.Desc.Annotations[annotationPin], RootFormat: a[annotationFormat], Compressor: a[annotationCompressor],
		Kernel: a[annotationKernel], System: a[annotationSystem], Architecture: a[annotationArch],
	}
	out.Created, _ = time.Parse(time.RFC3339Nano, a[v1.AnnotationCreated]) // shown, and nothing else
	out.Size, _ = strconv.ParseInt(a[annotationSize], 10, 64)
	return out, nil
}

// ordered are all versions in the order of [Store.Versions].
func (s *Store) ordered(snap *snapshot, errs *[]error) []*version {
	out := make([]*version, 0, len(snap.versions))
	for _, label := range slices.Sorted(maps.Keys(snap.labels)) {
		moves, err := s.layout.Journal(label)
		if err != nil {
			*errs = append(*errs, err)
		}
		// A version's rank is its last line in the journal. Older than all of those are the
		// versions from before the journal, in the order of the index.
		rank := map[digest.Digest]int{}
		for i, m := range moves {
			rank[m.To] = i + 1
		}
		newest := snap.newest(label)
		versions := slices.Clone(snap.labels[label])
		slices.Reverse(versions)
		slices.SortStableFunc(versions, func(a, b *version) int {
			switch {
			case a == newest:
				return -1
			case b == newest:
				return 1
			}
			return rank[b.digest] - rank[a.digest]
		})
		out = append(out, versions...)
	}
	return out
}

// List returns every version of every label as an image, in the order of [Store.Versions]. It reads
// them all; images that cannot be read are left out and named in the error, which then comes beside
// the readable ones.
func (s *Store) List() ([]*Image, error) {
	snap, err := s.snapshot()
	if snap == nil || err != nil {
		return nil, err
	}
	var errs []error
	var images []*Image
	for _, v := range s.ordered(snap, &errs) {
		im, err := s.image(snap, v, "")
		if err != nil {
			errs = append(errs, err)
			continue
		}
		images = append(images, im)
	}
	return images, errors.Join(errs...)
}

func names(versions []*version) []string {
	var out []string
	for _, v := range versions {
		out = append(out, nameOf(v.label, v.digest))
	}
	return out
}

// blobTable finds the image that a part belongs to. It holds no manifests, so that it stays small
// with thousands of versions.
type blobTable struct {
	of   map[digest.Digest][]partRef // by manifest
	blob map[[32]byte]blobOf         // by the digest of a part
	left []*version                  // whose manifests could not be read
}

// blobOf is a part, and a version that has it.
type blobOf struct {
	size int64 // bytes
	of   *version
}

type partRef struct {
	sum  [32]byte
	size int64
}

// Blob opens a part of an image by the digest of its bytes, "sha256:...". The error matches
// ErrNotFound when no image of the store has it, which is known without a look at the files.
func (s *Store) Blob(name string) (*Blob, error) {
	d := digest.Digest(name)
	if d.Validate() != nil || d.Algorithm() != digest.SHA256 {
		return nil, fmt.Errorf("%w: %q is not the digest of a blob", ErrNotFound, name)
	}
	snap, err := s.snapshot()
	if err != nil {
		return nil, err
	}
	if snap == nil {
		return nil, fmt.Errorf("%w: no image has been built yet in %s", ErrNotFound, s.Dir())
	}
	table := snap.blobs.Load()
	if table == nil {
		table = s.tabulate(snap)
	}
	blob, ok := table.blob[sum(d)]
	if !ok {
		if blob, ok, err = s.unread(table, sum(d)); !ok {
			return nil, errors.Join(fmt.Errorf("%w: no image has the blob %s", ErrNotFound, d), err)
		}
	}
	f, err := s.layout.OpenBlob(v1.Descriptor{Digest: d, Size: blob.size})
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", nameOf(blob.of.label, blob.of.digest), err)
	}
	return &Blob{f: f, size: blob.size, of: blob.of.digest, Digest: d, Image: nameOf(blob.of.label, blob.of.digest)}, nil
}

func sum(d digest.Digest) (out [32]byte) {
	hex.Decode(out[:], []byte(d.Encoded())) //nolint:errcheck // a digest that was validated
	return out
}

// tabulate reads the manifests of the versions that the snapshot before did not know.
func (s *Store) tabulate(snap *snapshot) *blobTable {
	s.reading.Lock()
	defer s.reading.Unlock()
	if table := snap.blobs.Load(); table != nil {
		return table
	}
	table := &blobTable{of: map[digest.Digest][]partRef{}, blob: map[[32]byte]blobOf{}}
	for _, v := range snap.versions {
		if table.of[v.digest] != nil {
			continue
		}
		parts, known := snap.known.parts(v.digest)
		if !known {
			var err error
			if parts, err = s.partsOf(v); err != nil {
				table.left = append(table.left, v)
				continue
			}
		}
		table.of[v.digest] = parts
		for _, p := range parts {
			table.blob[p.sum] = blobOf{p.size, v}
		}
	}
	snap.blobs.Store(table)
	snap.known = nil
	return table
}

// partsOf reads the manifest of a version for the table.
func (s *Store) partsOf(v *version) (parts []partRef, err error) {
	var m v1.Manifest
	if err := s.layout.ReadJSON(v.entry.Desc, &m); err != nil {
		return nil, fmt.Errorf("image %s: %w", nameOf(v.label, v.digest), err)
	}
	for _, l := range m.Layers {
		if l.Digest.Validate() == nil && l.Digest.Algorithm() == digest.SHA256 {
			parts = append(parts, partRef{sum(l.Digest), l.Size})
		}
	}
	return parts, nil
}

// unread looks for a part in the manifests that could not be read for the table: somebody may have
// put back the file, which does not change the index. The error names those that still cannot be.
func (s *Store) unread(table *blobTable, part [32]byte) (found blobOf, ok bool, err error) {
	var errs []error
	for _, v := range table.left {
		parts, err := s.partsOf(v)
		if err != nil {
			errs = append(errs, err)
		}
		for _, p := range parts {
			if p.sum == part {
				return blobOf{p.size, v}, true, nil
			}
		}
	}
	return blobOf{}, false, errors.Join(errs...)
}

func (t *blobTable) parts(manifest digest.Digest) ([]partRef, bool) {
	if t == nil {
		return nil, false
	}
	parts, ok := t.of[manifest]
	return parts, ok
}
