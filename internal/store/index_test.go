package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"netroot/internal/store/layout"

	"github.com/gofrs/flock"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// foreignEntries are what other programs may have in the index.
var foreignEntries = []string{
	`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:` + strings.Repeat("ab", 32) + `","size":7,"annotations":{"org.opencontainers.image.ref.name":"latest"},"artifactType":"application/vnd.example"}`,
	`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:` + strings.Repeat("cd", 32) + `","size":7,"annotations":{"org.opencontainers.image.ref.name":"not.here"}}`,
	"{ \"mediaType\" : \"application/vnd.oci.image.index.v1+json\",\n\t\"digest\":\"sha256:" + strings.Repeat("ef", 32) + "\", \"size\":1e1, \"x-unknown\":[1,{\"digest\":\"\"}]}",
	`{"digest":"sha256:../../etc/passwd"}`,
	`{"annotations":"none"}`,
	`null`,
	`[[[]]]`,
	`"debian12"`,
}

func withForeign(t *testing.T, s *Store) {
	t.Helper()
	raw, err := os.ReadFile(s.layout.Path(v1.ImageIndexFile))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(raw), `"manifests":[`, `"annotations":{"of":"another"},"manifests":[`+strings.Join(foreignEntries, ",")+",", 1)
	if err := os.WriteFile(s.layout.Path(v1.ImageIndexFile), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestForeignEntries: they stay byte for byte through every kind of change, and break nothing.
func TestForeignEntries(t *testing.T) {
	s := newStore(t)
	first := commitText(t, s, "debian12", "one")
	withForeign(t, s)
	for name, change := range changes {
		if name == "create" || name == "label" || name == "pin" {
			continue // there is no rocky9 here
		}
		if err := change(s); err != nil && !errors.Is(err, ErrNotFound) {
			t.Fatalf("%s: %v", name, err)
		}
		raw, err := os.ReadFile(s.layout.Path(v1.ImageIndexFile))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range foreignEntries {
			if !strings.Contains(string(raw), e) {
				t.Fatalf("%s: the entry is gone: %s\n%s", name, e, raw)
			}
		}
		if !strings.Contains(string(raw), `"annotations":{"of":"another"}`) {
			t.Fatalf("%s: a field of the index is gone", name)
		}
	}
	commitText(t, s, "debian12", "one")
	if im, err := At(s.Dir()).Resolve("debian12"); err != nil || im.Digest != first.Digest {
		t.Errorf("%v, %v", im, err)
	}
	for _, ref := range []string{"latest", "not.here", "abababab"} {
		if _, err := s.Resolve(ref); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	// A manifest that cannot be read may lead to any blob, so none is removed.
	if r, err := s.GC(t.Context(), Limits{}); err != nil || r.Blobs != 0 || !strings.Contains(r.Note, "abababab") {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestForeignBlobsStay: gc follows what another program's index leads to.
func TestForeignBlobsStay(t *testing.T) {
	s := newStore(t)
	commitText(t, s, "debian12", "one")
	put := func(text string) digest.Digest {
		d := digest.FromString(text)
		if err := os.WriteFile(s.layout.BlobPath(d), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return d
	}
	layer, config, orphan := put("layer"), put("{}"), put("orphan")
	manifest := put(fmt.Sprintf(`{"config":{"digest":%q},"layers":[{"digest":%q}]}`, config, layer))
	list := put(fmt.Sprintf(`{"manifests":[{"digest":%q},{"digest":"sha256:%s"}]}`, manifest, strings.Repeat("0", 64)))
	snap, err := s.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	writeEntries(t, s, append(slices.Clone(snap.index.Entries), layout.ParseEntry(fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":1}`, v1.MediaTypeImageIndex, list)))...)
	r, err := s.GC(t.Context(), Limits{Grace: time.Hour})
	if err != nil || r.Blobs != 0 {
		t.Errorf("a blob that another program may be about to refer to: %+v, %v", r, err)
	}
	r, err = s.GC(t.Context(), Limits{})
	if err != nil || r.Blobs != 1 || r.Bytes != 6 || r.Note != "" {
		t.Errorf("%+v, %v", r, err)
	}
	for d, want := range map[digest.Digest]bool{layer: true, config: true, manifest: true, list: true, orphan: false} {
		if _, err := os.Stat(s.layout.BlobPath(d)); (err == nil) != want {
			t.Errorf("%s: there is %v", d, !want)
		}
	}
}

// TestDuplicateEntries: of several entries of one name the last counts, and none costs a version.
func TestDuplicateEntries(t *testing.T) {
	s := newStore(t)
	first, second := commitText(t, s, "debian12", "one"), commitText(t, s, "debian12", "two")
	tagged := func(im *Image) layout.Entry {
		return layout.NewEntry(v1.Descriptor{MediaType: v1.MediaTypeImageManifest, ArtifactType: ArtifactType, Digest: im.Digest, Size: im.size,
			Annotations: map[string]string{v1.AnnotationRefName: "debian12"}})
	}
	writeEntries(t, s, tagged(second), tagged(first), tagged(second), tagged(first))
	for range 2 {
		for _, st := range []*Store{s, At(s.Dir())} {
			if im, err := st.Resolve("debian12"); err != nil || im.Digest != first.Digest || !im.Newest {
				t.Errorf("%v, %v", im, err)
			}
			if im, err := st.Resolve(second.Name()); err != nil || im.Digest != second.Digest || im.Newest {
				t.Errorf("%v, %v", im, err)
			}
			if list, err := st.List(); err != nil || !slices.Equal(imageNames(list), []string{first.Name(), second.Name()}) {
				t.Errorf("%v, %v", imageNames(list), err)
			}
		}
		if _, err := s.Repair(t.Context()); err != nil { // keeps them
			t.Fatal(err)
		}
	}
	third := commitText(t, s, "debian12", "three")
	raw, err := os.ReadFile(s.layout.Path(v1.ImageIndexFile))
	if err != nil || strings.Count(string(raw), `"org.opencontainers.image.ref.name":"debian12"`) != 1 {
		t.Errorf("%v\n%s", err, raw)
	}
	if list, err := s.List(); err != nil || len(list) != 3 || list[0].Digest != third.Digest {
		t.Errorf("%v, %v", imageNames(list), err)
	}
}

// oldStore makes a store as netroot wrote it before labels and packages left the configuration.
func oldStore(t *testing.T) (s *Store, name string) {
	t.Helper()
	s = newStore(t)
	put := func(mediaType, text string) v1.Descriptor {
		d := digest.FromString(text)
		if err := os.WriteFile(s.layout.BlobPath(d), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(text))}
	}
	root := put(RoleRoot.MediaType(), "an old root")
	config := put(MediaTypeConfig, `{"label":"debian11","created":"2026-01-02T03:04:05Z","kernelRelease":"5.10","rootFormat":"squashfs","packages":["bash 5.1","dash 0.5"]}`)
	manifest := put(v1.MediaTypeImageManifest, fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"artifactType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[{"mediaType":%q,"digest":%q,"size":%d,"annotations":{"vnd.netroot.role":"root"}}]}`,
		v1.MediaTypeImageManifest, ArtifactType, MediaTypeConfig, config.Digest, config.Size, root.MediaType, root.Digest, root.Size))
	index := fmt.Sprintf(`{
  "schemaVersion": 2,
  "mediaType": "application/vnd.oci.image.index.v1+json",
  "manifests": [
    {"mediaType":%[1]q,"digest":%[2]q,"size":%[3]d,"annotations":{"org.opencontainers.image.ref.name":"debian11@%.12[4]s"},"artifactType":%[5]q},
    {"mediaType":%[1]q,"digest":%[2]q,"size":%[3]d,"annotations":{"org.opencontainers.image.ref.name":"debian11"},"artifactType":%[5]q}
  ]
}
`, v1.MediaTypeImageManifest, manifest.Digest, manifest.Size, manifest.Digest.Encoded(), ArtifactType)
	if err := os.WriteFile(s.layout.Path(v1.ImageIndexFile), []byte(index), 0o644); err != nil {
		t.Fatal(err)
	}
	return At(s.Dir()), versionName("debian11", manifest.Digest)
}

func TestOldStore(t *testing.T) {
	s, name := oldStore(t)
	check := func() {
		t.Helper()
		im, err := s.Resolve("debian11")
		if err != nil || im.Name() != name || im.Config.KernelRelease != "5.10" || !im.Newest || im.Config.Packages != nil {
			t.Fatalf("%+v, %v", im, err)
		}
		if list, err := im.Packages(); err != nil || !slices.Equal(list, []string{"bash 5.1", "dash 0.5"}) {
			t.Errorf("packages %v, %v", list, err)
		}
		versions, err := s.Versions()
		if err != nil || len(versions) != 1 || versions[0].Kernel != "5.10" || versions[0].Size != 11 || versions[0].Created.Year() != 2026 || !versions[0].Newest {
			t.Errorf("%+v, %v", versions, err)
		}
		if r, err := s.Check(t.Context(), nil, nil); err != nil || r.Images != 1 || r.Blobs != 3 || r.Err() != nil {
			t.Errorf("%+v, %v", r, err)
		}
	}
	check()
	if changed, err := s.Repair(t.Context()); err != nil || !changed {
		t.Error(changed, err)
	}
	check()
	if changed, err := s.Repair(t.Context()); err != nil || changed {
		t.Error("the index was brought forward twice", err)
	}
	commitText(t, s, "debian12", "new")
	if moves, err := s.History(t.Context(), "debian11"); err != nil || moves != nil {
		t.Errorf("%v, %v", moves, err)
	}
	// An entry without a name still belongs to the label that the old configuration names.
	snap, err := s.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	desc := snap.byTag["debian11"].entry.Desc
	desc.Annotations = nil
	writeEntries(t, s, layout.NewEntry(desc))
	if im, err := s.Resolve(desc.Digest.Encoded()[:6]); err != nil || im.Name() != name {
		t.Errorf("%v, %v", im, err)
	}
}

// TestOtherNames: the same bytes are an image under any name.
func TestOtherNames(t *testing.T) {
	s := newStore(t)
	a := commitText(t, s, "debian12", "one")
	if b := commitText(t, s, "web", "one"); b.Digest != a.Digest || b.Label != "web" {
		t.Errorf("%+v", b)
	}
	for ref, want := range map[string][2]string{ // label and Ref
		"debian12": {"debian12", "debian12"}, "web": {"web", "web"}, "web@" + a.ID(): {"web", "web"}, a.ID(): {"debian12", "debian12"},
	} {
		for _, s := range []*Store{s, At(s.Dir())} {
			im, err := s.Resolve(ref)
			if err != nil || [2]string{im.Label, im.Ref} != want || !im.Newest {
				t.Errorf("%s: %+v, %v", ref, im, err)
			}
		}
	}
	if _, err := s.Tag(t.Context(), "web", "prod", ""); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Store{s, At(s.Dir())} {
		if im, err := s.Resolve("prod"); err != nil || im.Label != "web" || im.Ref != "prod" || im.Name() != "web@"+a.ID() {
			t.Errorf("%+v, %v", im, err)
		}
	}
	// A name that the configuration has a label for.
	if im, err := s.Add(t.Context(), "prod", "mail", ""); err != nil || im.Name() != "mail@"+a.ID() || !im.Newest {
		t.Errorf("%+v, %v", im, err)
	}
	if im, err := s.Resolve("mail"); err != nil || im.Label != "mail" {
		t.Errorf("%+v, %v", im, err)
	}
	// One label's version goes, the other's stays, with its blobs.
	if _, err := s.Remove(t.Context(), []string{"debian12", a.Name()}, 0, ""); err != nil {
		t.Fatal(err)
	}
	im, err := s.Resolve("web")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), im); err != nil {
		t.Error(err)
	}
	// The old name is now that of a version that the tag debian12 pointed to.
	if im, err := s.Resolve(a.Name()); err != nil || im.Name() != "web@"+a.ID() || im.Ref != "debian12" {
		t.Errorf("%+v, %v", im, err)
	}
	// A tag that is a label of the store makes the version one of that label.
	other := commitText(t, s, "rocky9", "two")
	if im, err := s.Tag(t.Context(), "rocky9", "web", ""); err != nil || im.Name() != "web@"+other.ID() {
		t.Errorf("%v, %v", im, err)
	}
	if im, err := s.Resolve("web"); err != nil || im.Digest != other.Digest || im.Label != "web" || !im.Newest {
		t.Errorf("%+v, %v", im, err)
	}
}

// TestSkopeoRenames copies an image with skopeo to another store under another name. skopeo drops
// the annotations, and some versions of it the artifact type.
func TestSkopeoRenames(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("skopeo is needed: apt install skopeo, dnf install skopeo")
		}
		t.Skip("skopeo is not installed")
	}
	src, dst := newStore(t), newStore(t)
	im := commitText(t, src, "debian12", "one")
	kept := commitText(t, dst, "rocky9", "two")
	if _, err := dst.Pin(t.Context(), "rocky9", "kept"); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), skopeo, "--insecure-policy", "--tmpdir", t.TempDir(), "copy", "--preserve-digests",
		"oci:"+src.Dir()+":debian12", "oci:"+dst.Dir()+":web")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
	}
	check := func() {
		t.Helper()
		got, err := dst.Resolve("web")
		if err != nil || got.Digest != im.Digest || got.Label != "web" || !got.Newest {
			t.Fatalf("%+v, %v", got, err)
		}
		if got, err := dst.Resolve("web@" + im.ID()); err != nil || got.Digest != im.Digest {
			t.Errorf("%v, %v", got, err)
		}
		versions, err := dst.Versions()
		if err != nil || len(versions) != 2 || versions[0].Digest != kept.Digest || versions[0].Pin != "kept" || versions[1].RootFormat != "squashfs" {
			t.Errorf("%+v, %v", versions, err)
		}
	}
	check()
	if changed, err := dst.Repair(t.Context()); err != nil || !changed {
		t.Error(changed, err)
	}
	check()
	if raw, err := os.ReadFile(dst.layout.Path(v1.ImageIndexFile)); err != nil || !strings.Contains(string(raw), `"web@`+im.ID()+`"`) {
		t.Errorf("%v\n%s", err, raw)
	}
}

