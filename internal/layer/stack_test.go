package layer

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// said collects reports as "layer: text".
type said []string

func (s *said) tell(layer string, err error) { *s = append(*s, layer+": "+err.Error()) }

func applyTreeTo(t testing.TB, dir string, names ...string) (applied int, reports said) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	applied = ApplyTree(root, names, reports.tell)
	return applied, reports
}

// The files of a layer in the tree are as after "cp -a".
func TestApplyTreeIsCpA(t *testing.T) {
	cp := needTool(t, "cp")
	tree, dir := t.TempDir(), t.TempDir()
	ours, theirs := dir+"/ours", dir+"/theirs"
	sample(t, filepath.Join(tree, TreeDir, "a"))
	write(t, tree+"/etc/motd", "old", 0o640)
	write(t, tree+"/etc/kept", "old", 0o640)
	if os.Getuid() == 0 { // as in a relabelled tree
		if err := unix.Lsetxattr(filepath.Join(tree, TreeDir, "a/etc/nothing"), "security.selinux", []byte("system_u:object_r:etc_t:s0\x00"), 0); err != nil {
			t.Log(err)
		}
	}
	run(t, nil, nil, cp, "-a", tree, ours)
	run(t, nil, nil, cp, "-a", tree, theirs)
	t.Cleanup(func() { makeWritable(dir) })
	if n, reports := applyTreeTo(t, ours, "a"); n != 1 || reports != nil {
		t.Fatalf("%d applied, %q", n, reports)
	}
	run(t, nil, nil, "sh", "-c", cp+` -a "$1"/etc/rootovl/a/* "$1"`, "sh", theirs)
	if d := cmp.Diff(describe(t, theirs), describe(t, ours)); d != "" {
		t.Errorf("(-cp +ours):\n%s", d)
	}
}

