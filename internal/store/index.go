package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tidwall/gjson"
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

// index is index.json. What is not ours in it stays as it was written.
type index struct {
	fields  map[string]json.RawMessage // the top level without the entries
	entries []entry
}

// entry is one element of the index.
type entry struct {
	raw  []byte // as it is written
	desc v1.Descriptor
	ours bool // an image of ours, by its artifact type or, where that is missing, by its manifest
}

func (e *entry) name() string { return e.desc.Annotations[v1.AnnotationRefName] }

// version is the label whose version the entry is; false for a tag and an entry without a name.
func (e *entry) version() (label string, ok bool) {
	i := strings.LastIndexByte(e.name(), '@')
	if i < 1 {
		return "", false
	}
	id := strings.TrimPrefix(e.name()[i+1:], string(digest.SHA256)+":")
	return e.name()[:i], len(id) >= 12 && strings.HasPrefix(e.desc.Digest.Encoded(), id)
}

// newEntry makes the entry of a manifest.
func newEntry(desc v1.Descriptor) entry {
	e := entry{desc: desc, ours: true}
	e.raw, _ = json.Marshal(desc) // a Descriptor holds nothing that JSON does not have
	return e
}

// annotated is the entry with other annotations and our artifact type. Fields that this program
// does not know stay.
func (e entry) annotated(annotations map[string]string) entry {
	if e.desc.ArtifactType == ArtifactType && maps.Equal(e.desc.Annotations, annotations) {
		return e
	}
	e.desc.Annotations, e.desc.ArtifactType = annotations, ArtifactType
	fields := map[string]json.RawMessage{}
	if json.Unmarshal(e.raw, &fields) != nil {
		return newEntry(e.desc)
	}
	fields["annotations"], _ = json.Marshal(annotations)
	fields["artifactType"], _ = json.Marshal(ArtifactType)
	e.raw, _ = json.Marshal(fields)
	return e
}

// with is a copy of the entry's annotations that says more; an empty value removes the key.
func (e *entry) with(more map[string]string) map[string]string {
	out := map[string]string{}
	maps.Copy(out, e.desc.Annotations)
	maps.Copy(out, more)
	maps.DeleteFunc(out, func(_, v string) bool { return v == "" })
	return out
}

// parseIndex reads index.json. Entries that cannot be understood are kept, and are not ours.
func parseIndex(raw []byte) (*index, error) {
	if !json.Valid(raw) { // gjson's own check has no limit of depth
		return nil, errors.New("it is not JSON")
	}
	top := gjson.ParseBytes(raw)
	if !top.IsObject() {
		return nil, errors.New("it is not a JSON object")
	}
	x := &index{fields: map[string]json.RawMessage{}}
	top.ForEach(func(key, value gjson.Result) bool {
		if key.String() == "manifests" {
			return true
		}
		x.fields[key.String()] = json.RawMessage(value.Raw)
		return true
	})
	top.Get("manifests").ForEach(func(_, value gjson.Result) bool {
		x.entries = append(x.entries, parseEntry(value.Raw))
		return true
	})
	return x, nil
}

// parseEntry decodes an entry. One without an artifact type may be ours: [Store.claim] tells.
func parseEntry(raw string) entry {
	e := entry{raw: []byte(raw)}
	if json.Unmarshal(e.raw, &e.desc) != nil || e.desc.Digest.Validate() != nil {
		e.desc = v1.Descriptor{}
		return e
	}
	e.ours = e.desc.MediaType == v1.MediaTypeImageManifest && e.desc.ArtifactType == ArtifactType
	return e
}

// How the file begins. An array that begins with entryLines has each entry on a line of its own,
// so that one can be found without decoding the others.
const (
	indexHead  = "{\"schemaVersion\":2,\n\"mediaType\":\"" + v1.MediaTypeImageIndex + "\",\n\"manifests\":"
	entryLines = "[\n"
)

// bytes is the file: an entry a line, except where another program wrote one on several.
func (x *index) bytes() []byte {
	var b bytes.Buffer
	b.WriteString(indexHead)
	if slices.ContainsFunc(x.entries, func(e entry) bool { return bytes.IndexByte(e.raw, '\n') >= 0 }) {
		b.WriteByte(' ')
	}
	b.WriteString(entryLines)
	for i, e := range x.entries {
		if i > 0 {
			b.WriteString(",\n")
		}
		b.Write(e.raw)
	}
	b.WriteString("\n]")
	for _, key := range slices.Sorted(maps.Keys(x.fields)) {
		if key != "schemaVersion" && key != "mediaType" {
			name, _ := json.Marshal(key)
			fmt.Fprintf(&b, ",\n%s:%s", name, x.fields[key])
		}
	}
	b.WriteString("}\n")
	return b.Bytes()
}

// version is one version of a label. The same bytes may be versions of several labels.
type version struct {
	label  string
	digest digest.Digest
	entry  *entry // its own, or that of a tag where it has none
	loaded *atomic.Pointer[contents]
}

// tag is a name that points to a version.
type tag struct {
	name  string
	label string // that the version belongs to
	entry *entry
	to    *version
}

// snapshot is what the index said at one moment. It does not change.
type snapshot struct {
	stamp    stamp
	index    *index
	versions []*version // those that became their label's newest last come last
	tags     []*tag
	byTag    map[string]*tag
	byDigest map[digest.Digest][]*version
	labels   map[string][]*version
	blobs    atomic.Pointer[blobTable]
	known    *blobTable // of the snapshot before, until blobs is made; guarded by Store.reading
}

