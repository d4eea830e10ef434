package layout

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func newLayout(t testing.TB) *Layout {
	t.Helper()
	l := &Layout{Dir: filepath.Join(t.TempDir(), "images")}
	if err := l.Create(); err != nil {
		t.Fatal(err)
	}
	return l
}

// staged is a file in a stage that may become the blob of its bytes.
func staged(t testing.TB, l *Layout, text string) File {
	t.Helper()
	dir, remove, err := l.Stage(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := remove(); err != nil {
			t.Error(err)
		}
	})
	f := File{Path: filepath.Join(dir, "part-1"), Digest: digest.FromString(text)}
	if err := os.WriteFile(f.Path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return f
}

// named is the entry of a blob.
func named(name string, d digest.Digest) Entry {
	return NewEntry(v1.Descriptor{MediaType: "application/octet-stream", Digest: d, Annotations: map[string]string{v1.AnnotationRefName: name}})
}

func apply(t testing.TB, l *Layout, c Change) error {
	t.Helper()
	unlock, err := l.Lock(t.Context())
	if err != nil {
		return err
	}
	defer unlock()
	return l.Apply(t.Context(), c)
}

func TestCreate(t *testing.T) {
	missing := &Layout{Dir: filepath.Join(t.TempDir(), "images")}
	if err := missing.Open(); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	// A file system of its own.
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	l := &Layout{Dir: dir}
	for range 2 {
		if err := l.Create(); err != nil {
			t.Error(err)
		}
		if err := l.Open(); err != nil {
			t.Error(err)
		}
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "thesis.tex"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := (&Layout{Dir: other}).Create(); err == nil || !strings.Contains(err.Error(), "thesis.tex") {
		t.Errorf("made a store in a directory of somebody else: %v", err)
	}
}

func TestChange(t *testing.T) {
	l := newLayout(t)
	one, two := staged(t, l, "one"), staged(t, l, "two")
	now := time.Unix(1700000000, 0).UTC()
	err := apply(t, l, Change{Index: &Index{Entries: []Entry{named("a", one.Digest)}}, Add: []File{one},
		Moves: []TagMove{{Tag: "a", Move: Move{Time: now, To: one.Digest}}}})
	if err != nil {
		t.Fatal(err)
	}
	err = apply(t, l, Change{Index: &Index{Entries: []Entry{named("a", two.Digest)}}, Add: []File{two}, Drop: []digest.Digest{one.Digest, two.Digest},
		Moves: []TagMove{{Tag: "a", Move: Move{Time: now, From: one.Digest, To: two.Digest}}}})
	if err != nil {
		t.Fatal(err)
	}
	if blobs, err := l.Blobs(); err != nil || len(blobs) != 1 || blobs[0].Digest != two.Digest {
		t.Errorf("%+v, %v", blobs, err)
	}
	if moves, err := l.Moves(t.Context(), "a"); err != nil || len(moves) != 2 || moves[1].To != two.Digest {
		t.Errorf("%+v, %v", moves, err)
	}
}

// TestDamagedIndexStopsRecovery: while it is not known what the index leads to, nothing is removed.
func TestDamagedIndexStopsRecovery(t *testing.T) {
	l := newLayout(t)
	one := staged(t, l, "one")
	if err := apply(t, l, Change{Index: &Index{Entries: []Entry{named("a", one.Digest)}}, Add: []File{one}}); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(pending{Index: "of another change", Blobs: []digest.Digest{one.Digest}})
	if err != nil {
		t.Fatal(err)
	}
	path := l.Path(filepath.Join(TempDir, pendingFile))
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(l.Path(v1.ImageIndexFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "{", `{"manifests":[`, "[]"} {
		if err := os.WriteFile(l.Path(v1.ImageIndexFile), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Lock(t.Context()); err == nil || !strings.Contains(err.Error(), "is damaged") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := os.WriteFile(l.Path(v1.ImageIndexFile), whole, 0o644); err != nil {
		t.Fatal(err)
	}
	unlock, err := l.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	if f, err := l.OpenBlob(v1.Descriptor{Digest: one.Digest, Size: 3}); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the change is still pending")
	}
}

// TestJournalPath: a tag of another program may have any name, and stays in the directory.
func TestJournalPath(t *testing.T) {
	l := newLayout(t)
	seen := map[string]bool{}
	for _, tag := range []string{"a", "../a", "/etc/passwd", "..", ".", "", "a/b", "a%2Fb", "a\x00b", "a\nb", strings.Repeat("x", 5000), strings.Repeat("x", 5001)} {
		path := l.JournalPath(tag)
		if filepath.Dir(path) != l.Path(JournalDir) || len(filepath.Base(path)) > 255 || seen[path] {
			t.Errorf("%.20q: %s", tag, path)
		}
		seen[path] = true
		unlock, err := l.Lock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := l.record([]TagMove{{Tag: tag, Move: Move{Time: time.Now(), To: digest.FromString("x")}}}); err != nil {
			t.Errorf("%.20q: %v", tag, err)
		}
		unlock()
	}
}

func TestEntryVersion(t *testing.T) {
	d := digest.FromString("x")
	for name, want := range map[string]string{
		"debian12@" + d.Encoded()[:12]: "debian12", "a@b@" + d.Encoded()[:12]: "a@b", "a@" + string(d): "a",
		"debian12": "", "": "", "@" + d.Encoded()[:12]: "", "a@" + d.Encoded()[:11]: "", "a@000000000000": "",
	} {
		e := named(name, d)
		if got, ok := e.Version(); ok != (want != "") || ok && got != want {
			t.Errorf("%q: %q, %v", name, got, ok)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"manifests":[{"mediaType":"x","digest":"sha256:1","extra":{"a":[1]}},7,null],"x":1}`))
	f.Add([]byte("{\"manifests\":[{\n\"digest\":\"sha256:" + strings.Repeat("ab", 32) + "\"}]}"))
	f.Add([]byte(`{"manifests":{"a":[1]}}`))
	f.Add([]byte(`[`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		x, err := Parse(raw)
		if err != nil {
			return
		}
		again, err := Parse(x.Bytes())
		if err != nil {
			t.Fatalf("%v\n%s", err, x.Bytes())
		}
		if len(again.Entries) != len(x.Entries) {
			t.Fatalf("%d entries became %d", len(x.Entries), len(again.Entries))
		}
		for i := range x.Entries {
			if string(x.Entries[i].Raw) != string(again.Entries[i].Raw) {
				t.Errorf("%s became %s", x.Entries[i].Raw, again.Entries[i].Raw)
			}
		}
	})
}

func TestNamed(t *testing.T) {
	one, two := digest.FromString("one"), digest.FromString("two")
	x := &Index{Entries: []Entry{named("a", one), named("b", one), named("a", two), named("a\n", one)}}
	for name, want := range map[string]int{"a": 2, "b": 1, "c": 0, "": 0, v1.AnnotationRefName: 0} {
		n := 0
		for e := range Named(x.Bytes(), name) {
			if n++; e.Name() != name {
				t.Errorf("%q: %q", name, e.Name())
			}
		}
		if n != want {
			t.Errorf("%q: %d entries, want %d", name, n, want)
		}
	}
	for range Named([]byte(`{"manifests":[{"annotations":{"org.opencontainers.image.ref.name":"a"}}]}`), "a") {
		t.Error("an index in another form has no lines")
	}
}
