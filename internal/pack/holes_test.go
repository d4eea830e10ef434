package pack_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netroot/internal/pack"
	"netroot/internal/squashfs"
)

// sparseTree makes a tree with files that have large holes, and with what surrounds them in the
// tables of an image: directories of many names, hard links, and attributes.
func sparseTree(t *testing.T) string {
	t.Helper()
	tree, _ := makeTree(t)
	for _, f := range []struct {
		name string
		size int64
		at   []int64 // positions of some data
	}{
		{"var/lib/hole", 20 << 30, nil},
		{"var/lib/data", 3<<30 + 77777, []int64{0, 5 << 20, 1<<30 - 2, 3 << 30, 3<<30 + 77770}},
		{"var/lib/end", 1<<30 + 1, []int64{4096}},
		{"var/lib/small", 1 << 20, []int64{500000}},
	} {
		name := filepath.Join(tree, f.name)
		must(t, os.MkdirAll(filepath.Dir(name), 0o755))
		w, err := os.Create(name)
		must(t, err)
		must(t, w.Truncate(f.size))
		for _, at := range f.at {
			_, err := w.WriteAt([]byte("data!!!"[:min(7, f.size-at)]), at)
			must(t, err)
		}
		must(t, w.Chmod(0o640))
		must(t, w.Close())
	}
	many := filepath.Join(tree, "usr/share/many") // its list takes several blocks
	must(t, os.MkdirAll(many, 0o755))
	for i := range 400 {
		must(t, os.WriteFile(filepath.Join(many, fmt.Sprintf("%03d", i*7%400)+strings.Repeat("n", 200)), []byte{byte(i)}, 0o600))
	}
	sparse, err := pack.FindSparse(tree)
	must(t, err)
	var names []string
	for _, s := range sparse {
		names = append(names, s.Path)
	}
	if d := cmp.Diff([]string{"var/lib/data", "var/lib/end", "var/lib/hole"}, names); d != "" {
		t.Skip("the file system keeps no holes: ", d)
	}
	return tree
}

// facts describes an image as package squashfs reads it. Of large files it reads the first GiB only.
func facts(t *testing.T, image string) map[string]string {
	t.Helper()
	f, err := os.Open(image)
	must(t, err)
	defer f.Close()
	s, err := squashfs.Open(f)
	must(t, err)
	out := map[string]string{}
	must(t, s.Walk(func(path string, file *squashfs.File) error {
		var sum bytes.Buffer
		if file.Size < 1<<20 {
			_, err := io.Copy(&sum, s.Open(file))
			must(t, err)
		}
		out[path] = strings.Join([]string{fmt.Sprint(file.Mode, file.UID, file.GID, file.ModTime, file.Links, file.Size, file.Target, file.Rdev, file.Xattrs), sum.String()}, " ")
		return nil
	}))
	return out
}

// TestLargeHoles packs files with large holes, which are not read: that would take minutes. The judges
// are the kernel, and mksquashfs that packs the other files alone.
func TestLargeHoles(t *testing.T) {
	tool(t, "mksquashfs")
	if os.Geteuid() == 0 && !ownMounts(t) {
		return
	}
	tree, dir := sparseTree(t), t.TempDir()
	compressors := []string{"zstd", "xz", "gzip"}
	pack1 := func(compressor, name string) string {
		image := filepath.Join(dir, compressor+name)
		res, err := pack.Squashfs(t.Context(), tree, image, pack.SquashfsOptions{Compressor: compressor})
		must(t, err)
		for _, w := range res.Warnings {
			if strings.Contains(w, "holes") {
				t.Error(w)
			}
		}
		return image
	}
	var images []string
	for _, c := range compressors {
		images = append(images, pack1(c, ""))
		kernelReads(t, tree, images[len(images)-1])
	}
	large := []string{"hole", "data", "end"}
	for _, name := range large {
		must(t, os.Truncate(filepath.Join(tree, "var/lib", name), 0))
	}
	for i, c := range compressors {
		got, want := facts(t, images[i]), facts(t, pack1(c, "-plain"))
		for _, name := range large {
			delete(got, "/var/lib/"+name)
			delete(want, "/var/lib/"+name)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s, other files (-want +got):\n%s", c, d)
		}
	}
}

// kernelReads mounts an image and looks up its names, and reads what is around the data of its files.
func kernelReads(t *testing.T, tree, image string) {
	t.Helper()
	at := t.TempDir()
	if out, err := exec.Command("mount", "-t", "squashfs", "-o", "loop,ro", image, at).CombinedOutput(); err != nil {
		t.Logf("not looked at by the kernel: %s", bytes.TrimSpace(out))
		return
	}
	t.Cleanup(func() { output(t, exec.Command("umount", at)) })
	for _, f := range []struct {
		name string
		at   int64
	}{{"data", 0}, {"data", 5 << 20}, {"data", 1<<30 - 2}, {"data", 3 << 30}, {"data", 3<<30 + 77770}, {"end", 4096}, {"end", 1 << 30}, {"hole", 20<<30 - 8}} {
		var b [2][8]byte
		var n [2]int
		for i, top := range []string{tree, at} {
			r, err := os.Open(filepath.Join(top, "var/lib", f.name))
			must(t, err)
			n[i], err = r.ReadAt(b[i][:], f.at)
			if err != io.EOF {
				must(t, err)
			}
			must(t, r.Close())
		}
		if b[0] != b[1] || n[0] != n[1] {
			t.Errorf("%s at %d: %q, want %q", f.name, f.at, b[1][:n[1]], b[0][:n[0]])
		}
	}
	var names [2][]string
	for i, top := range []string{tree, at} {
		must(t, filepath.WalkDir(filepath.Join(top, "usr"), func(name string, _ os.DirEntry, err error) error {
			must(t, err)
			_, err = os.Lstat(name) // a lookup through the index of the directory
			names[i] = append(names[i], strings.TrimPrefix(name, top))
			return err
		}))
		fi, err := os.Stat(filepath.Join(top, "var/lib/data"))
		must(t, err)
		names[i] = append(names[i], fmt.Sprint(fi.Size(), fi.Mode(), fi.ModTime().Unix()))
	}
	if d := cmp.Diff(names[0], names[1]); d != "" {
		t.Errorf("by the kernel: %s", d)
	}
}
