package layer

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

type member struct {
	typ        byte
	name, link string
	body       string
}

func archiveOf(t testing.TB, members ...member) []byte {
	t.Helper()
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	for _, m := range members {
		hdr := &tar.Header{
			Typeflag: m.typ, Name: m.name, Linkname: m.link, Size: int64(len(m.body)), Mode: 0o755,
			Uid: os.Getuid(), Gid: os.Getgid(),
		}
		if err := tw.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(m.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// hostTree makes what a hostile or only an ordinary tree holds: OUT stands for a directory beside
// root.
//
//	outside/secret          must survive everything
//	root/usr/bin/           root/bin -> usr/bin            merged /usr
//	root/run/               root/var/run -> /run           absolute link, to be taken inside
//	root/etc/motd           root/etc/hard = motd
//	root/up -> ../outside   root/abs -> OUT                root/dots -> ../../../../usr
//	root/loop -> loop2      root/loop2 -> loop             root/dangling -> /not/there
func hostTree(t testing.TB) (root, outside string) {
	t.Helper()
	dir := t.TempDir()
	root, outside = filepath.Join(dir, "root"), filepath.Join(dir, "outside")
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"usr/bin", "run", "var", "etc", "full/of/things"} {
		must(os.MkdirAll(filepath.Join(root, d), 0o755))
	}
	must(os.Mkdir(outside, 0o755))
	must(os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o640))
	must(os.WriteFile(filepath.Join(root, "etc/motd"), []byte("old"), 0o644))
	must(os.Link(filepath.Join(root, "etc/motd"), filepath.Join(root, "etc/hard")))
	for name, target := range map[string]string{
		"bin": "usr/bin", "var/run": "/run", "up": "../outside", "abs": outside, "dots": "../../../../usr",
		"loop": "loop2", "loop2": "loop", "dangling": "/not/there", "etc/link": "motd",
	} {
		must(os.Symlink(target, filepath.Join(root, name)))
	}
	return root, outside
}

func TestApplyPlaces(t *testing.T) {
	for _, test := range []struct {
		name    string
		members []member
		file    string // path below root to check; the test does not follow links
		want    string
	}{
		{"through merged usr", []member{{tar.TypeReg, "bin/sh", "", "new"}}, "usr/bin/sh", "new"},
		{"through an absolute link", []member{{tar.TypeReg, "var/run/x", "", "new"}}, "run/x", "new"},
		{"dots at the top stay inside", []member{{tar.TypeReg, "dots/x", "", "new"}}, "usr/x", "new"},
		{"a link upwards leads inside", []member{{tar.TypeReg, "up/secret", "", "new"}}, "outside/secret", "new"},
		{"a dangling link is made good", []member{{tar.TypeReg, "dangling/x", "", "new"}}, "not/there/x", "new"},
		{"missing parents", []member{{tar.TypeReg, "a/b/c", "", "new"}}, "a/b/c", "new"},
		{"dot names", []member{{tar.TypeDir, "./", "", ""}, {tar.TypeReg, "./etc/./x", "", "new"}}, "etc/x", "new"},
		{"a file replaces a link", []member{{tar.TypeReg, "etc/link", "", "new"}}, "etc/motd", "old"},
		{"a file replaces a hard link", []member{{tar.TypeReg, "etc/hard", "", "new"}}, "etc/motd", "old"},
		{"a directory over a link to one", []member{{tar.TypeDir, "bin/", "", ""}, {tar.TypeReg, "bin/x", "", "new"}}, "usr/bin/x", "new"},
		{"a directory over a file", []member{{tar.TypeDir, "etc/motd", "", ""}, {tar.TypeReg, "etc/motd/x", "", "new"}}, "etc/motd/x", "new"},
		{"a directory over a link to a file", []member{{tar.TypeDir, "etc/link", "", ""}, {tar.TypeReg, "etc/link/x", "", "new"}}, "etc/link/x", "new"},
		{"a hard link by way of links", []member{{tar.TypeReg, "bin/a", "", "new"}, {tar.TypeLink, "var/run/b", "bin/a", ""}}, "run/b", "new"},
		{"own link, absolute", []member{{tar.TypeSymlink, "etc/l", "/usr", ""}, {tar.TypeReg, "etc/l/x", "", "new"}}, "usr/x", "new"},
		{"the last of two wins", []member{{tar.TypeReg, "x", "", "1"}, {tar.TypeReg, "x", "", "new"}}, "x", "new"},
		{"an empty directory gives way", []member{{tar.TypeDir, "e/", "", ""}, {tar.TypeReg, "e", "", "new"}}, "e", "new"},
	} {
		t.Run(test.name, func(t *testing.T) {
			root, outside := hostTree(t)
			if err := apply(t, root, archiveOf(t, test.members...)); err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(filepath.Join(root, test.file))
			if err != nil || string(b) != test.want {
				t.Errorf("%s: %q, %v", test.file, b, err)
			}
			checkOutside(t, outside)
		})
	}
}

func TestApplyRefuses(t *testing.T) {
	for _, test := range []struct {
		name string
		m    []member
		want string
	}{
		{"absolute name", []member{{tar.TypeReg, "/etc/motd", "", "x"}}, "absolute"},
		{"dots", []member{{tar.TypeReg, "../outside/secret", "", "x"}}, ".."},
		{"dots inside", []member{{tar.TypeReg, "etc/../../outside/secret", "", "x"}}, ".."},
		{"link loop", []member{{tar.TypeReg, "loop/x", "", "x"}}, "symbolic links"},
		{"file as parent", []member{{tar.TypeReg, "etc/motd/x", "", "x"}}, "not a directory"},
		{"file as grandparent of a directory", []member{{tar.TypeDir, "etc/motd/x/y", "", ""}}, "not a directory"},
		{"full directory", []member{{tar.TypeReg, "full", "", "x"}}, "that is not empty"},
		{"link over a full directory", []member{{tar.TypeSymlink, "full/of", "/", ""}}, "that is not empty"},
		{"hard link outside", []member{{tar.TypeLink, "x", "../outside/secret", ""}}, ".."},
		{"hard link by an absolute name", []member{{tar.TypeLink, "x", "/outside/secret", ""}}, "absolute"},
		{"hard link by a link upwards", []member{{tar.TypeLink, "x", "up/secret", ""}}, "no such file"},
		{"hard link to itself", []member{{tar.TypeLink, "etc/motd", "etc/motd", ""}}, "itself"},
		{"hard link to a directory", []member{{tar.TypeLink, "x", "usr", ""}}, "directory"},
		{"odd type", []member{{'7', "x", "", ""}}, "type"},
	} {
		t.Run(test.name, func(t *testing.T) {
			root, outside := hostTree(t)
			err := apply(t, root, archiveOf(t, test.m...))
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v", err)
			}
			checkOutside(t, outside)
			if b, err := os.ReadFile(filepath.Join(root, "etc/motd")); err != nil || string(b) != "old" {
				t.Errorf("etc/motd: %q, %v", b, err)
			}
		})
	}
	root, _ := hostTree(t)
	whole := archiveOf(t, member{tar.TypeReg, "x", "", strings.Repeat("x", 5000)})
	if err := apply(t, root, whole[:3000]); err == nil {
		t.Error("half an archive is accepted")
	}
}

