package layout

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tidwall/gjson"
)

// ArtifactType is that of our images, in their manifests and in their entries.
const ArtifactType = "application/vnd.netroot.image.v1"

// Index is index.json. What is not ours in it stays as it was written.
type Index struct {
	Fields  map[string]json.RawMessage // the top level without the entries
	Entries []Entry
}

// Entry is one element of the index.
type Entry struct {
	Raw  []byte // as it is written
	Desc v1.Descriptor
	Ours bool // an image of ours, by its artifact type or, where that is missing, by its manifest
}

// Name is what the entry is called; empty where it has no name.
func (e *Entry) Name() string { return e.Desc.Annotations[v1.AnnotationRefName] }

// Version is the label whose version the entry is; false for a tag and an entry without a name.
func (e *Entry) Version() (label string, ok bool) {
	i := strings.LastIndexByte(e.Name(), '@')
	if i < 1 {
		return "", false
	}
	id := strings.TrimPrefix(e.Name()[i+1:], string(digest.SHA256)+":")
	return e.Name()[:i], len(id) >= 12 && strings.HasPrefix(e.Desc.Digest.Encoded(), id)
}

// NewEntry makes the entry of a manifest.
func NewEntry(desc v1.Descriptor) Entry {
	e := Entry{Desc: desc, Ours: true}
	e.Raw, _ = json.Marshal(desc) // a Descriptor holds nothing that JSON does not have
	return e
}

// Annotated is the entry with other annotations and our artifact type. Fields that this program
// does not know stay.
func (e Entry) Annotated(annotations map[string]string) Entry {
	if e.Desc.ArtifactType == ArtifactType && maps.Equal(e.Desc.Annotations, annotations) {
		return e
	}
	e.Desc.Annotations, e.Desc.ArtifactType = annotations, ArtifactType
	fields := map[string]json.RawMessage{}
	if json.Unmarshal(e.Raw, &fields) != nil {
		return NewEntry(e.Desc)
	}
	fields["annotations"], _ = json.Marshal(annotations)
	fields["artifactType"], _ = json.Marshal(ArtifactType)
	e.Raw, _ = json.Marshal(fields)
	return e
}

// With is a copy of the entry's annotations that says more; an empty value removes the key.
func (e *Entry) With(more map[string]string) map[string]string {
	out := map[string]string{}
	maps.Copy(out, e.Desc.Annotations)
	maps.Copy(out, more)
	maps.DeleteFunc(out, func(_, v string) bool { return v == "" })
	return out
}

// Parse reads index.json. Entries that cannot be understood are kept, and are not ours.
func Parse(raw []byte) (*Index, error) {
	if !json.Valid(raw) { // gjson's own check has no limit of depth
		return nil, errors.New("it is not JSON")
	}
	top := gjson.ParseBytes(raw)
	if !top.IsObject() {
		return nil, errors.New("it is not a JSON object")
	}
	x := &Index{Fields: map[string]json.RawMessage{}}
	top.ForEach(func(key, value gjson.Result) bool {
		if key.String() == "manifests" {
			return true
		}
		x.Fields[key.String()] = json.RawMessage(value.Raw)
		return true
	})
	top.Get("manifests").ForEach(func(_, value gjson.Result) bool {
		x.Entries = append(x.Entries, ParseEntry(value.Raw))
		return true
	})
	return x, nil
}

// ParseEntry decodes an entry. One without an artifact type may be ours: its manifest tells.
func ParseEntry(raw string) Entry {
	e := Entry{Raw: []byte(raw)}
	if json.Unmarshal(e.Raw, &e.Desc) != nil || e.Desc.Digest.Validate() != nil {
		e.Desc = v1.Descriptor{}
		return e
	}
	e.Ours = e.Desc.MediaType == v1.MediaTypeImageManifest && e.Desc.ArtifactType == ArtifactType
	return e
}

// How the file begins. An array that begins with entryLines has each entry on a line of its own,
// so that one can be found without decoding the others.
const (
	indexHead  = "{\"schemaVersion\":2,\n\"mediaType\":\"" + v1.MediaTypeImageIndex + "\",\n\"manifests\":"
	entryLines = "[\n"
)

// Bytes is the file: an entry a line, except where another program wrote one on several.
func (x *Index) Bytes() []byte {
	var b bytes.Buffer
	b.WriteString(indexHead)
	if slices.ContainsFunc(x.Entries, func(e Entry) bool { return bytes.IndexByte(e.Raw, '\n') >= 0 }) {
		b.WriteByte(' ')
	}
	b.WriteString(entryLines)
	for i, e := range x.Entries {
		if i > 0 {
			b.WriteString(",\n")
		}
		b.Write(e.Raw)
	}
	b.WriteString("\n]")
	for _, key := range slices.Sorted(maps.Keys(x.Fields)) {
		if key != "schemaVersion" && key != "mediaType" {
			name, _ := json.Marshal(key)
			fmt.Fprintf(&b, ",\n%s:%s", name, x.Fields[key])
		}
	}
	b.WriteString("}\n")
	return b.Bytes()
}

// refName is the path of an entry's name.
var refName = "annotations." + strings.ReplaceAll(v1.AnnotationRefName, ".", `\.`)

// Named finds the entries of that name without decoding the others. It finds none in an index that
// another program has written, or whose name JSON escapes: the caller then decodes it all.
func Named(raw []byte, name string) iter.Seq[Entry] {
	return func(yield func(Entry) bool) {
		for line := range linesWith(lines(raw), strconv.Quote(name)) {
			if gjson.GetBytes(line, refName).String() != name {
				continue
			}
			if e := ParseEntry(string(line)); e.Name() == name && !yield(e) {
				return
			}
		}
	}
}

// lines are the entries of an index that has each on a line of its own; nil where another program
// has written it.
func lines(raw []byte) []byte {
	rest, ok := bytes.CutPrefix(raw, []byte(indexHead+entryLines))
	if !ok {
		return nil
	}
	end := bytes.Index(rest, []byte("\n]"))
	if end < 0 {
		return nil
	}
	return rest[:end]
}

// linesWith are the lines that contain text, without the comma at the end.
func linesWith(raw []byte, text string) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for at := 0; ; {
			i := bytes.Index(raw[at:], []byte(text))
			if i < 0 {
				return
			}
			i += at
			start, end := bytes.LastIndexByte(raw[:i], '\n')+1, len(raw)
			if n := bytes.IndexByte(raw[i:], '\n'); n >= 0 {
				end = i + n
			}
			if !yield(bytes.TrimSuffix(raw[start:end], []byte(","))) {
				return
			}
			at = end
		}
	}
}
