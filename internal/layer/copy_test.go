package layer

import (
	"archive/tar"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestCopy(t *testing.T) {
	src, dir, outside := t.TempDir(), t.TempDir(), t.TempDir()
	write(t, src+"/base/etc/motd", "hello", 0o640)
	write(t, src+"/base/usr/bin/su", "su", fs.ModeSetuid|0o755)
	os.Symlink("motd", src+"/base/etc/issue")
	os.Link(src+"/base/etc/motd", src+"/base/etc/motd2")
	os.Mkdir(dir+"/realetc", 0o755)
	os.Symlink("/realetc", dir+"/etc") // absolute, but inside the root
	// This link leads out of the root on the host, and to a missing file inside.
	os.Symlink(outside, dir+"/usr")
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := Copy(root, src+"/base/etc", "/etc", nil); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(dir + "/realetc/motd"); string(got) != "hello" {
		t.Errorf("motd = %q", got)
	}
	if got, _ := os.Readlink(dir + "/realetc/issue"); got != "motd" {
		t.Errorf("issue leads to %q", got)
	}
	a, _ := os.Stat(dir + "/realetc/motd")
	b, err := os.Stat(dir + "/realetc/motd2")
	if err != nil || !os.SameFile(a, b) || a.Mode() != 0o640 {
		t.Errorf("motd and motd2: %v %v %v", a, b, err)
	}
	seen := 0
	if err := Copy(root, src+"/base/usr/bin/su", "opt/su", func(*tar.Header) { seen++ }); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(dir + "/opt/su"); err != nil || fi.Mode() != 0o755|fs.ModeSetuid || seen != 1 {
		t.Errorf("su: %v %v, %d entries edited", fi, err, seen)
	}
	Copy(root, src+"/base/usr", "/usr", nil)
	if left, _ := os.ReadDir(outside); len(left) != 0 {
		t.Errorf("Copy wrote outside of the root: %v", left)
	}
	if err := Copy(root, src+"/nothing", "/x", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing source: %v", err)
	}
}

func TestResolve(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/usr/bin/sh", "x", 0o755)
	os.Symlink("usr/bin", dir+"/bin")
	os.Symlink("/bin/sh", dir+"/shell")
	os.Symlink("loop", dir+"/loop")
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, want := range map[string]string{"/shell": "usr/bin/sh", "bin/sh": "usr/bin/sh", "/": ".", "bin/../../..": "."} {
		if got, err := Resolve(root, name); got != want || err != nil {
			t.Errorf("Resolve(%q) = %q, %v; want %q", name, got, err, want)
		}
	}
	if _, err := Resolve(root, "/bin/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing name: %v", err)
	}
	if _, err := Resolve(root, "/loop"); err == nil {
		t.Error("a loop resolves")
	}
}

func TestRootOwned(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: files of other owners")
	}
	dir := t.TempDir()
	if RootOwned(dir) != nil {
		t.Error("root's directory needs no edit")
	}
	if err := os.Chown(dir, 1000, 1000); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[int]int{1000: 0, 0: 0, 33: 33} {
		h := tar.Header{Uid: in, Gid: in}
		if RootOwned(dir)(&h); h.Uid != want || h.Gid != want {
			t.Errorf("%d becomes %d:%d, want %d", in, h.Uid, h.Gid, want)
		}
	}
}
