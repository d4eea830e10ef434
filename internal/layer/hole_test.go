package layer

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// sparseFile makes a file with data in the middle of holes.
func sparseFile(t *testing.T, name string, size int64) {
	t.Helper()
	f, err := os.Create(name)
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte("data"), 3000), size/2+17)
	must(t, err)
	must(t, f.Truncate(size))
	must(t, f.Close())
	if onDisk(t, name) >= size/2 {
		t.Skip("the file system keeps no holes")
	}
}

func onDisk(t *testing.T, name string) int64 {
	t.Helper()
	fi, err := os.Stat(name)
	must(t, err)
	return fi.Sys().(*syscall.Stat_t).Blocks * 512
}

// A copy has the holes of the original, and does not read them: this one would take minutes.
func TestCopyKeepsHoles(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	const size = 1 << 40
	sparseFile(t, filepath.Join(src, "big"), size)
	must(t, os.WriteFile(filepath.Join(src, "empty"), nil, 0o600))
	root, err := os.OpenRoot(dst)
	must(t, err)
	defer root.Close()
	must(t, Copy(root, src, "to", nil))
	name := filepath.Join(dst, "to/big")
	fi, err := os.Stat(name)
	must(t, err)
	if used := onDisk(t, name); fi.Size() != size || used > 1<<20 {
		t.Errorf("%d bytes with %d on disk", fi.Size(), used)
	}
	want, got := make([]byte, 1<<16), make([]byte, 1<<16)
	for _, f := range []struct {
		name string
		buf  []byte
	}{{filepath.Join(src, "big"), want}, {name, got}} {
		in, err := os.Open(f.name)
		must(t, err)
		_, err = in.ReadAt(f.buf, size/2)
		must(t, err)
		must(t, in.Close())
	}
	if !bytes.Equal(want, got) || !bytes.Contains(got, []byte("datadata")) {
		t.Error("the data differs")
	}
}

// Pages of zeros in an archive take no memory or disk of the node.
func TestApplyMakesHoles(t *testing.T) {
	content := make([]byte, 3<<20+5)
	copy(content[1<<20+100:], "middle")
	copy(content[len(content)-3:], "end")
	var archive bytes.Buffer
	tw := tar.NewWriter(&archive)
	must(t, tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o600, Size: int64(len(content)), Uid: os.Getuid(), Gid: os.Getgid()}))
	_, err := tw.Write(content)
	must(t, err)
	must(t, tw.Close())
	dir := t.TempDir()
	sparseFile(t, filepath.Join(dir, "probe"), 1<<20)
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	must(t, Apply(root, &archive))
	got, err := os.ReadFile(filepath.Join(dir, "f"))
	must(t, err)
	if used := onDisk(t, filepath.Join(dir, "f")); !bytes.Equal(got, content) || used > 64<<10 {
		t.Errorf("%d bytes with %d on disk", len(got), used)
	}
}

// However a file is cut into writes, its content stays.
func TestHoleWriter(t *testing.T) {
	content := make([]byte, 10*page+7)
	for _, at := range []int{1, page - 1, 4 * page, 7*page + 5} {
		content[at] = 1
	}
	for _, step := range []int{1, 7, page - 1, page, page + 1, 3 * page, len(content)} {
		f, err := os.Create(filepath.Join(t.TempDir(), "f"))
		must(t, err)
		w := &holeWriter{f: f}
		for rest := content; len(rest) > 0; {
			n := min(step, len(rest))
			_, err := w.Write(rest[:n])
			must(t, err)
			rest = rest[n:]
		}
		must(t, f.Truncate(int64(len(content))))
		got, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<20))
		must(t, err)
		if !bytes.Equal(got, content) {
			t.Errorf("in steps of %d the content differs", step)
		}
		must(t, f.Close())
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