// TestAt: a store that is not there yet has no images, and is picked up when it appears.
func TestAt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state", "images")
	s := At(dir)
	if _, err := s.Resolve("debian12"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "no image has been built yet") {
		t.Error(err)
	}
	if list, err := s.Versions(); list != nil || err != nil {
		t.Error(list, err)
	}
	if _, err := s.Blob(string(digest.FromString("x"))); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if _, err := s.Tag(t.Context(), "debian12", "prod", ""); err == nil || !strings.Contains(err.Error(), "no image store in") {
		t.Error(err)
	}
	if r, err := s.Check(t.Context(), nil, nil); err != nil || r.Images != 0 {
		t.Error(r, err)
	}
	made, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Resolve("debian12"); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "is empty") {
		t.Error(err)
	}
	im := commitText(t, made, "debian12", "one")
	if got, err := s.Resolve("debian12"); err != nil || got.Digest != im.Digest {
		t.Error(got, err)
	}
}

// TestBlob: a digest that no image has is known from memory, and an image that was removed is gone.
func TestBlob(t *testing.T) {
	s := newStore(t)
	first, second := commitText(t, s, "debian12", "one"), commitText(t, s, "debian12", "two")
	root := first.Manifest.Layers[0].Digest
	b, err := s.Blob(string(root))
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if b.Size() != 3 || b.Digest != root {
		t.Errorf("%+v", b)
	}
	for _, d := range []string{"", "sha256:12", "../x", string(first.Digest), string(first.Manifest.Config.Digest), string(digest.FromString("x"))} {
		if _, err := s.Blob(d); !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", d, err)
		}
	}
	// The answer for a stranger's digest is not looked for on the disk.
	if err := os.Rename(s.layout.Path("blobs"), s.layout.Path("elsewhere")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Blob(string(digest.FromString("y"))); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if err := os.Rename(s.layout.Path("elsewhere"), s.layout.Path("blobs")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Remove(t.Context(), []string{first.Name()}, 0, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Blob(string(root)); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if _, err := s.Blob(string(second.Manifest.Layers[0].Digest)); err != nil {
		t.Error(err)
	}
}

// TestBlobComesBack: a manifest that was missing when the blobs were listed is put back.
func TestBlobComesBack(t *testing.T) {
	s := newStore(t)
	im := commitText(t, s, "debian12", "one")
	part := string(im.Manifest.Layers[0].Digest)
	away := filepath.Join(t.TempDir(), "manifest")
	if err := os.Rename(s.layout.BlobPath(im.Digest), away); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Blob(part); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), im.Name()) {
		t.Errorf("%v", err)
	}
	if err := os.Rename(away, s.layout.BlobPath(im.Digest)); err != nil {
		t.Fatal(err)
	}
	b, err := s.Blob(part)
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
}

