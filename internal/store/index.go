package store

import (
	"os"
	"slices"
	"sync/atomic"

	"netroot/internal/store/layout"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Annotations of entries in index.json. The label stands in every entry of ours, the pin and the
// summary in those of versions.
const (
	annotationLabel      = "vnd.netroot.label"
	annotationPin        = "vnd.netroot.pin"
	annotationSize       = "vnd.netroot.size"
	annotationFormat     = "vnd.netroot.root-format"
	annotationCompressor = "vnd.netroot.compressor"
	annotationKernel     = "vnd.netroot.kernel"
	annotationSystem     = "vnd.netroot.system"
	annotationArch       = "vnd.netroot.architecture"
)

// version is one version of a label. The same bytes may be versions of several labels.
type version struct {
	label  string
	digest digest.Digest
	entry  *layout.Entry // its own, or that of a tag where it has none
	loaded *atomic.Pointer[contents]
}

// tag is a name that points to a version.
type tag struct {
	name  string
	label string // that the version belongs to
	entry *layout.Entry
	to    *version
}

// snapshot is what the index said at one moment. It does not change.
type snapshot struct {
	stamp    layout.Stamp
	index    *layout.Index
	versions []*version // those that became their label's newest last come last
	tags     []*tag
	byTag    map[string]*tag
	byDigest map[digest.Digest][]*version
	labels   map[string][]*version
	blobs    atomic.Pointer[blobTable]
	known    *blobTable // of the snapshot before, until blobs is made; guarded by Store.reading
}

// snapshot returns what the index says now. Unless the file has changed, it costs one stat and no
// lock. It is nil, without an error, where there is no store yet.
func (s *Store) snapshot() (*snapshot, error) {
	if snap := s.fresh(); snap != nil {
		return snap, nil
	}
	s.reading.Lock()
	defer s.reading.Unlock()
	if snap := s.fresh(); snap != nil { // another goroutine has read it meanwhile
		return snap, nil
	}
	raw, st, err := s.layout.ReadIndex()
	if raw == nil || err != nil {
		return nil, err
	}
	x, err := layout.Parse(raw)
	if err != nil {
		return nil, s.layout.DamagedIndex(err)
	}
	old := s.current.Load()
	s.claim(x, old)
	snap := newSnapshot(x, old)
	snap.stamp = st
	if old != nil {
		if snap.known = old.blobs.Load(); snap.known == nil {
			snap.known = old.known
		}
	}
	s.current.Store(snap)
	return snap, nil
}

// fresh is the snapshot that was made last, if the file is the one it was made of.
func (s *Store) fresh() *snapshot {
	snap := s.current.Load()
	if snap == nil {
		return nil
	}
	info, err := os.Stat(s.layout.Path(v1.ImageIndexFile))
	if err != nil || !snap.stamp.Same(layout.StampOf(info)) {
		return nil
	}
	return snap
}

// claim looks into the manifests of entries without an artifact type, which a copy by other
// programs drops, and tells which of them are ours. One that cannot be read is ours if its name is
// a version's.
func (s *Store) claim(x *layout.Index, old *snapshot) {
	known := map[digest.Digest]bool{}
	if old != nil {
		for _, e := range old.index.Entries {
			if e.Ours {
				known[e.Desc.Digest] = true
			}
		}
	}
	for i := range x.Entries {
		e := &x.Entries[i]
		if e.Ours || e.Desc.ArtifactType != "" || e.Desc.MediaType != v1.MediaTypeImageManifest {
			continue
		}
		ours, seen := known[e.Desc.Digest]
		if !seen {
			var m v1.Manifest
			if err := s.layout.ReadJSON(e.Desc, &m); err == nil {
				ours = m.ArtifactType == ArtifactType
			} else {
				_, ours = e.Version()
			}
			known[e.Desc.Digest] = ours
		}
		e.Ours = ours
	}
}

// newSnapshot finds versions and tags. What is known of versions from the snapshot before is kept.
func newSnapshot(x *layout.Index, old *snapshot) *snapshot {
	snap := &snapshot{
		index: x, byTag: map[string]*tag{}, byDigest: map[digest.Digest][]*version{}, labels: map[string][]*version{},
	}
	place := map[string]int{} // where a version stands in versions
	add := func(label string, e *layout.Entry) *version {
		key := label + "@" + string(e.Desc.Digest)
		if i, seen := place[key]; seen {
			return snap.versions[i]
		}
		v := &version{label: label, digest: e.Desc.Digest, entry: e, loaded: new(atomic.Pointer[contents])}
		if old != nil {
			if known := old.byDigest[v.digest]; known != nil {
				v.loaded = known[0].loaded
			}
		}
		if known := snap.byDigest[v.digest]; known != nil {
			v.loaded = known[0].loaded
		}
		place[key] = len(snap.versions)
		snap.versions = append(snap.versions, v)
		snap.byDigest[v.digest] = append(snap.byDigest[v.digest], v)
		snap.labels[label] = append(snap.labels[label], v)
		return v
	}
	for i := range x.Entries {
		e := &x.Entries[i]
		if label, ok := e.Version(); ok && e.Ours {
			if v := add(label, e); v.entry != e {
				v.entry = e // of several entries with one name the last counts
			}
		}
	}
	for i := range x.Entries {
		e := &x.Entries[i]
		if _, ok := e.Version(); !e.Ours || ok || e.Name() == "" {
			continue
		}
		label := labelOf(e, snap)
		t := &tag{name: e.Name(), label: label, entry: e, to: add(label, e)}
		if snap.byTag[t.name] == nil {
			snap.tags = append(snap.tags, t)
			snap.byTag[t.name] = t
		} else {
			*snap.byTag[t.name] = *t
		}
	}
	for i := range x.Entries {
		if e := &x.Entries[i]; e.Ours && e.Name() == "" && snap.byDigest[e.Desc.Digest] == nil {
			add(e.Desc.Annotations[annotationLabel], e)
		}
	}
	return snap
}

// labelOf is the label of the version that a tag points to: the one that its entry names, else the
// tag's own name where that is a label with this version, else the label that has the version. A
// tag of a version that belongs to no label, as it comes from another store, is its label.
func labelOf(e *layout.Entry, snap *snapshot) string {
	if label := e.Desc.Annotations[annotationLabel]; label != "" {
		return label
	}
	versions := snap.byDigest[e.Desc.Digest]
	if len(versions) == 0 || slices.ContainsFunc(versions, func(v *version) bool { return v.label == e.Name() }) {
		return e.Name()
	}
	return versions[0].label
}

// newest is the version that the label's own tag points to; nil where there is none.
func (snap *snapshot) newest(label string) *version {
	if t := snap.byTag[label]; t != nil && t.label == label {
		return t.to
	}
	return nil
}

// tagsOf are the names of the tags that point to these bytes.
func (snap *snapshot) tagsOf(d digest.Digest) []string {
	var out []string
	for _, t := range snap.tags {
		if t.entry.Desc.Digest == d {
			out = append(out, t.name)
		}
	}
	slices.Sort(out)
	return out
}

// completed are the entries of a snapshot as a change writes them: each of ours has our artifact
// type and its label, each version an entry of its own with a summary. It brings stores of earlier
// versions, and what other programs have copied, forward. Entries whose image cannot be read stay
// as they are.
func (s *Store) completed(snap *snapshot) []layout.Entry {
	var out []layout.Entry
	has := map[string]bool{}
	for _, e := range snap.index.Entries {
		if label, ok := e.Version(); ok && e.Ours {
			has[label+"@"+string(e.Desc.Digest)] = true
		}
	}
	label := map[*layout.Entry]string{} // of entries that are not a version's
	for _, v := range snap.versions {
		label[v.entry] = v.label
	}
	for i := range snap.index.Entries {
		e := &snap.index.Entries[i]
		if _, ok := e.Version(); e.Ours && !ok && e.Name() != "" {
			label[e] = labelOf(e, snap)
		}
	}
	for i := range snap.index.Entries {
		e := &snap.index.Entries[i]
		switch own, isVersion := e.Version(); {
		case !e.Ours:
			out = append(out, *e)
		case isVersion:
			out = append(out, s.summarised(*e, own))
		default:
			own := label[e]
			if key := own + "@" + string(e.Desc.Digest); own != "" && !has[key] {
				has[key] = true
				version := v1.Descriptor{MediaType: e.Desc.MediaType, ArtifactType: ArtifactType, Digest: e.Desc.Digest, Size: e.Desc.Size,
					Annotations: map[string]string{v1.AnnotationRefName: versionName(own, e.Desc.Digest)}}
				out = append(out, s.summarised(layout.NewEntry(version), own))
			}
			if own == "" {
				out = append(out, *e)
			} else {
				out = append(out, e.Annotated(e.With(map[string]string{annotationLabel: own})))
			}
		}
	}
	return out
}

// summarised is the entry of a version with its label and its summary.
func (s *Store) summarised(e layout.Entry, label string) layout.Entry {
	a := e.With(map[string]string{annotationLabel: label})
	if a[annotationSize] == "" {
		c, err := s.read(e.Desc)
		if err != nil {
			return e
		}
		a = e.With(summaryOf(c))
		a[annotationLabel] = label
	}
	return e.Annotated(a)
}
