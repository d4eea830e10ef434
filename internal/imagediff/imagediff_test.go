package imagediff

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netroot/internal/layer"
	"netroot/internal/store"
)

// newStore makes an empty store.
func newStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Create(filepath.Join(t.TempDir(), "images"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// commit stores an image with a root and other parts.
func commit(t *testing.T, s *store.Store, cfg store.Config, rootFile string, parts map[store.Role]string) *store.Image {
	t.Helper()
	list := []store.Part{{Role: store.RoleRoot, Path: rootFile}}
	for role, text := range parts {
		p := filepath.Join(t.TempDir(), "part")
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		list = append(list, store.Part{Role: role, Path: p})
	}
	slices.SortFunc(list, func(a, b store.Part) int { return strings.Compare(string(a.Role), string(b.Role)) })
	im, err := s.Commit(t.Context(), "node", cfg, list)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// pack runs mksquashfs with file definitions in its own language, so that the test can make devices
// and owners without root.
func pack(t *testing.T, args []string, pseudo ...string) string {
	t.Helper()
	if _, err := exec.LookPath("mksquashfs"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("mksquashfs is missing: install squashfs-tools")
		}
		t.Skip("mksquashfs is missing: install squashfs-tools")
	}
	tree, out := t.TempDir(), filepath.Join(t.TempDir(), "root.squashfs")
	for _, name := range []string{"one", "two"} {
		if err := os.WriteFile(filepath.Join(tree, name), []byte("content of both\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(tree, "one"), filepath.Join(tree, pseudo[0])); err != nil {
		t.Fatal(err)
	}
	args = append([]string{tree, out, "-quiet", "-no-progress"}, args...)
	for _, p := range pseudo[1:] {
		args = append(args, "-p", p)
	}
	if said, err := exec.Command("mksquashfs", args...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, said)
	}
	return out
}

func TestImages(t *testing.T) {
	s := newStore(t)
	old := commit(t, s, store.Config{RootFormat: "squashfs", KernelRelease: "6.1.0-9", RecipeDigest: "sha256:" + strings.Repeat("a", 64), Created: time.Unix(1, 0),
		Packages: []string{"bash 5.2", "linux 6.1.0-8", "linux 6.1.0-9", "ssh 9.2", "vim 9"}},
		pack(t, []string{"-comp", "gzip"}, "name1",
			"a\\\nb f 644 0 0 echo text", "d d 755 0 0", "d/f d 755 0 0", "d/f/g f 644 0 0 echo text", "dev d 755 0 0", "dev/disk b 660 0 6 8 0", "dev/null c 666 0 0 1 3",
			"changed f 644 0 0 echo text", "grown f 644 0 0 echo text", "link s 777 0 0 x", "mode f 644 1 1 echo text", "same f 600 5 5 echo text", "turn f 644 0 0 echo text"),
		map[store.Role]string{store.RoleKernel: "kernel", store.RoleInitramfs: "same", store.RoleInitramfsFirmware: "firmware"})
	young := commit(t, s, store.Config{RootFormat: "squashfs", KernelRelease: "6.1.0-10", Created: time.Unix(2, 0),
		Packages: []string{"linux 6.1.0-10", "linux 6.1.0-9", "ssh 9.3", "vim 9", "zsh 5.9"}},
		pack(t, []string{"-comp", "zstd", "-b", "4096"}, "name2",
			"c d 755 0 0", "c/d d 755 0 0", "c/d/e f 644 0 0 echo text", "c/f f 644 0 0 echo text", "d d 1777 0 0", "d/e d 755 0 0", "dev d 755 0 7", "dev/disk b 660 0 6 8 1", "dev/null c 666 0 0 1 3",
			"changed f 644 0 0 echo tixt", "grown f 644 0 0 echo textmore", "link s 777 0 0 y", "mode f 4755 1 2 echo text", "new-link s 777 0 0 z", "same f 600 5 5 echo text", "turn d 755 0 0"),
		map[store.Role]string{store.RoleKernel: "another kernel", store.RoleInitramfs: "same", store.RoleInitramfsHardware: "drivers"})

	d, err := Images(t.Context(), old, young)
	if err != nil {
		t.Fatal(err)
	}
	var text bytes.Buffer
	if err := d.Print(&text); err != nil {
		t.Fatal(err)
	}
	got := strings.NewReplacer(old.ID(), "OLD", young.ID(), "NEW").Replace(text.String())
	file := filepath.Join("testdata", "diff.golden")
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Error(diff)
	}
	if d.Empty() {
		t.Error("it is empty")
	}

	// The reverse comparison has the same members.
	back, err := Images(t.Context(), young, old)
	if err != nil {
		t.Fatal(err)
	}
	if len(back.Files) != len(d.Files) || len(back.Packages) != len(d.Packages) || len(back.Parts) != len(d.Parts) {
		t.Errorf("back: %d files, %d packages, %d parts", len(back.Files), len(back.Packages), len(back.Parts))
	}

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Images(ctx, old, young); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestSameFiles packs the same files in two ways: the bytes differ, but there is no difference.
func TestSameFiles(t *testing.T) {
	s := newStore(t)
	files := []string{"name1", "big f 644 0 0 seq 100000", "d d 755 0 0"}
	a := commit(t, s, store.Config{RootFormat: "squashfs", RecipeDigest: "x"}, pack(t, []string{"-comp", "gzip"}, files...), nil)
	b := commit(t, s, store.Config{RootFormat: "squashfs"}, pack(t, []string{"-comp", "xz", "-b", "8192", "-mkfs-time", "5"}, files...), nil)
	d, err := Images(t.Context(), a, b)
	if err != nil {
		t.Fatal(err)
	}
	if !d.Empty() || len(d.Facts) != 1 {
		t.Errorf("%+v", d)
	}
	var text bytes.Buffer
	if err := d.Print(&text); err != nil || !strings.Contains(text.String(), "the same packages, files and parts") {
		t.Errorf("%s, %v", text.String(), err)
	}
}

// TestRootsThatCannotBeRead checks that such roots are compared as a whole, or named in a note.
func TestRootsThatCannotBeRead(t *testing.T) {
	s := newStore(t)
	raw := func(format, text string) *store.Image {
		p := filepath.Join(t.TempDir(), "root")
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return commit(t, s, store.Config{RootFormat: format}, p, nil)
	}
	d, err := Images(t.Context(), raw("erofs", "one"), raw("erofs", "two"))
	if err != nil || len(d.Parts) != 1 || d.Parts[0].Role != store.RoleRoot || d.Empty() {
		t.Errorf("another format: %+v, %v", d, err)
	}
	var text bytes.Buffer
	if err := d.Print(&text); err != nil || !strings.Contains(text.String(), "files are not compared: the root of "+d.To+" is erofs, but only squashfs can be read\n") {
		t.Errorf("another format: %s, %v", text.String(), err)
	}
	broken := raw("squashfs", "no squashfs")
	if _, err := Images(t.Context(), broken, raw("squashfs", "nor this")); err == nil || !strings.Contains(err.Error(), "root of image "+broken.Name()) {
		t.Errorf("damaged: %v", err)
	}
}

func TestOrder(t *testing.T) {
	paths := []string{"/a-b", "/a/b", "/a", "/", "/a b", "/a/b/c", "/a.d/x"}
	slices.SortFunc(paths, layer.ByComponents)
	if diff := cmp.Diff([]string{"/", "/a", "/a/b", "/a/b/c", "/a b", "/a-b", "/a.d/x"}, paths); diff != "" {
		t.Error(diff)
	}
}