// TestIndexIsReadOnce: while the file is the same, nothing is parsed again.
func TestIndexIsReadOnce(t *testing.T) {
	s := newStore(t)
	commitText(t, s, "debian12", "one")
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(s.layout.Path(v1.ImageIndexFile), old, old); err != nil {
		t.Fatal(err)
	}
	var before *snapshot
	for deadline := time.Now().Add(10 * time.Second); ; { // the time of the change of times must be old enough, too
		snap, err := s.snapshot()
		if err != nil {
			t.Fatal(err)
		}
		if snap == before {
			break
		}
		if before = snap; time.Now().After(deadline) {
			t.Fatal("the index is parsed each time")
		}
	}
	if n := testing.AllocsPerRun(10, func() {
		if _, err := s.Resolve("debian12"); err != nil {
			t.Fatal(err)
		}
	}); n > 10 {
		t.Errorf("%v allocations", n)
	}
	commitText(t, s, "debian12", "two")
	if snap, err := s.snapshot(); err != nil || snap == before {
		t.Errorf("a change was not seen: %v", err)
	}
}

// TestCommitHashesWithoutTheLock: two builds can write at the same time.
func TestCommitHashesWithoutTheLock(t *testing.T) {
	s := newStore(t)
	seen := map[string]bool{}
	s.layout.At = func(op, path string) {
		if !strings.Contains(path, "commit-") || !strings.HasPrefix(filepath.Base(path), "part-") {
			return
		}
		l := flock.New(s.layout.Path(layout.LockFile))
		defer l.Close()
		free, err := l.TryLock()
		if err != nil || !free {
			t.Errorf("%s %s under the lock of the store: %v", op, path, err)
		}
		seen[op] = true
	}
	commitText(t, s, "debian12", "one")
	if !seen["link"] || !seen["create"] {
		t.Errorf("saw %v", seen)
	}
}