// layersTree has three layers that overlap, and several unusual ones.
func layersTree(t testing.TB) (root, outside string) {
	t.Helper()
	root, outside = hostTree(t)
	for name, text := range map[string]string{
		"a/etc/motd": "a", "a/etc/a": "a", "a/.profile": "a",
		"b/etc/motd": "b", "b/etc/b": "b", "b/etc/both": "b", "b/" + DeletionList: "/etc/a\n/etc/hard\n/etc/b\n",
		"c/etc/c": "c", "c/etc/motd": "c",
		"only/" + DeletionList:    "/etc/motd\n/etc/none\n/etc/link\n",
		"bad/" + DeletionList:     "/\nrelative\n/full\n/etc/motd\n",
		"full/full":               "a file where a full directory is",
		"full/etc/x":              "x",
		"dirlist/etc/x":           "x",
		"dirlist/.rootovldel/sub": "no list",
		"file":                    "a file, not a layer",
	} {
		file := filepath.Join(root, TreeDir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		"linked": "a", "away": outside, "linklist/.rootovldel": "/etc/rootovl/only/.rootovldel",
	} {
		file := filepath.Join(root, TreeDir, name)
		os.MkdirAll(filepath.Dir(file), 0o755)
		if err := os.Symlink(target, file); err != nil {
			t.Fatal(err)
		}
	}
	return root, outside
}

func TestApplyTree(t *testing.T) {
	for _, test := range []struct {
		layers  string
		applied int
		files   map[string]string // content; "-": removed
		reports []string          // parts of the reports, in order
	}{
		{"", 0, map[string]string{"etc/motd": "old"}, nil},
		{"a", 1, map[string]string{"etc/motd": "a", "etc/a": "a", "etc/hard": "old", ".profile": "a"}, nil},
		{"a,b", 2, map[string]string{"etc/motd": "a", "etc/a": "a", "etc/b": "-", "etc/both": "b", "etc/hard": "-", DeletionList: "-"}, nil},
		{"b,a", 2, map[string]string{"etc/motd": "b", "etc/a": "-", "etc/b": "-", "etc/hard": "-"}, nil},
		{"c,b,a", 3, map[string]string{"etc/motd": "c", "etc/c": "c", "etc/a": "-"}, nil},
		{"only", 1, map[string]string{"etc/motd": "-", "etc/link": "-", "etc/hard": "old", DeletionList: "-"}, nil},
		{"a,only", 2, map[string]string{"etc/motd": "a"}, nil},
		{"a,none,b", 2, map[string]string{"etc/motd": "a", "etc/both": "b"}, []string{"none: the root has no /etc/rootovl/none"}},
		{"file,a", 1, map[string]string{"etc/motd": "a"}, []string{"file: /etc/rootovl/file is not a directory"}},
		{"../a,a/etc,.,..,,a b,a", 1, map[string]string{"etc/motd": "a"}, []string{"a b: ", ": a layer's name is empty", "..: ", ".: ", "a/etc: ", "../a: "}},
		{"bad,a", 2, map[string]string{"etc/motd": "-", "etc/a": "a", "full/of": ""}, []string{"bad: .rootovldel line 1", "bad: .rootovldel line 2", `bad: .rootovldel line 3: "/full" is a directory`}},
		{"full", 1, map[string]string{"etc/x": "x", "full/of": ""}, []string{"full is a directory that is not empty"}},
		{"dirlist", 1, map[string]string{"etc/x": "x", DeletionList: "-"}, []string{"dirlist: .rootovldel is not a file"}},
		{"linked", 1, map[string]string{"etc/motd": "a"}, nil},
		{"linklist", 1, map[string]string{"etc/motd": "old", DeletionList: "-"}, []string{"linklist: .rootovldel is not a file"}},
		{"away", 0, map[string]string{"etc/motd": "old"}, []string{"away: the root has no /etc/rootovl/away"}},
	} {
		t.Run(test.layers, func(t *testing.T) {
			root, outside := layersTree(t)
			var list []string
			if test.layers != "" {
				list = strings.Split(test.layers, ",")
			}
			n, got := applyTreeTo(t, root, list...)
			ok := n == test.applied && len(got) == len(test.reports)
			for i := 0; ok && i < len(got); i++ {
				ok = strings.Contains(got[i], test.reports[i])
			}
			if !ok {
				t.Errorf("%d applied, reports\n%s\nwant %d and %q", n, strings.Join(got, "\n"), test.applied, test.reports)
			}
			for name, want := range test.files {
				fi, err := os.Lstat(filepath.Join(root, name))
				text, _ := os.ReadFile(filepath.Join(root, name))
				if (err != nil) != (want == "-") || err == nil && !fi.IsDir() && string(text) != want {
					t.Errorf("%s holds %q, %v; want %q", name, text, err, want)
				}
			}
			checkOutside(t, outside)
		})
	}
}

// Without requested layers, a tree stays unchanged, including every attribute.
func TestNoLayersNoChange(t *testing.T) {
	root, _ := layersTree(t)
	before := describe(t, root)
	applyTreeTo(t, root)
	applyTreeTo(t, root, "none", "..", "file")
	if d := cmp.Diff(before, describe(t, root)); d != "" {
		t.Error(d)
	}
}

func TestReportsEnd(t *testing.T) {
	root, _ := hostTree(t)
	var list bytes.Buffer
	for i := range 100 {
		fmt.Fprintf(&list, "bad %d\n", i)
	}
	write(t, filepath.Join(root, TreeDir, "many", DeletionList), list.String(), 0o644)
	_, got := applyTreeTo(t, root, "many")
	if len(got) != maxReports+1 || !strings.HasSuffix(got[maxReports], "and 80 more reports") {
		t.Errorf("%d reports:\n%s", len(got), strings.Join(got, "\n"))
	}
}

func TestUnreadableFilesAreReported(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root reads everything")
	}
	root, _ := layersTree(t)
	secret := filepath.Join(root, TreeDir, "a/etc/a")
	if err := os.Chmod(secret, 0); err != nil {
		t.Fatal(err)
	}
	n, got := applyTreeTo(t, root, "a")
	if text, _ := os.ReadFile(root + "/etc/motd"); n != 1 || string(text) != "a" || len(got) != 1 || !strings.Contains(got[0], "permission denied") {
		t.Errorf("%d applied, motd %q, reports %q", n, text, got)
	}
}

func TestTreeLayers(t *testing.T) {
	root, _ := layersTree(t)
	write(t, filepath.Join(root, TreeDir, "a b/x"), "", 0o644)
	r, err := os.OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := TreeLayers(r)
	want := []string{"a", "b", "bad", "c", "dirlist", "full", "linked", "linklist", "only"}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Error(err, d)
	}
	empty, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close()
	if got, err := TreeLayers(empty); got != nil || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// listing is a root as a Preview shows it, one line a file.
type listing map[string]string

func (l listing) add(name string, f *File) {
	// Files that no layer names belong to root on a node, and to this user here.
	if os.Getuid() != 0 {
		f.UID, f.GID = 0, 0
	}
	l[name] = fmt.Sprintf("%o %d:%d %d %s %d %q", f.Mode, f.UID, f.GID, f.Size, f.Target, f.Rdev, f.Xattrs)
}

