package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"netroot/internal/store/layout"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := Create(filepath.Join(t.TempDir(), "images"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// quickStore is a store in memory, where there is some to have.
func quickStore(t *testing.T) *Store {
	t.Helper()
	s, err := Create(filepath.Join(quickDir(t), "images"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// parts writes one file for each role; content is the same for equal arguments.
func parts(t *testing.T, dir string, content map[Role]string) []Part {
	t.Helper()
	var out []Part
	for _, role := range []Role{RoleRoot, RoleKernel, RoleInitramfs} {
		if text, ok := content[role]; ok {
			path := filepath.Join(dir, string(role))
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			out = append(out, Part{role, path})
		}
	}
	return out
}

func commitText(t *testing.T, s *Store, label, text string) *Image {
	t.Helper()
	im, err := s.Commit(t.Context(), label, Config{RootFormat: "squashfs", Created: time.Unix(1700000000, 0).UTC()},
		parts(t, t.TempDir(), map[Role]string{RoleRoot: text, RoleKernel: "the same kernel"}))
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func imageNames(images []*Image) []string {
	var out []string
	for _, im := range images {
		out = append(out, im.Name())
	}
	return out
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			out = append(out, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCommit(t *testing.T) {
	s, src := newStore(t), t.TempDir()
	cfg := Config{Architecture: "amd64", KernelRelease: "6.1.0-56-amd64", RootFormat: "squashfs",
		TreeSize: 12, Packages: []string{"base-files 12.4"}, Created: time.Unix(1700000000, 0).UTC()}
	in := parts(t, src, map[Role]string{RoleRoot: "packed root", RoleKernel: "kernel"})
	im, err := s.Commit(t.Context(), "debian12", cfg, in)
	if err != nil {
		t.Fatal(err)
	}
	if left := files(t, src); left != nil {
		t.Errorf("parts were not moved: %v", left)
	}
	if left := files(t, s.layout.Path(layout.TempDir)); left != nil {
		t.Errorf("left in %s: %v", layout.TempDir, left)
	}
	if im.Name() != "debian12@"+im.Digest.Encoded()[:12] || len(im.ID()) != 12 || im.Size() != int64(len("packed rootkernelbase-files 12.4\n")) {
		t.Errorf("image is %s, %d bytes", im.Name(), im.Size())
	}

	again, err := Open(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	got, err := again.Resolve("debian12")
	if err != nil {
		t.Fatal(err)
	}
	if list, err := got.Packages(); err != nil || !slices.Equal(list, cfg.Packages) {
		t.Errorf("packages: %v, %v", list, err)
	}
	cfg.Packages = nil
	if diff := cmp.Diff(cfg, got.Config); diff != "" {
		t.Errorf("configuration changed on its way:\n%s", diff)
	}
	if diff := cmp.Diff(im.Manifest, got.Manifest); diff != "" {
		t.Errorf("manifest changed on its way:\n%s", diff)
	}
	if layer := got.Manifest.Layers[0]; layer.Annotations[v1.AnnotationTitle] != "root.squashfs" || layer.MediaType != "application/vnd.netroot.image.root.v1" {
		t.Errorf("root layer is %+v", layer)
	}
	b, ok, err := got.Blob(RoleRoot)
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	defer b.Close()
	raw, err := io.ReadAll(io.NewSectionReader(b, 0, b.Size()))
	if err != nil || string(raw) != "packed root" || b.Digest.Validate() != nil {
		t.Errorf("root reads %q, %v, %s", raw, err, b.Digest)
	}
	if _, ok, err := got.Blob(RoleInitramfs); ok || err != nil {
		t.Errorf("a part that is not there: %v, %v", ok, err)
	}
	if err := again.Verify(t.Context(), got); err != nil {
		t.Error(err)
	}
}

func TestVersions(t *testing.T) {
	s := newStore(t)
	first := commitText(t, s, "debian12", "one")
	second := commitText(t, s, "debian12", "two")
	other := commitText(t, s, "rocky9", "three")
	if same := commitText(t, s, "rocky9", "three"); same.Digest != other.Digest {
		t.Errorf("the same bytes became another image: %s, %s", same.Name(), other.Name())
	}
	// Three manifests, one configuration, as names are not in it, three roots and the one kernel.
	if got := len(files(t, s.layout.Path(v1.ImageBlobsDir))); got != 3+1+3+1 {
		t.Errorf("%d blobs: %v", got, files(t, s.layout.Path(v1.ImageBlobsDir)))
	}

	for ref, want := range map[string]*Image{
		"debian12": second, "rocky9": other,
		first.Name(): first, "debian12@" + first.ID()[:4]: first, first.ID(): first,
		string(first.Digest): first, "debian12@" + string(second.Digest): second,
	} {
		im, err := s.Resolve(ref)
		if err != nil {
			t.Errorf("Resolve(%s): %v", ref, err)
		} else if im.Digest != want.Digest {
			t.Errorf("Resolve(%s) = %s, want %s", ref, im.Name(), want.Name())
		}
	}
	list, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{second.Name(), first.Name(), other.Name()}, imageNames(list)); diff != "" {
		t.Error(diff)
	}
	for ref, want := range map[string]string{
		"debain12":               `no such image: debain12; did you mean "debian12"?`,
		"zzz":                    "there are debian12, rocky9",
		"debian12@ffffffffffff":  "there are debian12@",
		"rocky9@" + first.ID():   "there are rocky9@",
		"debian12@" + "":         "there are debian12@",
		"sha256:" + "0000000000": "no such image",
	} {
		_, err := s.Resolve(ref)
		if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), want) {
			t.Errorf("Resolve(%s): %v, want %q", ref, err, want)
		}
	}

	// Back to the first version's bytes: the tag moves, nothing is added.
	commitText(t, s, "debian12", "one")
	if im, err := s.Resolve("debian12"); err != nil || im.Digest != first.Digest {
		t.Errorf("tag did not move back: %v, %v", im, err)
	}
	if list, _ := s.List(); len(list) != 3 {
		t.Errorf("images: %v", imageNames(list))
	}
}

func TestReadableByAll(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	s := newStore(t)
	release, err := s.Use(commitText(t, s, "debian12", "one"))
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	err = filepath.WalkDir(s.Dir(), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o644)
		if d.IsDir() {
			want = 0o755
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestCommitRefuses(t *testing.T) {
	s, dir := newStore(t), t.TempDir()
	good := parts(t, dir, map[Role]string{RoleRoot: "root"})
	empty := filepath.Join(dir, "empty")
	if err := os.WriteFile(empty, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		label string
		parts []Part
		want  string
	}{
		"label":   {"Debian 12", good, "lower-case"},
		"nothing": {"a", nil, "no parts"},
		"twice":   {"a", append(good, good...), `role "root"`},
		"missing": {"a", append(good, Part{RoleKernel, filepath.Join(dir, "nowhere")}), "nowhere"},
		"empty":   {"a", append(good, Part{RoleKernel, empty}), "is empty"},
		"dir":     {"a", append(good, Part{RoleKernel, dir}), "not a file"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := s.Commit(t.Context(), tt.label, Config{}, tt.parts); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
			if raw, err := os.ReadFile(good[0].Path); err != nil || string(raw) != "root" {
				t.Errorf("the failed commit took the part: %v", err)
			}
			if left := files(t, s.layout.Path(layout.TempDir)); left != nil {
				t.Errorf("left: %v", left)
			}
		})
	}
	if blobs := files(t, s.layout.Path(v1.ImageBlobsDir)); blobs != nil {
		t.Errorf("failed commits left %v", blobs)
	}
}

func TestCopyFromAnotherFileSystem(t *testing.T) {
	src, err := os.MkdirTemp("/dev/shm", "netroot-store-test")
	if err != nil {
		t.Skip(err)
	}
	defer os.RemoveAll(src)
	s := newStore(t)
	if err := os.WriteFile(filepath.Join(src, "x"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if os.Link(filepath.Join(src, "x"), s.layout.Path("x")) == nil {
		t.Skip("/dev/shm and the temporary directory are one file system")
	}
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	path := filepath.Join(src, "root")
	if err := os.WriteFile(path, big, 0o600); err != nil {
		t.Fatal(err)
	}
	im, err := s.Commit(t.Context(), "a", Config{}, []Part{{RoleRoot, path}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), im); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the part is still there: %v", err)
	}
}

func TestDamage(t *testing.T) {
	s := newStore(t)
	whole := commitText(t, s, "whole", "whole")
	im := commitText(t, s, "debian12", "some root")
	root := s.layout.BlobPath(im.Manifest.Layers[0].Digest)

	if err := os.WriteFile(root, []byte("some r00t"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), im); err == nil || !strings.Contains(err.Error(), root) {
		t.Errorf("Verify of changed bytes: %v", err)
	}
	if err := os.WriteFile(root, []byte("some"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), im); err == nil || !strings.Contains(err.Error(), "has 4 bytes and should have 9") {
		t.Errorf("Verify of a short blob: %v", err)
	}
	if _, ok, err := im.Blob(RoleRoot); !ok || err == nil || !strings.Contains(err.Error(), im.Name()) {
		t.Errorf("Blob of a short blob: %v", err)
	}
	commitText(t, s, "debian12", "some root")
	if err := s.Verify(t.Context(), im); err != nil {
		t.Errorf("the same commit did not heal the blob: %v", err)
	}

	if err := os.Remove(s.layout.BlobPath(im.Digest)); err != nil {
		t.Fatal(err)
	}
	s = At(s.Dir()) // which has read nothing yet
	list, err := s.List()
	if len(list) != 1 || err == nil || !strings.Contains(err.Error(), im.ID()) {
		t.Errorf("List with one manifest missing: %v, %v", imageNames(list), err)
	}
	if got, err := s.Resolve("whole"); err != nil || got.Digest != whole.Digest {
		t.Errorf("a damaged neighbour hides a good image: %v", err)
	}
	if _, err := s.Resolve("debian12"); err == nil || !strings.Contains(err.Error(), im.ID()) {
		t.Errorf("Resolve of the damaged one: %v", err)
	}
}

func TestOpenErrors(t *testing.T) {
	broken := func(name, text string) func(t *testing.T) string {
		return func(t *testing.T) string {
			s := newStore(t)
			path := s.layout.Path(name)
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			return s.Dir()
		}
	}
	for name, tt := range map[string]struct {
		dir  func(t *testing.T) string
		want string
	}{
		"missing":       {func(t *testing.T) string { return filepath.Join(t.TempDir(), "nowhere") }, "no image store in"},
		"empty":         {func(t *testing.T) string { return t.TempDir() }, "build an image first"},
		"layout":        {broken("oci-layout", "{"), "oci-layout is damaged"},
		"version":       {broken("oci-layout", `{"imageLayoutVersion":"9.0"}`), `"9.0"`},
		"index":         {broken("index.json", `{"manifests":[`), "index.json is damaged"},
		"missing index": {func(t *testing.T) string { s := newStore(t); os.Remove(s.layout.Path("index.json")); return s.Dir() }, "index.json is missing"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(tt.dir(t))
			if err == nil {
				_, err = s.Versions()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, "letter.txt"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(home); err == nil || !strings.Contains(err.Error(), "letter.txt") {
		t.Errorf("Create over foreign files: %v", err)
	}
	if got := files(t, home); len(got) != 1 {
		t.Errorf("Create left %v", got)
	}
}

func TestUnwritable(t *testing.T) {
	s := newStore(t)
	part := parts(t, t.TempDir(), map[Role]string{RoleRoot: "root"})
	t.Cleanup(func() { os.Chmod(s.Dir(), 0o755) })
	errs := make(chan error, 1)
	// The goroutine ends with its thread locked, so the thread, whose file
	// system user is nobody, ends with it.
	go func() {
		runtime.LockOSThread()
		if os.Getuid() == 0 {
			unix.Setfsuid(65534)
		} else {
			os.Chmod(s.Dir(), 0o555)
			os.Chmod(s.layout.Path(layout.LockFile), 0o444)
		}
		_, err := s.Commit(context.Background(), "a", Config{}, part)
		errs <- err
	}()
	err := <-errs
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), s.Dir()+" cannot be written") || !strings.Contains(err.Error(), "run as") {
		t.Errorf("error %v", err)
	}
}

func TestCommitWaitsForItsTurn(t *testing.T) {
	s := newStore(t)
	unlock, err := s.layout.Lock(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	part := parts(t, t.TempDir(), map[Role]string{RoleRoot: "root"})
	if _, err := s.Commit(ctx, "a", Config{}, part); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), layout.LockFile) {
		t.Errorf("commit beside a lock: %v", err)
	}
	unlock()

	var wg sync.WaitGroup
	for i := range 4 {
		dir := t.TempDir()
		part := parts(t, dir, map[Role]string{RoleRoot: strings.Repeat("x", i+1)})
		wg.Go(func() {
			if _, err := s.Commit(t.Context(), "a", Config{}, part); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if list, err := s.List(); err != nil || len(list) != 4 {
		t.Errorf("%v, %v", imageNames(list), err)
	}
}

// TestKilledCommit kills a process that commits without end, at moments that
// nobody chose, and looks at what it left.
func TestKilledCommit(t *testing.T) {
	if dir := os.Getenv("NETROOT_TEST_COMMIT_IN"); dir != "" {
		commitForever(dir)
	}
	s := newStore(t)
	for round := range 4 {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledCommit$")
		cmd.Env = append(os.Environ(), "NETROOT_TEST_COMMIT_IN="+s.Dir())
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		io.ReadFull(out, make([]byte, 3+round)) // as many commits
		cmd.Process.Kill()
		cmd.Wait()

		again, err := Create(s.Dir())
		if err != nil {
			t.Fatal(err)
		}
		checkWhole(t, again)
	}
}

func commitForever(dir string) {
	s, err := Open(dir)
	for i := 0; err == nil; i++ {
		path := filepath.Join(filepath.Dir(dir), "part")
		os.WriteFile(path, bytes.Repeat([]byte{byte(i), byte(os.Getpid()), byte(os.Getpid() >> 8)}, 4096), 0o644)
		_, err = s.Commit(context.Background(), "a", Config{Created: time.Now()}, []Part{{RoleRoot, path}})
		os.Stdout.WriteString(".")
	}
	os.Stderr.WriteString(err.Error())
	os.Exit(1)
}

// writeEntries makes an index of these entries.
func writeEntries(t testing.TB, s *Store, entries ...layout.Entry) {
	t.Helper()
	if err := os.WriteFile(s.layout.Path(v1.ImageIndexFile), (&layout.Index{Entries: entries}).Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

// checkWhole wants every image whole, and no blob that belongs to none.
func checkWhole(t *testing.T, s *Store) {
	t.Helper()
	images, err := s.List()
	if err != nil || len(images) == 0 {
		t.Fatal(images, err)
	}
	var want []string
	for _, im := range images {
		if err := s.Verify(t.Context(), im); err != nil {
			t.Error(err)
		}
		want = append(want, im.Digest.Encoded(), im.Manifest.Config.Digest.Encoded(), im.Manifest.Layers[0].Digest.Encoded())
	}
	slices.Sort(want)
	if diff := cmp.Diff(slices.Compact(want), files(t, s.layout.Path("blobs/sha256"))); diff != "" {
		t.Errorf("blobs that no image has:\n%s", diff)
	}
	if left := files(t, s.layout.Path(layout.TempDir)); left != nil {
		t.Errorf("left %v", left)
	}
}

// TestTakeBack puts a store into the state between the renames and the index.
func TestTakeBack(t *testing.T) {
	s := newStore(t)
	kept := commitText(t, s, "debian12", "one")
	before := files(t, s.layout.Path(v1.ImageBlobsDir))
	index, err := os.ReadFile(s.layout.Path(v1.ImageIndexFile))
	if err != nil {
		t.Fatal(err)
	}
	lost := commitText(t, s, "debian12", "two")
	// As an earlier version wrote it.
	todo, err := json.Marshal(map[string]any{"manifest": lost.Digest, "added": []digest.Digest{lost.Digest, lost.Manifest.Layers[0].Digest}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.layout.Path(v1.ImageIndexFile), index, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.layout.Path(layout.TempDir+"/"+"pending.json"), todo, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.layout.Path(layout.TempDir+"/part-1"), []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(s.Dir()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, files(t, s.layout.Path(v1.ImageBlobsDir))); diff != "" {
		t.Error(diff)
	}
	if err := s.Verify(t.Context(), kept); err != nil {
		t.Error(err)
	}
}

func TestSkopeoCopies(t *testing.T) {
	skopeo, err := exec.LookPath("skopeo")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("skopeo is needed: apt install skopeo, dnf install skopeo")
		}
		t.Skip("skopeo is not installed")
	}
	s := newStore(t)
	first := commitText(t, s, "debian12", "one")
	second := commitText(t, s, "debian12", "two")
	dst := filepath.Join(t.TempDir(), "copy")
	for ref, want := range map[string]*Image{"debian12": second, first.Name(): first} {
		cmd := exec.CommandContext(t.Context(), skopeo, "--insecure-policy", "--tmpdir", t.TempDir(), "copy", "--preserve-digests",
			"oci:"+s.Dir()+":"+ref, "oci:"+dst+":"+ref)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd.Args, err, out)
		}
		c, err := Open(dst)
		if err != nil {
			t.Fatal(err)
		}
		im, err := c.Resolve(ref)
		if err != nil {
			t.Fatal(err)
		}
		if im.Digest != want.Digest {
			t.Errorf("%s arrived as %s", want.Name(), im.Name())
		}
		if err := c.Verify(t.Context(), im); err != nil {
			t.Error(err)
		}
	}
}

// FuzzManifest gives the store a manifest, and an index entry, of strange bytes.
func FuzzManifest(f *testing.F) {
	good := v1.Manifest{ArtifactType: ArtifactType, Config: v1.Descriptor{Digest: "sha256:12", Size: 3}}
	raw, err := json.Marshal(good)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw, "debian12")
	f.Add([]byte(`{"artifactType":"application/vnd.netroot.image.v1","config":{"digest":"sha256:../../x"}}`), "a@b")
	f.Add([]byte(`{"layers":[null]}`), "")
	f.Fuzz(func(t *testing.T, manifest []byte, ref string) {
		s := quickStore(t)
		d := digest.FromBytes(manifest)
		if err := os.WriteFile(s.layout.BlobPath(d), manifest, 0o644); err != nil {
			t.Fatal(err)
		}
		writeEntries(t, s, layout.NewEntry(v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: d, Size: int64(len(manifest)),
			Annotations: map[string]string{v1.AnnotationRefName: ref}}))
		images, err := s.List()
		if len(images) != 0 && err != nil {
			t.Errorf("both an image and an error for one entry: %v, %v", imageNames(images), err)
		}
		if _, err := s.Resolve(ref); err == nil && len(images) == 0 {
			t.Errorf("Resolve(%q) found an image where List finds none", ref)
		}
	})
}