// TestCommitBesideCommit: one commit does not take the parts of another for left over.
func TestCommitBesideCommit(t *testing.T) {
	s := newStore(t)
	nested := false
	s.layout.At = func(op, path string) {
		if !nested && op == "link" {
			nested = true
			commitText(t, At(s.Dir()), "rocky9", "the other")
		}
	}
	im := commitText(t, s, "debian12", "one")
	if err := s.Verify(t.Context(), im); err != nil || !nested {
		t.Error(err, nested)
	}
	if list, err := s.List(); err != nil || len(list) != 2 {
		t.Error(imageNames(list), err)
	}
}

// TestCommitHealsBlob: a blob of the right size with other bytes is not believed.
func TestCommitHealsBlob(t *testing.T) {
	s := newStore(t)
	im := commitText(t, s, "debian12", "some root")
	for _, text := range []string{"some r00t", "some"} {
		if err := os.WriteFile(s.layout.BlobPath(im.Manifest.Layers[0].Digest), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		commitText(t, s, "debian12", "some root")
		if err := s.Verify(t.Context(), im); err != nil {
			t.Error(err)
		}
	}
}

func TestUse(t *testing.T) {
	s := newStore(t)
	first := commitText(t, s, "debian12", "one")
	commitText(t, s, "debian12", "two")
	refused := func(grace time.Duration, why string) {
		t.Helper()
		_, err := s.Remove(t.Context(), []string{first.Name()}, grace, "")
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("removed, or %v; want %q", err, why)
		}
		r, err := s.GC(t.Context(), Limits{Grace: grace})
		if err != nil || len(r.Versions) != 0 || !slices.ContainsFunc(r.Kept, func(k Kept) bool { return k.Name == first.Name() && strings.Contains(k.Why, why) }) {
			t.Errorf("%+v, %v", r, err)
		}
	}
	one, err := s.Use(first)
	if err != nil {
		t.Fatal(err)
	}
	two, err := At(s.Dir()).Use(first)
	if err != nil {
		t.Fatal(err)
	}
	one()
	one() // of no effect
	refused(0, "machines run from it")
	two()
	refused(time.Hour, "a machine was given it")

	old := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(s.usePath(first.Digest), old, old); err != nil {
		t.Fatal(err)
	}
	if err := s.Touch(first); err != nil {
		t.Fatal(err)
	}
	refused(time.Hour, "a machine was given it")
	if err := os.Chtimes(s.usePath(first.Digest), old, old); err != nil {
		t.Fatal(err)
	}
	if err := s.Touch(first); err != nil { // the second one within a minute
		t.Fatal(err)
	}
	r, err := s.Remove(t.Context(), []string{first.Name()}, time.Hour, "")
	if err != nil || len(r.Versions) != 1 || r.Blobs != 2 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := s.Use(first); !errors.Is(err, ErrNotFound) {
		t.Errorf("use of a version that is gone: %v", err)
	}
	if _, err := s.GC(t.Context(), Limits{}); err != nil {
		t.Fatal(err)
	}
	if left := files(t, s.layout.Path(layout.UseDir)); left != nil {
		t.Errorf("left %v", left)
	}
}