func checkOutside(t testing.TB, outside string) {
	t.Helper()
	entries, err := os.ReadDir(outside)
	if err != nil || len(entries) != 1 {
		t.Errorf("outside: %v, %v", entries, err)
	}
	file := filepath.Join(outside, "secret")
	b, err := os.ReadFile(file)
	fi, err2 := os.Lstat(file)
	if err != nil || err2 != nil || string(b) != "secret" || fi.Mode() != 0o640 {
		t.Errorf("outside/secret: %q %v (%v %v)", b, fi, err, err2)
	}
	parent, err := os.ReadDir(filepath.Dir(outside))
	if err != nil || len(parent) != 2 {
		t.Errorf("beside root: %v, %v", parent, err)
	}
}

// FuzzApply checks that no archive changes anything outside root, makes Apply panic, or fills the
// disk.
func FuzzApply(f *testing.F) {
	f.Add([]byte{})
	f.Add(archiveOf(f, member{tar.TypeReg, "bin/sh", "", "x"}, member{tar.TypeDir, "up/", "", ""}, member{tar.TypeReg, "up/secret", "", "x"}))
	f.Add(archiveOf(f, member{tar.TypeSymlink, "s", "../outside", ""}, member{tar.TypeReg, "s/secret", "", "x"}))
	f.Add(archiveOf(f, member{tar.TypeDir, "d/", "", ""}, member{tar.TypeDir, "d/e/", "", ""}, member{tar.TypeDir, "abs", "", ""}))
	f.Add(archiveOf(f, member{tar.TypeLink, "h", "abs/secret", ""}, member{tar.TypeFifo, "etc/motd", "", ""}))
	f.Fuzz(func(t *testing.T, archive []byte) {
		root, outside := hostTree(t)
		_ = apply(t, root, archive)
		checkOutside(t, outside)
		makeWritable(root)
	})
}
