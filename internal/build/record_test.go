package build

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestRecord(t *testing.T) {
	dir := t.TempDir()
	r := &record{recipe: "sha256:1", image: "tiny@2", file: "/srv/a \"b\"\n/tiny.def", files: []file{{"/", "40755,0:0"}, {"/a \"b\"\n\xff", "100644,0:0,1,2"}}}
	name := filepath.Join(dir, ".tiny.files")
	must(t, r.save(name))
	got, err := loadRecord(name)
	if d := cmp.Diff(r, got, cmp.AllowUnexported(record{}, file{})); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	for text, none := range map[string]bool{
		"": false, "netroot-tree-2 x y\n": true, "netroot-tree-1 x\n": false, "netroot-tree-1 x y z\n": false, "netroot-tree-1 x y \"z\" a\n": false, "netroot-tree-1 x y\n40755,0:0 /\n": false, "netroot-tree-1 x y\n40755\n": false,
	} {
		must(t, os.WriteFile(name, []byte(text), 0o600))
		if _, err := loadRecord(name); err == nil || errors.Is(err, fs.ErrNotExist) != none {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzReadRecord(f *testing.F) {
	f.Add([]byte("netroot-tree-1 sha256:1 tiny@2\n40755,0:0 \"/\"\n100644,0:0,1,2 \"/a\"\n"))
	f.Add([]byte("netroot-tree-1 x y\n \"\"\n"))
	f.Add([]byte("netroot-tree-1 x - \"/srv/with\\x20blank.def\"\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := readRecord(bytes.NewReader(data))
		if err != nil {
			return
		}
		name := filepath.Join(t.TempDir(), "r")
		must(t, r.save(name))
		again, err := loadRecord(name)
		if d := cmp.Diff(r, again, cmp.AllowUnexported(record{}, file{})); d != "" || err != nil {
			t.Errorf("%v (-first +second):\n%s", err, d)
		}
	})
}

// TestChanges makes every kind of change to a tree and checks how it is reported.
func TestChanges(t *testing.T) {
	old := time.Unix(1700000000, 123)
	for _, tc := range []struct {
		name string
		do   func(dir string) error
		want string // empty: not a change
	}{
		{"nothing", func(string) error { return nil }, ""},
		{"write", func(d string) error { return os.WriteFile(d+"/etc/a", []byte("other"), 0o644) }, "1 changed: /etc/a"},
		{"write as long", func(d string) error { return os.WriteFile(d+"/etc/a", []byte("B"), 0o644) }, "1 changed: /etc/a"},
		{"add", func(d string) error { return os.WriteFile(d+"/etc/a.b", nil, 0o644) }, "1 added: /etc/a.b"},
		{"add a directory", func(d string) error { return os.MkdirAll(d+"/srv/x", 0o755) }, "2 added: /srv, /srv/x"},
		{"remove", func(d string) error { return os.RemoveAll(d + "/etc") }, "4 removed: /etc, /etc/a, /etc/b, /etc/l"},
		{"mode", func(d string) error { return os.Chmod(d+"/etc/a", 0o600) }, "1 changed: /etc/a"},
		{"directory's mode", func(d string) error { return os.Chmod(d+"/etc", 0o700) }, "1 changed: /etc"},
		{"link", func(d string) error { return errors.Join(os.Remove(d+"/etc/l"), os.Symlink("b", d+"/etc/l")) }, "1 changed: /etc/l"},
		{"link for a file", func(d string) error { return errors.Join(os.Remove(d+"/etc/a"), os.Symlink("b", d+"/etc/a")) }, "1 changed: /etc/a"},
		{"another name", func(d string) error { return os.Rename(d+"/etc/a", d+"/etc/c") }, "1 added, 1 removed: /etc/c, /etc/a"},
		{"attribute", func(d string) error { return unix.Setxattr(d+"/etc/a", "user.note", []byte("x"), 0) }, "1 changed: /etc/a"},
		{"in /run", func(d string) error { return os.WriteFile(d+"/run/pid", nil, 0o644) }, ""},
		{"aside and back", func(d string) error {
			return errors.Join(os.Rename(d+"/etc/a", d+"/etc/c"), os.WriteFile(d+"/etc/a", nil, 0o644), os.Rename(d+"/etc/c", d+"/etc/a"))
		}, ""},
		{"installed again", func(d string) error {
			return errors.Join(os.Remove(d+"/etc/a"), os.WriteFile(d+"/etc/a", []byte("A"), 0o644), os.Chtimes(d+"/etc/a", old, old))
		}, ""},
		{"many", func(d string) error {
			return errors.Join(os.WriteFile(d+"/etc/b", []byte("b"), 0o644), os.MkdirAll(d+"/1/2/3/4/5", 0o755), os.Remove(d+"/etc/l"))
		}, "1 changed, 5 added, 1 removed: /etc/b, /1, /1/2, /1/2/3, /1/2/3/4, ..."},
	} {
		t.Run(tc.name, func(t *testing.T) {
			state := t.TempDir()
			dir := filepath.Join(state, "tiny")
			lay(t, dir, map[string]string{"etc/a": "A", "etc/b": "", "etc/l": "-> a", "run/": ""})
			must(t, os.Chtimes(dir+"/etc/a", old, old))
			if _, _, err := (&Tree{dir: dir}).Changes(); err != nil {
				t.Fatal(err)
			}
			files, err := listFiles(dir)
			must(t, err, (&record{recipe: "sha256:1", image: "tiny@2", files: files}).save(recordFile(dir)))
			if err := tc.do(dir); errors.Is(err, unix.ENOTSUP) {
				t.Skip(err)
			} else if err != nil {
				t.Fatal(err)
			}
			c, known, err := (&Tree{dir: dir}).Changes()
			must(t, err)
			if got := c.String(); !known || c.None() != (tc.want == "") || tc.want != "" && got != tc.want {
				t.Errorf("%q, %v; want %q", got, known, tc.want)
			}
		})
	}
}

func TestOpenTree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tiny")
	if _, err := OpenTree(dir, "tiny", "shell"); err == nil || !strings.Contains(err.Error(), `run "netroot build tiny" first`) {
		t.Errorf("error %v", err)
	}
	lay(t, dir, map[string]string{"bin/sh": "", "bin/bash": "-> ../../../bin/bash"})
	tree, err := OpenTree(dir, "tiny", "shell")
	must(t, err)
	if shell, err := tree.Shell(); shell != "/bin/sh" { // bash would be the host's
		t.Errorf("shell %s, %v", shell, err)
	}
	if _, known, err := tree.Changes(); known || err != nil {
		t.Errorf("changes of a tree without a record: %v, %v", known, err)
	}
	if _, err := openWorkspace(dir, "tiny", true); err == nil || !strings.Contains(err.Error(), "in use by another netroot shell") {
		t.Errorf("a build meanwhile: %v", err)
	}
	must(t, tree.Close(), os.RemoveAll(filepath.Join(dir, "bin")))
	if tree, err = OpenTree(dir, "tiny", "shell"); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Shell(); err == nil {
		t.Error("a tree without a shell has one")
	}
	must(t, tree.Close())
}

// BenchmarkListFiles describes a tree of 30,000 files.
func BenchmarkListFiles(b *testing.B) {
	dir := b.TempDir()
	for i := range 300 {
		d := filepath.Join(dir, string(rune('a'+i%26)), string(rune('a'+i/26)))
		must(b, os.MkdirAll(d, 0o755))
		for j := range 100 {
			must(b, os.WriteFile(filepath.Join(d, strings.Repeat("f", j+1)), nil, 0o644))
		}
	}
	for b.Loop() {
		files, err := listFiles(dir)
		if err != nil || len(files) < 30000 {
			b.Fatal(len(files), err)
		}
	}
}
