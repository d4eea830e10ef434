package squashfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// mksquashfs packs a tree.
func mksquashfs(t testing.TB, tree string, args ...string) []byte {
	t.Helper()
	if _, err := exec.LookPath("mksquashfs"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("mksquashfs is missing: install squashfs-tools")
		}
		t.Skip("mksquashfs is missing: install squashfs-tools")
	}
	out := filepath.Join(t.TempDir(), "image")
	cmd := exec.Command("mksquashfs", append([]string{tree, out, "-quiet", "-no-progress", "-xattrs"}, args...)...)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, said)
	}
	image, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// newTree makes a tree with all special cases.
func newTree(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	write := func(name string, data []byte, mode os.FileMode) {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, data, 0o600), os.Chmod(p, mode)); err != nil {
			t.Fatal(err)
		}
	}
	random := rand.NewChaCha8([32]byte{1})
	noise := make([]byte, 700_001)
	random.Read(noise)
	write("empty", nil, 0o644)
	write("small", []byte("hello\n"), 0o600)
	write("odd \n\xff", []byte("x"), 0o755|fs.ModeSetuid)
	write("noise", noise, 0o644)
	write("blocks", bytes.Repeat([]byte("0123456789abcdef"), 1<<16), 0o644)
	write("blocks+1", bytes.Repeat([]byte("x"), 1<<17+1), 0o644)
	for i := range 600 {
		write(fmt.Sprintf("many/%s%d", strings.Repeat("n", i%200), i), []byte(fmt.Sprint(i)), 0o644)
	}
	write("a/b/c/d/e", []byte("deep"), 0o640)
	hole, err := os.Create(filepath.Join(dir, "hole"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = hole.WriteAt([]byte("end"), 5<<20)
	_, err2 := hole.WriteAt([]byte("middle"), 2<<20+77)
	for _, err := range []error{
		err, err2, hole.Close(),
		os.Link(filepath.Join(dir, "small"), filepath.Join(dir, "a/small too")),
		os.Symlink("../../x", filepath.Join(dir, "a/link")),
		os.Symlink(strings.Repeat("long/", 800), filepath.Join(dir, "a/long")),
		unix.Mkfifo(filepath.Join(dir, "pipe"), 0o620),
		os.Mkdir(filepath.Join(dir, "sticky"), 0o755),
		os.Chmod(filepath.Join(dir, "sticky"), 0o777|fs.ModeSticky),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range []string{"small", "a/b", "noise", "empty"} {
		err := errors.Join(unix.Setxattr(filepath.Join(dir, name), "user.one", bytes.Repeat([]byte("v"), 300), 0),
			unix.Setxattr(filepath.Join(dir, name), "user.two", fmt.Append(nil, i), 0))
		if err != nil && !errors.Is(err, unix.ENOTSUP) {
			t.Fatal(err)
		}
	}
	return dir
}

// describe returns a line that describes a file, independent of its source.
func describe(path string, f *File, content io.Reader) (string, error) {
	line := fmt.Sprintf("%q %o %d:%d %d", path, f.Mode, f.UID, f.GID, f.ModTime.Unix())
	switch f.Type() {
	case unix.S_IFREG:
		sum := uint64(14695981039346656037) // FNV-1a
		data, err := io.ReadAll(content)
		for _, b := range data {
			sum = (sum ^ uint64(b)) * 1099511628211
		}
		line += fmt.Sprintf(" %d bytes %x, %d names", f.Size, sum, f.Links)
		if err != nil || int64(len(data)) != f.Size {
			return line, fmt.Errorf("%s: %d bytes read: %w", line, len(data), err)
		}
	case unix.S_IFLNK:
		line += " -> " + f.Target
	case unix.S_IFCHR, unix.S_IFBLK:
		line += fmt.Sprintf(" %d,%d", unix.Major(f.Rdev), unix.Minor(f.Rdev))
	}
	for _, name := range []string{"user.one", "user.two", "security.capability"} {
		if v, ok := f.Xattrs[name]; ok {
			line += fmt.Sprintf(" %s=%q", name, v)
		}
	}
	return line, nil
}

// fromImage describes every file of an image, sorted.
func fromImage(image []byte) ([]string, error) {
	f, err := Open(bytes.NewReader(image))
	if err != nil {
		return nil, err
	}
	var out []string
	inodes := map[uint32]string{}
	err = f.Walk(func(path string, file *File) error {
		line, err := describe(path, file, f.Open(file))
		out = append(out, line)
		attrs := strings.TrimPrefix(line, strconv.Quote(path))
		if other, ok := inodes[file.Inode]; ok && other != attrs {
			return fmt.Errorf("%s has the inode of another", line)
		}
		inodes[file.Inode] = attrs
		return err
	})
	slices.Sort(out)
	return out, err
}

// fromTree describes every file of a tree, sorted.
func fromTree(t testing.TB, tree string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(tree, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		f := &File{Mode: st.Mode, UID: st.Uid, GID: st.Gid, ModTime: time.Unix(st.Mtim.Unix()), Links: uint32(st.Nlink), Size: st.Size, Rdev: st.Rdev, Xattrs: map[string]string{}}
		var content io.Reader
		switch f.Type() {
		case unix.S_IFREG:
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			content = bytes.NewReader(data)
		case unix.S_IFLNK:
			f.Target, _ = os.Readlink(p)
		}
		for _, name := range []string{"user.one", "user.two"} {
			buf := make([]byte, 1000)
			if n, err := unix.Lgetxattr(p, name, buf); err == nil {
				f.Xattrs[name] = string(buf[:n])
			}
		}
		name := strings.TrimPrefix(p, tree)
		if name == "" {
			name = "/"
		}
		line, err := describe(name, f, content)
		out = append(out, line)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// TestReadsWhatWasPacked compares the reader with mksquashfs.
func TestReadsWhatWasPacked(t *testing.T) {
	tree := newTree(t)
	want := fromTree(t, tree)
	for _, args := range []string{
		"-comp gzip -no-fragments", "-comp xz", "-comp zstd -b 4096", "-comp zstd -b 1M -always-use-fragments",
		"-comp zstd -noI -noD -noF -noX",
	} {
		t.Run(args, func(t *testing.T) {
			got, err := fromImage(mksquashfs(t, tree, strings.Fields(args)...))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestDevicesAndOwners packs files that a user cannot make.
func TestDevicesAndOwners(t *testing.T) {
	tree := t.TempDir()
	if err := os.WriteFile(filepath.Join(tree, "f"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	image := mksquashfs(t, tree, "-p", "null c 666 0 5 1 3", "-p", "disk b 660 0 6 259 70000", "-p", "f m 4711 70001 70002")
	f, err := Open(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	err = f.Walk(func(path string, file *File) error {
		if path == "/" {
			return nil
		}
		file.ModTime = time.Unix(0, 0)
		line, err := describe(path, file, f.Open(file))
		got = append(got, line)
		return err
	})
	want := []string{
		`"/disk" 60660 0:6 0 259,70000`,
		`"/f" 104711 70001:70002 0 1 bytes af63f54c86021707, 1 names`,
		`"/null" 20666 0:5 0 1,3`,
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
}

func TestSame(t *testing.T) {
	a := newTree(t)
	b := filepath.Join(t.TempDir(), "b")
	if out, err := exec.Command("cp", "-a", a, b).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, at := range map[string]int64{"noise": 700_000, "blocks": 0, "blocks+1": 1 << 17, "hole": 3 << 20, "many/nn2": 0} {
		f, err := os.OpenFile(filepath.Join(b, name), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt([]byte{'!'}, at)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	images := [][]byte{mksquashfs(t, a, "-comp", "zstd"), mksquashfs(t, b, "-comp", "zstd"), mksquashfs(t, b, "-comp", "gzip", "-b", "8192")}
	files := make([]map[string]*File, len(images))
	fss := make([]*FS, len(images))
	for i, image := range images {
		f, err := Open(bytes.NewReader(image))
		if err != nil {
			t.Fatal(err)
		}
		fss[i], files[i] = f, map[string]*File{}
		err = f.Walk(func(path string, file *File) error {
			if file.Type() == unix.S_IFREG {
				files[i][path] = file
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := 1; i < 3; i++ {
		var differ []string
		for path, x := range files[0] {
			same, err := Same(fss[0], x, fss[i], files[i][path])
			if err != nil {
				t.Fatal(err)
			}
			if !same {
				differ = append(differ, path)
			}
			if same, err := Same(fss[i], files[i][path], fss[i], files[i][path]); !same || err != nil {
				t.Errorf("%s is not the same as itself: %v", path, err)
			}
		}
		slices.Sort(differ)
		if diff := cmp.Diff([]string{"/blocks", "/blocks+1", "/hole", "/many/nn2", "/noise"}, differ); diff != "" {
			t.Errorf("image %d: %s", i, diff)
		}
	}
}

func TestNotOurs(t *testing.T) {
	tree := t.TempDir()
	if err := os.WriteFile(filepath.Join(tree, "f"), bytes.Repeat([]byte("x"), 5000), 0o644); err != nil {
		t.Fatal(err)
	}
	good := mksquashfs(t, tree)
	for name, image := range map[string][]byte{
		"nothing": nil, "text": bytes.Repeat([]byte("hello "), 100), "half a superblock": good[:50], "cut": good[:150],
		"another version": slices.Concat(good[:28], []byte{3, 0}, good[30:]),
	} {
		if _, err := fromImage(image); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	lz4 := slices.Clone(good)
	lz4[20] = 5
	if _, err := Open(bytes.NewReader(lz4)); err == nil || !strings.Contains(err.Error(), "compressor 5") {
		t.Errorf("lz4: %v", err)
	}
}

// FuzzImage reads damaged images: an error is correct; a panic, an endless walk or a name that
// leads out of the image is not.
func FuzzImage(f *testing.F) {
	tree := f.TempDir()
	for name, text := range map[string]string{"f": "hello", "d/e": strings.Repeat("x", 9000), "d/g": ""} {
		p := filepath.Join(tree, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o644)); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(mksquashfs(f, tree, "-nopad", "-b", "4096", "-noI", "-noD", "-noF", "-noX"))
	f.Add(mksquashfs(f, tree, "-nopad", "-comp", "zstd"))
	f.Fuzz(func(t *testing.T, image []byte) {
		fsys, err := Open(bytes.NewReader(image))
		if err != nil {
			return
		}
		fsys.Walk(func(path string, file *File) error {
			if strings.Contains(path, "/../") || strings.HasSuffix(path, "/..") {
				t.Errorf("name %q", path)
			}
			io.Copy(io.Discard, io.LimitReader(fsys.Open(file), 1<<20))
			return nil
		})
	})
}
