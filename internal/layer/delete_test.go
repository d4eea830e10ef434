package layer

import (
	"archive/tar"
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// gone returns the names that are only in the first of two listings of a tree.
func gone(before, after []string) []string {
	have := make(map[string]bool)
	for _, name := range after {
		have[name] = true
	}
	var out []string
	for _, name := range before {
		if !have[name] {
			out = append(out, name)
		}
	}
	return out
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(file string, _ fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(dir, file); err == nil && rel != "." {
			out = append(out, rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// deletions carries out a list on the tree of hostTree: as a layer in the tree does, or with dirs
// as a layer of the server does.
func deletions(t testing.TB, dir, list string, dirs bool) (reports []string) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	report := func(err error) { reports = append(reports, err.Error()) }
	lines, err := readDeletions(strings.NewReader(list), report)
	if err != nil {
		report(err)
	}
	deleteAll(rootTarget{root}, lines, dirs, report)
	return reports
}

func TestDeletions(t *testing.T) {
	type list = []string
	everything := list{"full", "full/of", "full/of/things"}
	for _, test := range []struct {
		name, text string
		tree       list // files that are removed if only files may be
		server     list // files that are removed if directories may be, too; nil: the same
		says       list // parts of the first's reports; also: of the second's
		also       list
	}{
		{name: "a file", text: "/etc/motd\n", tree: list{"etc/motd"}},
		{name: "no newline at the end", text: "/etc/motd", tree: list{"etc/motd"}},
		{name: "CR LF, blanks, comments, empty lines", text: "# what is not wanted\r\n\r\n  /etc/motd\t\r\n\n\t\n /etc/hard \r\n", tree: list{"etc/hard", "etc/motd"}},
		{name: "odd slashes and dots", text: "//etc/./motd\n", tree: list{"etc/motd"}},
		{name: "a link itself", text: "/etc/link\n/abs\n/dangling\n/loop\n", tree: list{"abs", "dangling", "etc/link", "loop"}},
		{name: "by way of links inside", text: "/var/run/x\n/bin/y\n/dots/bin/z\n", tree: list{"run/x", "usr/bin/y", "usr/bin/z"}},
		{name: "by way of a link out of the root", text: "/up/secret\n/abs/secret\n"},
		{name: "round in circles", text: "/loop/x\n", says: list{"symbolic links"}},
		{name: "below a file", text: "/etc/motd/x\n"},
		{name: "what is not there", text: "/etc/none\n/none/none\n"},
		{name: "a pattern", text: "/etc/m*\n/etc/[hm]\n/no?/x\n", says: list{`line 1: "/etc/m*" does not exist; patterns`, "line 2", "line 3"}},
		{name: "a pattern that is a name", text: "/usr/bin/*\n", tree: list{"usr/bin/*"}},
		{name: "the root", text: "/\n//\n/.\n/./\n", says: list{"line 1: \"/\" is the root itself", "line 2", "line 3", "line 4"}},
		{name: "dots upwards", text: "/..\n/../outside/secret\n/etc/../etc/motd\n", says: list{`has ".."`, `has ".."`, `line 3: "/etc/../etc/motd" has ".."`}},
		{name: "relative", text: "etc/motd\n./etc/motd\n../outside/secret\n\"/etc/motd\"\n", says: list{"is not an absolute path", "absolute", "absolute", "absolute"}},
		{name: "NUL", text: "/etc/motd\x00\n", says: list{"contains a NUL byte"}},
		{name: "a byte order mark", text: "\ufeff/etc/motd\n", says: list{"absolute"}},
		{name: "the others follow", text: "etc/x\n/etc/motd\n/\n/etc/link\n", tree: list{"etc/link", "etc/motd"}, says: list{"line 1", "line 3"}},
		{name: "two paths on a line are one", text: "/etc/motd /etc/hard\n"},
		{name: "a directory", text: "/full\n", server: everything, says: list{"is a directory: a layer in the tree deletes only files"}, also: list{}},
		{name: "a directory, with a slash", text: "/full/\n", server: everything, says: list{"is a directory"}, also: list{}},
		{name: "a file, with a slash", text: "/etc/motd/\n/bin/\n", says: list{"is not a directory", "is not a directory"}},
		{name: "a directory by way of a link", text: "/dots/../full/of\n/full/../full\n", says: list{`".."`, `".."`}},
		{name: "a name that is too long", text: "/" + strings.Repeat("x", 300) + "\n", says: list{"file name too long"}},
	} {
		for _, dirs := range []bool{false, true} {
			root, outside := hostTree(t)
			for _, file := range []string{"run/x", "usr/bin/y", "usr/bin/z", "usr/bin/*"} {
				write(t, filepath.Join(root, file), "x", 0o644)
			}
			before := names(t, root)
			want, says := test.tree, test.says
			if dirs && test.server != nil {
				want, says = test.server, test.also
			}
			got := deletions(t, root, test.text, dirs)
			if d := cmp.Diff(want, gone(before, names(t, root))); d != "" {
				t.Errorf("%s, directories %v (-want +gone):\n%s", test.name, dirs, d)
			}
			ok := len(got) == len(says)
			for i := 0; ok && i < len(says); i++ {
				ok = strings.Contains(got[i], says[i])
			}
			if !ok {
				t.Errorf("%s, directories %v: reports\n%s\nwant %q", test.name, dirs, strings.Join(got, "\n"), says)
			}
			checkOutside(t, outside)
		}
	}
}

func TestDeletionsTooLong(t *testing.T) {
	root, _ := hostTree(t)
	got := deletions(t, root, "/etc/motd\n"+strings.Repeat("#\n", maxDeletions/2), true)
	if len(got) != 1 || !strings.Contains(got[0], "nothing is deleted") {
		t.Errorf("reports %q", got)
	}
	if _, err := os.Lstat(root + "/etc/motd"); err != nil {
		t.Error(err)
	}
}

// Memory and image are mounted below the root of a node while layers are applied: their files must
// stay.
func TestDeletionsSpareMounts(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: a mount")
	}
	root, _ := hostTree(t)
	write(t, root+"/live/cow/x", "x", 0o644)
	if err := unix.Mount("tmpfs", root+"/live/cow", "tmpfs", 0, ""); err != nil {
		t.Skip(err) // a container without the right to mount
	}
	t.Cleanup(func() { unix.Unmount(root+"/live/cow", unix.MNT_DETACH) })
	write(t, root+"/live/cow/upper/file", "x", 0o644)
	write(t, root+"/live/other", "x", 0o644)
	before := names(t, root)
	got := deletions(t, root, "/live\n/live/cow\n/live/cow/upper\n/live/cow/upper/file\n", true)
	if d := gone(before, names(t, root)); d != nil {
		t.Errorf("gone: %q", d)
	}
	if len(got) != 4 || !strings.Contains(got[0], "mounted at /live/cow") || !strings.Contains(got[3], "not on the file system of the root") {
		t.Errorf("reports:\n%s", strings.Join(got, "\n"))
	}
}

// Names that are not UTF-8 are accepted, also below directories.
func TestDeletionsOfAnyBytes(t *testing.T) {
	root, _ := hostTree(t)
	write(t, root+"/caf\xe9/\xff/x", "x", 0o644)
	write(t, root+"/one\xe9", "x", 0o644)
	if got := deletions(t, root, "/caf\xe9\n/one\xe9\n", true); got != nil {
		t.Errorf("reports %q", got)
	}
	for _, name := range names(t, root) {
		if strings.Contains(name, "\xe9") {
			t.Errorf("left: %q", name)
		}
	}
}

// Whatever a list contains, nothing outside the root is removed, and the root stays.
func FuzzDeletions(f *testing.F) {
	f.Add([]byte("/etc/motd\n# x\r\n\r\n/full/\n"), true)
	f.Add([]byte("/\n//\n/..\n/../outside\n/up/secret\n/abs/secret\n"), true)
	f.Add([]byte("up/../x\n/up\n/dots/../outside/secret\n/loop/x\n"), false)
	f.Add([]byte("/bin/..\n/usr\n/etc\n/run\x00/x\n/var/run/../../outside"), true)
	f.Fuzz(func(t *testing.T, list []byte, dirs bool) {
		root, outside := hostTree(t)
		before := names(t, root)
		deletions(t, root, string(list), dirs)
		checkOutside(t, outside)
		after := names(t, root)
		if extra := gone(after, before); extra != nil {
			t.Errorf("%q made %q", list, extra)
		}
		for _, name := range gone(before, after) {
			if !bytes.Contains(list, []byte("/")) {
				t.Errorf("%q removed %s", list, name)
			}
		}
	})
}

func TestLayerArchiveWithDeletions(t *testing.T) {
	root, outside := hostTree(t)
	r, err := os.OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	archive := archiveOf(t,
		member{tar.TypeReg, "./" + DeletionList, "", "/etc/motd\n/full\n/etc/new\n/up/secret\nbad\n"},
		// This file is added and deleted: deletions come last.
		member{tar.TypeReg, "etc/motd", "", "new"},
		member{tar.TypeReg, "etc/new", "", "new"},
		member{tar.TypeReg, "etc/kept", "", "new"},
		member{tar.TypeReg, "etc/" + DeletionList, "", "/etc/kept\n"}, // an ordinary file
	)
	var reports []string
	if err := ApplyLayer(r, bytes.NewReader(archive), func(err error) { reports = append(reports, err.Error()) }); err != nil {
		t.Fatal(err)
	}
	if len(reports) != 1 || !strings.Contains(reports[0], `line 5: "bad" is not an absolute path`) {
		t.Errorf("reports %q", reports)
	}
	for name, want := range map[string]bool{"etc/motd": false, "full": false, "etc/new": false, "etc/kept": true, "etc/" + DeletionList: true, DeletionList: false} {
		if _, err := os.Lstat(filepath.Join(root, name)); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %v", name, err, want)
		}
	}
	checkOutside(t, outside)

	reports = nil
	odd := archiveOf(t, member{tar.TypeSymlink, DeletionList, "/etc/passwd", ""}, member{tar.TypeReg, "etc/x", "", "x"})
	if err := ApplyLayer(r, bytes.NewReader(odd), func(err error) { reports = append(reports, err.Error()) }); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(root + "/" + DeletionList); len(reports) != 1 || err == nil {
		t.Errorf("a list that is a link: reports %q, %v", reports, err)
	}
}