func listRoot(t testing.TB, dir string) listing {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	out := make(listing)
	s := sketch{tree: root}
	for _, name := range names(t, dir) {
		f, err := s.file(name)
		if err != nil {
			t.Fatal(err)
		}
		out.add("/"+name, f.describe())
	}
	return out
}

// compareLook applies layers to a root and also calls Look; both results must agree. It returns the
// reports, which must be the same as well.
func compareLook(t testing.TB, dir string, names []string, dirs []Dir) said {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	want := listRoot(t, dir)
	p, err := Look(root, names, dirs)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range p.Changes {
		old := make(listing)
		if c.Old != nil {
			old.add(c.Path, c.Old)
		}
		if old[c.Path] != want[c.Path] {
			t.Errorf("%s was %q, and Look took it for %q", c.Path, want[c.Path], old[c.Path])
		}
		delete(want, c.Path)
		if c.New != nil {
			want.add(c.Path, c.New)
		}
	}
	var looked, real said
	for _, r := range p.Reports {
		looked.tell(r.Layer, r.Err)
	}
	ApplyTree(root, names, real.tell)
	for _, d := range slices.Backward(dirs) {
		var archive bytes.Buffer
		if _, err := FromDir(&archive, d.Path, d.Edit); err != nil {
			t.Fatal(err)
		}
		if err := ApplyLayer(root, &archive, func(err error) { real.tell(d.Name, err) }); err != nil {
			real.tell(d.Name, fmt.Errorf("cannot be applied: %w", err))
		}
	}
	if d := cmp.Diff(real, looked); d != "" {
		t.Errorf("reports (-real +looked):\n%s", d)
	}
	if d := cmp.Diff(listRoot(t, dir), want); d != "" {
		t.Errorf("the root (-real +looked):\n%s", d)
	}
	return real
}

func TestLookIsWhatHappens(t *testing.T) {
	for _, names := range []string{"", "a", "a,b", "b,a", "c,b,a", "only,a", "bad,a,none", "full", "dirlist,file", "linklist,linked", "../a,"} {
		root, outside := layersTree(t)
		var list []string
		if names != "" {
			list = strings.Split(names, ",")
		}
		compareLook(t, root, list, nil)
		checkOutside(t, outside)
	}
}

// serverDir makes a layer in a directory beside the configuration.
func serverDir(t *testing.T, name string, members ...member) Dir {
	t.Helper()
	dir := t.TempDir()
	if err := apply(t, dir, archiveOf(t, members...)); err != nil {
		t.Fatal(err)
	}
	return Dir{Name: name, Path: dir}
}

func TestLookAtServersLayers(t *testing.T) {
	one := func(members ...member) []Dir { return []Dir{serverDir(t, "x", members...)} }
	for name, dirs := range map[string][]Dir{
		"files, links, directories": one(member{tar.TypeReg, "etc/motd", "", "new"}, member{tar.TypeSymlink, "etc/l", "motd", ""}, member{tar.TypeDir, "srv/empty", "", ""},
			member{tar.TypeReg, "srv/one", "", "1"}, member{tar.TypeLink, "srv/two", "srv/one", ""}, member{tar.TypeFifo, "run/pipe", "", ""}),
		"through links":            one(member{tar.TypeReg, "bin/sh", "", "new"}, member{tar.TypeReg, "var/run/x", "", "x"}, member{tar.TypeReg, "dangling/x", "", "x"}),
		"a link to a file gives":   one(member{tar.TypeReg, "etc/link/x", "", "x"}),
		"a loop":                   one(member{tar.TypeReg, "loop/x", "", "x"}),
		"a directory in the way":   one(member{tar.TypeReg, "full", "", "x"}, member{tar.TypeReg, "usr/x", "", "x"}),
		"an empty one gives way":   one(member{tar.TypeReg, "run", "", "x"}),
		"deletes directories":      one(member{tar.TypeReg, DeletionList, "", "/full\n/usr/bin\n/none\n/\nx\n"}),
		"deletes what it brings":   one(member{tar.TypeReg, DeletionList, "", "/etc/motd\n/new\n"}, member{tar.TypeReg, "etc/motd", "", "x"}, member{tar.TypeReg, "new/x", "", "x"}),
		"deletes a link, by links": one(member{tar.TypeReg, DeletionList, "", "/bin\n/var/run\n/dots/bin\n"}),
		"a directory made anew": {
			serverDir(t, "first", member{tar.TypeReg, "full/new", "", "x"}, member{tar.TypeReg, "usr/bin/new", "", "x"}),
			serverDir(t, "last", member{tar.TypeReg, DeletionList, "", "/full\n/usr\n"}),
		},
		"a file for a directory that is gone": {
			serverDir(t, "first", member{tar.TypeReg, "full", "", "x"}, member{tar.TypeDir, "bin", "", ""}),
			serverDir(t, "last", member{tar.TypeReg, DeletionList, "", "/full\n/bin\n/etc/hard\n"}),
		},
		"deleted twice": {
			serverDir(t, "first", member{tar.TypeReg, DeletionList, "", "/full\n"}),
			serverDir(t, "second", member{tar.TypeReg, "full/of/x", "", "x"}),
			serverDir(t, "last", member{tar.TypeReg, DeletionList, "", "/full/of\n"}),
		},
	} {
		t.Run(name, func(t *testing.T) {
			root, outside := layersTree(t)
			compareLook(t, root, []string{"a", "b"}, dirs)
			checkOutside(t, outside)
		})
	}
}