// stamp tells one state of the file from another.
type stamp struct {
	size, mtime, ctime int64
	inode              uint64
	settled            bool // the file was older than the clock's step when it was read
}

// clockStep is more than the step of the clock that file systems take times from.
const clockStep = 50 * time.Millisecond

func stampOf(info fs.FileInfo) stamp {
	st := stamp{size: info.Size(), mtime: info.ModTime().UnixNano()}
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		st.inode, st.ctime = sys.Ino, sys.Ctim.Nano()
	}
	return st
}

func (a stamp) same(b stamp) bool {
	return a.settled && a.size == b.size && a.mtime == b.mtime && a.ctime == b.ctime && a.inode == b.inode
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
	raw, st, err := s.readIndex()
	if raw == nil || err != nil {
		return nil, err
	}
	x, err := parseIndex(raw)
	if err != nil {
		return nil, s.damagedIndex(err)
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
	info, err := os.Stat(s.path(v1.ImageIndexFile))
	if err != nil || !snap.stamp.same(stampOf(info)) {
		return nil
	}
	return snap
}

// readIndex reads index.json; nil, without an error, where there is no store yet.
func (s *Store) readIndex() ([]byte, stamp, error) {
	f, err := os.Open(s.path(v1.ImageIndexFile))
	if errors.Is(err, fs.ErrNotExist) {
		if exists(s.path(v1.ImageLayoutFile)) {
			return nil, stamp{}, s.noIndex()
		}
		return nil, stamp{}, nil
	}
	if err != nil {
		return nil, stamp{}, fmt.Errorf("image store: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, stamp{}, fmt.Errorf("image store: %w", err)
	}
	raw := make([]byte, info.Size())
	if n, err := f.ReadAt(raw, 0); err != nil && n < len(raw) {
		return nil, stamp{}, fmt.Errorf("image store: read %s: %w", f.Name(), err)
	}
	st := stampOf(info)
	st.settled = time.Since(info.ModTime()) > clockStep && time.Since(time.Unix(0, st.ctime)) > clockStep
	return raw, st, nil
}

func (s *Store) damagedIndex(err error) error {
	return fmt.Errorf("image store: %s is damaged (%w): put back a copy, or move %s away and build again",
		s.path(v1.ImageIndexFile), err, s.dir)
}

// claim looks into the manifests of entries without an artifact type, which a copy by other
// programs drops, and tells which of them are ours. One that cannot be read is ours if its name is
// a version's.
func (s *Store) claim(x *index, old *snapshot) {
	known := map[digest.Digest]bool{}
	if old != nil {
		for _, e := range old.index.entries {
			if e.ours {
				known[e.desc.Digest] = true
			}
		}
	}
	for i := range x.entries {
		e := &x.entries[i]
		if e.ours || e.desc.ArtifactType != "" || e.desc.MediaType != v1.MediaTypeImageManifest {
			continue
		}
		ours, seen := known[e.desc.Digest]
		if !seen {
			var m v1.Manifest
			if err := s.readBlob(e.desc, &m); err == nil {
				ours = m.ArtifactType == ArtifactType
			} else {
				_, ours = e.version()
			}
			known[e.desc.Digest] = ours
		}
		e.ours = ours
	}
}

// newSnapshot finds versions and tags. What is known of versions from the snapshot before is kept.
func newSnapshot(x *index, old *snapshot) *snapshot {
	snap := &snapshot{
		index: x, byTag: map[string]*tag{}, byDigest: map[digest.Digest][]*version{}, labels: map[string][]*version{},
	}
	place := map[string]int{} // where a version stands in versions
	add := func(label string, e *entry) *version {
		key := label + "@" + string(e.desc.Digest)
		if i, seen := place[key]; seen {
			return snap.versions[i]
		}
		v := &version{label: label, digest: e.desc.Digest, entry: e, loaded: new(atomic.Pointer[contents])}
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
	for i := range x.entries {
		e := &x.entries[i]
		if label, ok := e.version(); ok && e.ours {
			if v := add(label, e); v.entry != e {
				v.entry = e // of several entries with one name the last counts
			}
		}
	}
	for i := range x.entries {
		e := &x.entries[i]
		if _, ok := e.version(); !e.ours || ok || e.name() == "" {
			continue
		}
		label := labelOf(e, snap)
		t := &tag{name: e.name(), label: label, entry: e, to: add(label, e)}
		if snap.byTag[t.name] == nil {
			snap.tags = append(snap.tags, t)
			snap.byTag[t.name] = t
		} else {
			*snap.byTag[t.name] = *t
		}
	}
	for i := range x.entries {
		if e := &x.entries[i]; e.ours && e.name() == "" && snap.byDigest[e.desc.Digest] == nil {
			add(e.desc.Annotations[annotationLabel], e)
		}
	}
	return snap
}

// labelOf is the label of the version that a tag points to: the one that its entry names, else the
// tag's own name where that is a label with this version, else the label that has the version. A
// tag of a version that belongs to no label, as it comes from another store, is its label.
func labelOf(e *entry, snap *snapshot) string {
	if label := e.desc.Annotations[annotationLabel]; label != "" {
		return label
	}
	versions := snap.byDigest[e.desc.Digest]
	if len(versions) == 0 || slices.ContainsFunc(versions, func(v *version) bool { return v.label == e.name() }) {
		return e.name()
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
		if t.entry.desc.Digest == d {
			out = append(out, t.name)
		}
	}
	slices.Sort(out)
	return out
}