// TestUseEndsWithItsProcess: the kernel takes the lock of a process that was killed.
func TestUseEndsWithItsProcess(t *testing.T) {
	if dir := os.Getenv("NETROOT_TEST_USE_IN"); dir != "" {
		s := At(dir)
		im, err := s.Resolve("debian12")
		if err == nil {
			_, err = s.Use(im)
		}
		fmt.Println(err)
		select {}
	}
	s := newStore(t)
	im := commitText(t, s, "debian12", "one")
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestUseEndsWithItsProcess$")
	cmd.Env = append(os.Environ(), "NETROOT_TEST_USE_IN="+s.Dir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 5)
	if _, err := out.Read(said); err != nil || string(said) != "<nil>" {
		t.Fatalf("%q, %v", said, err)
	}
	if why, unlock := s.busy(im.Digest, 0, false); why != "machines run from it" {
		unlock()
		t.Errorf("%q", why)
	}
	cancel()
	cmd.Wait()
	why, unlock := s.busy(im.Digest, 0, false)
	if unlock(); why != "" {
		t.Errorf("%q", why)
	}
	if why, unlock := s.busy(im.Digest, time.Hour, false); !strings.Contains(why, "a machine was given it") {
		unlock()
		t.Errorf("%q", why)
	}
}

func TestGC(t *testing.T) {
	s := newStore(t)
	var all []*Image
	for _, text := range []string{"one", "two", "three", "four", "five"} {
		all = append(all, commitText(t, s, "debian12", text))
	}
	if _, err := s.Tag(t.Context(), all[0].Name(), "prod", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pin(t.Context(), all[1].Name(), "kept"); err != nil {
		t.Fatal(err)
	}
	if r, err := s.GC(t.Context(), Limits{Older: time.Hour}); err != nil || len(r.Versions) != 0 || len(r.Kept) != 5 {
		t.Errorf("%+v, %v", r, err)
	}
	dry, err := s.GC(t.Context(), Limits{Keep: 2, DryRun: true})
	if err != nil || len(dry.Versions) != 1 || dry.Versions[0].Digest != all[2].Digest || dry.Blobs != 2 {
		t.Errorf("%+v, %v", dry, err)
	}
	if _, err := s.Resolve(all[2].Name()); err != nil {
		t.Errorf("a dry run removed it: %v", err)
	}
	r, err := s.GC(t.Context(), Limits{Keep: 2})
	if diff := cmp.Diff(dry, r); err != nil || diff != "" {
		t.Errorf("%v, %s", err, diff)
	}
	if _, err := s.Resolve(all[2].Name()); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if _, err := s.Pin(t.Context(), all[1].Name(), ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.GC(t.Context(), Limits{}); err != nil {
		t.Fatal(err)
	}
	if list, err := s.List(); err != nil || !slices.Equal(imageNames(list), []string{all[4].Name(), all[0].Name()}) {
		t.Errorf("%v, %v", imageNames(list), err)
	}
	// Two manifests and roots, the configuration and the kernel.
	if got := files(t, s.layout.Path("blobs")); len(got) != 6 {
		t.Errorf("%v", got)
	}
}

// TestRemoveIsAllOrNothing also removes a version whose manifest is gone.
func TestRemoveIsAllOrNothing(t *testing.T) {
	s := newStore(t)
	first := commitText(t, s, "debian12", "one")
	second := commitText(t, s, "debian12", "two")
	if _, err := s.Remove(t.Context(), []string{first.Name(), second.Name()}, 0, ""); err == nil || !strings.Contains(err.Error(), "the tag debian12 points to it") {
		t.Error(err)
	}
	if _, err := s.Resolve(first.Name()); err != nil {
		t.Error(err)
	}
	if err := os.Remove(s.layout.BlobPath(first.Digest)); err != nil {
		t.Fatal(err)
	}
	if _, err := At(s.Dir()).Remove(t.Context(), []string{first.Name()}, 0, ""); err != nil {
		t.Error(err)
	}
	if _, err := s.GC(t.Context(), Limits{}); err != nil {
		t.Fatal(err)
	}
	if got := files(t, s.layout.Path("blobs")); len(got) != 4 {
		t.Errorf("%v", got)
	}
}

// TestDamagedConfigIsNamed: a label whose newest configuration cannot be read has an image, and older
// versions take its place.
func TestDamagedConfigIsNamed(t *testing.T) {
	s := newStore(t)
	first := commitText(t, s, "debian12", "one")
	second, err := s.Commit(t.Context(), "debian12", Config{RootFormat: "erofs", Created: time.Unix(1700000001, 0).UTC()},
		parts(t, t.TempDir(), map[Role]string{RoleRoot: "two", RoleKernel: "the same kernel"}))
	if err != nil {
		t.Fatal(err)
	}
	name := s.layout.BlobPath(second.Manifest.Config.Digest)
	for what, damage := range map[string]func() error{
		"other bytes": func() error { return os.WriteFile(name, []byte("{}"), 0o644) },
		"cut":         func() error { return os.Truncate(name, 3) },
		"gone":        func() error { return os.Remove(name) },
	} {
		if err := damage(); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		im, err := At(s.Dir()).Resolve("debian12")
		if err == nil || errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), second.ID()) || !strings.Contains(err.Error(), "other versions can be read: "+first.Name()) {
			t.Errorf("%s: %v, %v", what, im, err)
		}
	}
}