func TestLookNamesLayers(t *testing.T) {
	root, _ := layersTree(t)
	r, err := os.OpenRoot(root)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	big := strings.Repeat("x", MaxContent+1)
	srv := serverDir(t, "srv", member{tar.TypeReg, "etc/both", "", "srv"}, member{tar.TypeReg, "etc/big", "", big}, member{tar.TypeLink, "etc/big2", "etc/big", ""})
	p, err := Look(r, []string{"a", "b"}, []Dir{srv})
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]string)
	for _, c := range p.Changes {
		line := c.Layer
		if c.New == nil {
			line += " deletes"
		} else if c.New.Mode&unix.S_IFMT == unix.S_IFREG {
			line += fmt.Sprintf(" %d %q %s", c.New.Size, c.New.Content, c.New.Link)
		}
		got[c.Path] = strings.TrimSpace(line)
	}
	want := map[string]string{
		"/etc": "srv", "/etc/a": `a 1 "a"`, "/etc/motd": `a 1 "a"`, "/.profile": `a 1 "a"`, "/etc/hard": "b deletes", "/etc/both": `srv 3 "srv"`,
		"/etc/big": fmt.Sprintf("srv %d %q", len(big), ""), "/etc/big2": fmt.Sprintf("srv %d %q /etc/big", len(big), ""),
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// script makes an archive from lines "TYPE NAME [TARGET]", with the types of tar: 0 file, 1 hard
// link, 2 link, 5 directory, 6 pipe.
func script(t testing.TB, text string) []byte {
	var members []member
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || !strings.Contains("0 1 2 5 6", f[0]) || strings.HasSuffix(f[1], "/") {
			continue
		}
		m := member{typ: f[0][0], name: f[1]}
		if m.typ == tar.TypeLink || m.typ == tar.TypeSymlink {
			m.link = strings.Join(f[2:], "")
		}
		members = append(members, m)
	}
	return archiveOf(t, members...)
}

// Whatever is in a layer, Look must predict what the node does with it.
func FuzzLook(f *testing.F) {
	f.Add("/etc/motd\n/full\n", "0 etc/motd\n5 usr/lib\n", "2 etc/l /run\n")
	f.Add("/bin\n/usr\n", "0 bin/sh\n", "0 usr/bin/x\n1 usr/y usr/bin/x\n")
	f.Add("/etc/link\n/var\n", "5 etc/link\n0 var\n", "6 var/run\n")
	f.Add("/full/of\n/dots\n/abs\n", "0 dots/bin/x\n2 full/of ../usr\n0 full\n", "0 dangling/x\n0 run\n5 var/run/x\n")
	f.Fuzz(func(t *testing.T, list, one, two string) {
		for _, text := range []string{one, two} {
			if len(text) > 1000 || strings.ContainsRune(text, 0) {
				t.Skip()
			}
		}
		root, outside := hostTree(t)
		t.Cleanup(func() { makeWritable(root) })
		var dirs []Dir
		for i, text := range []string{one, two} {
			dir := t.TempDir()
			if apply(t, dir, script(t, text)) != nil {
				return
			}
			os.RemoveAll(filepath.Join(dir, DeletionList))
			if i == 1 {
				os.WriteFile(filepath.Join(dir, DeletionList), []byte(list), 0o644)
			}
			dirs = append(dirs, Dir{Name: fmt.Sprint(i), Path: dir})
		}
		compareLook(t, root, nil, dirs)
		checkOutside(t, outside)
	})
}

// makeWritable makes the files of an archive writable, so that t.TempDir can remove them.
func makeWritable(dir string) {
	filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			os.Chmod(p, 0o700)
		}
		return nil
	})
}