func TestCheck(t *testing.T) {
	s := newStore(t)
	first := commitText(t, s, "debian12", "one")
	second := commitText(t, s, "debian12", "two")
	var last, all int64
	if r, err := s.Check(t.Context(), nil, func(done, total int64) { last, all = done, total }); err != nil || r.Err() != nil || r.Images != 2 || last != all || all != r.Bytes {
		t.Errorf("%+v, %v, %d of %d", r, err, last, all)
	}
	if err := os.Remove(s.layout.BlobPath(first.Manifest.Layers[1].Digest)); err != nil { // the kernel of both
		t.Fatal(err)
	}
	if err := os.WriteFile(s.layout.BlobPath(second.Digest), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := s.Check(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range r.Problems {
		got = append(got, p.Part+" "+strings.Join(p.Images, ","))
		if p.File == "" || p.Reason == "" || !strings.Contains(p.Fix, "netroot build debian12") {
			t.Errorf("%+v", p)
		}
	}
	if diff := cmp.Diff([]string{"manifest " + second.Name(), "kernel " + first.Name()}, got); diff != "" {
		t.Error(diff)
	}
	if r, err := s.Check(t.Context(), []string{second.Name()}, nil); err != nil || r.Err() == nil || r.Images != 1 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := s.Check(t.Context(), []string{"nosuch"}, nil); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Check(ctx, nil, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	// What can be had in place of a damaged one is named.
	if _, err := At(s.Dir()).Resolve("debian12"); err == nil || !strings.Contains(err.Error(), "other versions can be read: "+first.Name()) {
		t.Error(err)
	}
}

// FuzzIndex reads an index of strange bytes, and writes it again.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"manifests":[`+strings.Join(foreignEntries, ",")+`],"x":1}`), "debian12")
	f.Add([]byte(`{"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/vnd.netroot.image.v1","digest":"sha256:`+strings.Repeat("ab", 32)+`","annotations":{"org.opencontainers.image.ref.name":"debian12"}}]}`), "debian12")
	f.Add([]byte(`{"manifests":{"a":[1]}}`), "a@abab")
	f.Add([]byte(`[`), "")
	f.Fuzz(func(t *testing.T, raw []byte, ref string) {
		s := quickStore(t)
		if err := os.WriteFile(s.layout.Path(v1.ImageIndexFile), raw, 0o644); err != nil {
			t.Fatal(err)
		}
		s.Resolve(ref)
		s.Versions()
		s.Check(t.Context(), nil, nil)
		x, err := layout.Parse(raw)
		if err != nil {
			return
		}
		again, err := layout.Parse(x.Bytes())
		if err != nil {
			t.Fatalf("%v\n%s", err, x.Bytes())
		}
		if len(again.Entries) != len(x.Entries) {
			t.Errorf("%d entries became %d", len(x.Entries), len(again.Entries))
		}
		s.Repair(t.Context())
		s.GC(t.Context(), Limits{})
	})
}
