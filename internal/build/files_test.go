package build

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netroot/internal/recipe"
	"netroot/internal/sandbox"
)

// has lists files and links below dir as "path=content" or "path -> target", and empty directories.
func has(t *testing.T, dir string) string {
	t.Helper()
	var out []string
	must(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		must(t, err)
		rel, err := filepath.Rel(dir, name)
		must(t, err)
		switch {
		case d.Type() == fs.ModeSymlink:
			target, err := os.Readlink(name)
			must(t, err)
			out = append(out, rel+" -> "+target)
		case d.IsDir():
			if list, err := os.ReadDir(name); err == nil && len(list) == 0 {
				out = append(out, rel+"/")
			}
		default:
			text, err := os.ReadFile(name)
			must(t, err)
			out = append(out, rel+"="+string(text))
		}
		return nil
	}))
	return strings.Join(out, " ")
}

// TestFiles checks a table of sources and destinations, by default and with strict, as in
// Apptainer.
func TestFiles(t *testing.T) {
	host := map[string]string{
		"a.txt": "a", "b.txt": "b", ".h.txt": "h", "dir/x": "x", "dir/l": "-> x", "link": "-> dir", "sp ace": "s", "br[1]": "1", "deep/er/f": "f",
	}
	for _, tc := range []struct {
		name, src, dst string
		tree           map[string]string
		want           string // expected files, or after "!" a part of the error
		strict         string // empty: the same as want
	}{
		{name: "no destination", src: "deep/er/f", want: "deep/er/f=f"},
		{name: "no destination, above", src: "../host/a.txt", want: "host/a.txt=a"},
		{name: "no destination, there", src: "dir", tree: map[string]string{"dir/x": "old", "dir/y": "y"},
			want: "dir/l -> x dir/x=x dir/y=y", strict: "dir/dir/l=x dir/dir/x=x dir/x=old dir/y=y"},
		{name: "new name", src: "a.txt", dst: "/etc/new", want: "etc/new=a"},
		{name: "relative name", src: "a.txt", dst: "etc/new", want: "etc/new=a"},
		{name: "slash", src: "a.txt", dst: "/etc/new/", want: "etc/new/a.txt=a"},
		{name: "into a directory", src: "a.txt", dst: "/etc", tree: map[string]string{"etc/": ""}, want: "etc/a.txt=a"},
		{name: "over a file", src: "a.txt", dst: "/f", tree: map[string]string{"f": "old"}, want: "f=a"},
		{name: "over a link", src: "a.txt", dst: "/l", tree: map[string]string{"l": "-> f", "f": "old"}, want: "f=old l=a", strict: "f=a l -> f"},
		{name: "through a link", src: "a.txt", dst: "/bin/", tree: map[string]string{"bin": "-> /usr/bin", "usr/bin/": ""}, want: "bin -> /usr/bin usr/bin/a.txt=a"},
		{name: "not out of the tree", src: "a.txt", dst: "/../../etc/x", want: "etc/x=a"},
		{name: "not out by a link", src: "a.txt", dst: "/out/x", tree: map[string]string{"out": "-> ../../etc"}, want: "etc/x=a out -> ../../etc", strict: "!out is a link in the tree whose target does not exist"},
		{name: "not out by a file's link", src: "a.txt", dst: "/out", tree: map[string]string{"out": "-> ../host/b.txt"}, want: "out=a", strict: "!target does not exist"},
		{name: "directory", src: "dir", dst: "/opt/d", want: "opt/d/l -> x opt/d/x=x", strict: "opt/d/l=x opt/d/x=x"},
		{name: "directory, there", src: "dir", dst: "/opt/d", tree: map[string]string{"opt/d/": ""},
			want: "opt/d/dir/l -> x opt/d/dir/x=x", strict: "opt/d/dir/l=x opt/d/dir/x=x"},
		{name: "directory of that name", src: "dir", dst: "/opt/dir", tree: map[string]string{"opt/dir/": ""},
			want: "opt/dir/l -> x opt/dir/x=x", strict: "opt/dir/dir/l=x opt/dir/dir/x=x"},
		{name: "directory with a slash", src: "dir/", dst: "/opt/", want: "opt/dir/l -> x opt/dir/x=x", strict: "opt/dir/l=x opt/dir/x=x"},
		{name: "link to a directory", src: "link", dst: "/d", want: "d/l -> x d/x=x", strict: "d/l=x d/x=x"},
		{name: "star", src: "*.txt", dst: "/new/", want: "new/a.txt=a new/b.txt=b"},
		{name: "star without a slash", src: "*.txt", dst: "/new", want: "new/a.txt=a new/b.txt=b", strict: "new=b"},
		{name: "star without a destination", src: "*.txt", want: "a.txt=a b.txt=b"},
		{name: "star for one", src: "a*", dst: "/new", want: "new=a"},
		{name: "hidden, asked for", src: ".h*", dst: "/new/", want: "new/.h.txt=h"},
		{name: "in the middle", src: "*/er/f", dst: "/f", want: "f=f"},
		{name: "question mark", src: "?.txt", dst: "/n/", want: "n/a.txt=a n/b.txt=b"},
		{name: "class", src: "[!a].txt", dst: "/n", want: "n=b"},
		{name: "braces", src: "{a,b}.txt", dst: "/n/", want: "n/a.txt=a n/b.txt=b"},
		{name: "blank", src: "sp ace", dst: "/n", want: "n=s"},
		{name: "blank by a star", src: "sp*", dst: "/n/", want: "n/sp ace=s"},
		{name: "brackets in the name", src: "br[1]", dst: "/n", want: "n=1"},
		{name: "variable", src: "$NETROOT_TEST_DIR/x", dst: "/n", want: "n=x"},
		{name: "home", src: "~/deep", dst: "/n", want: "n/er/f=f"},
		{name: "all", src: "dir/.", dst: "/n/", want: "n/l -> x n/x=x", strict: "n/l=x n/x=x"},
		{name: "escaped", src: `a\.txt`, dst: "/n", want: "n=a"},
		{name: "escaped wildcard", src: `\*.txt`, dst: "/n/", want: "!no such file on the host: *.txt"},
		{name: "escaped brackets", src: `br\[1]`, dst: "/n", want: "n=1"},
		{name: "escaped variable", src: `\$HOME`, dst: "/n", want: "!no such file on the host: $HOME"},
		{name: "escaped home", src: `\~/deep`, dst: "/n", want: "!no such file on the host: ~/deep"},
		{name: "escaped, without a destination", src: `deep/\er/f`, want: "deep/er/f=f"},
		{name: "missing", src: "none", want: "!no such file on the host: none"},
		{name: "star for nothing", src: "none*", want: "!no such file on the host: none*"},
		{name: "one of braces missing", src: "{a,c}.txt", dst: "/n/", want: "!no such file on the host: c.txt"},
		{name: "empty variable", src: "$NETROOT_TEST_NONE", dst: "/n/", want: "!the name is empty"},
		{name: "below a file", src: "a.txt", dst: "/f/g", tree: map[string]string{"f": "old"}, want: "!", strict: "!"},
		{name: "contains the tree", src: "..", dst: "/n", want: "!contains the tree"},
	} {
		for _, strict := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, strict %v", tc.name, strict), func(t *testing.T) {
				if strict && os.Geteuid() != 0 {
					t.Skip("needs root: cp runs in namespaces")
				}
				dir := t.TempDir()
				lay(t, dir+"/host", host)
				lay(t, dir+"/tree", tc.tree)
				lay(t, dir, map[string]string{"tree/": ""})
				t.Setenv("NETROOT_TEST_DIR", "dir")
				t.Setenv("HOME", dir+"/host")
				root, err := os.OpenRoot(dir + "/tree")
				must(t, err)
				defer root.Close()
				c := copier{root: root, src: hostFiles{base: dir + "/host"}, dir: dir + "/tree"}
				want := tc.want
				if strict {
					var said strings.Builder
					c.strict = &sandbox.Host{Stderr: &said}
					if tc.strict != "" {
						want = tc.strict
					}
				}
				err = c.copy(t.Context(), recipe.FileEntry{Src: tc.src, Dst: tc.dst})
				if part, fails := strings.CutPrefix(want, "!"); fails {
					if err == nil || !strings.Contains(err.Error(), part) {
						t.Errorf("error %v, want one that says %q", err, part)
					}
					return
				}
				must(t, err)
				if d := cmp.Diff(strings.Fields(want), strings.Fields(has(t, dir+"/tree"))); d != "" {
					t.Errorf("the tree (-want +got):\n%s", d)
				}
			})
		}
	}
}

func TestStrictFilesAreNew(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: cp runs in namespaces")
	}
	dir := t.TempDir()
	lay(t, dir, map[string]string{"host/f": "f", "tree/": ""})
	must(t, os.Chown(dir+"/host/f", 7, 8), os.Chmod(dir+"/host/f", 0o777|fs.ModeSetuid))
	root, err := os.OpenRoot(dir + "/tree")
	must(t, err)
	defer root.Close()
	for _, strict := range []*sandbox.Host{nil, {Umask: 0o002}} {
		c := copier{root: root, src: hostFiles{base: dir + "/host"}, dir: dir + "/tree", strict: strict}
		must(t, c.copy(t.Context(), recipe.FileEntry{Src: "f", Dst: "/f"}))
		want := "- 4777 7:8 /f \"f\"\n"
		if strict != nil {
			want = "- 0775 0:0 /f \"f\"\n"
			must(t, os.Remove(dir+"/tree/f"), c.copy(t.Context(), recipe.FileEntry{Src: "f", Dst: "/f"}))
		}
		if got := listing(t, dir+"/tree"); !strings.HasSuffix(got, want) {
			t.Errorf("strict %v: %s, want %s", strict != nil, got, want)
		}
	}
}

// TestFilesFromStage checks that the links of a stage are resolved inside its tree.
func TestFilesFromStage(t *testing.T) {
	t.Setenv("NETROOT_TEST_DIR", "bin")
	for _, tc := range []struct{ src, dst, want string }{
		{"/usr/bin/tool", "", "usr/bin/tool=t"},
		{"/bin/tool", "/opt/", "opt/tool=t"},
		{"/bin/*", "/opt/", "opt/other=o opt/tool=t"},
		{"bin/t*", "/x", "x=t"},
		{"/bin", "/sbin", "sbin/other=o sbin/tool=t"},
		{"/out/passwd", "/x", "!no such file in that stage: /out/passwd"},
		{"/none*", "/x", "!no such file in that stage: /none*"},
		{"/../usr/bin/tool", "/x", "x=t"},
		{`/usr/bin/\tool`, "/x", "x=t"},
		{"/usr/$NETROOT_TEST_DIR/tool", "/x", "x=t"},
	} {
		dir := t.TempDir()
		lay(t, dir, map[string]string{"stage/usr/bin/tool": "t", "stage/usr/bin/other": "o", "stage/bin": "-> /usr/bin", "stage/out": "-> /etc", "tree/": ""})
		stage, err := os.OpenRoot(dir + "/stage")
		must(t, err)
		root, err := os.OpenRoot(dir + "/tree")
		must(t, err)
		c := copier{root: root, src: stageFiles{stage}, dir: dir + "/tree"}
		err = c.copy(t.Context(), recipe.FileEntry{Src: tc.src, Dst: tc.dst})
		if part, fails := strings.CutPrefix(tc.want, "!"); fails {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: error %v", tc.src, err)
			}
		} else if got := has(t, dir+"/tree"); err != nil || got != tc.want {
			t.Errorf("%s: %q, %v; want %q", tc.src, got, err, tc.want)
		}
		must(t, stage.Close(), root.Close())
	}
}

// TestExpandAsShell holds expand against bash, which knows braces.
func TestExpandAsShell(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal(err)
	} else if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"a.txt", "b.txt", ".h.txt", "[x]", "!", "d/a*b", "d/.e/f", `d/back\slash`, "e{1,2}", "$V", "~"} {
		lay(t, dir, map[string]string{name: ""})
	}
	t.Setenv("V", `d/*`)
	t.Setenv("W", `d/back\slash`)
	for _, pattern := range []string{
		"a.txt", `a\.txt`, `a\.*`, "*", `\*`, `*\.txt`, `d/a\*b`, `d/a\**`, `\.*`, `.\h*`, "[[]x]", `\[x]`, `[!a].txt`, `[\!a]*`, `[a\!]`, `\{a,b}.txt`, `{a\,b}.txt`,
		`{a,b}\.txt`, `e{1\,2}`, `e\{1,2\}`, "$V", "${V}", `\$V`, `$\V`, "$W", `d\/a*`, "d/*/f", "d/.*/f", `d/back\\slash`, `d/back\\*`, `\~`, "none{1,2}*", `no\ne`,
	} {
		out, err := exec.Command(bash, "--norc", "-c", `cd "$1" && printf '%s\n' `+pattern, "bash", dir).Output()
		must(t, err)
		got := strings.Join(expand(hostFiles{base: dir}, expandVariables(pattern)), "\n") + "\n"
		sorted := func(s string) []string { return slices.Sorted(strings.SplitSeq(s, "\n")) }
		if d := cmp.Diff(sorted(string(out)), sorted(got)); d != "" {
			t.Errorf("%s (-bash +netroot):\n%s", pattern, d)
		}
	}
}

// names is a namespace for tests: directories and the names in them.
type names map[string][]string

func (n names) names(dir string) []string { return n[dir] }

func (n names) exists(name string) bool {
	dir, base := filepath.Split(name)
	return slices.Contains(n[strings.TrimSuffix(dir, "/")], base) || slices.Contains(slices.Collect(maps.Keys(n)), name)
}

func TestExpand(t *testing.T) {
	ns := names{"": {"a", "b", "d"}, "d": {".x", "y", "z*"}, "/": {"etc"}, "/etc": {"passwd"}}
	for pattern, want := range map[string]string{
		"a": "a", "none": "none", "*": "a b d", "d/*": "d/y d/z*", "d/.*": "d/.x", "*/y": "d/y", "*/none": "*/none", "d/*/": "d/y d/z*",
		"{a,none}": "a none", "{*,d/y}": "a b d d/y", "[ab]": "a b", "[!ab]": "d", "[": "[", "{a": "{a", "{a}": "{a}", "{,d/}y": "y d/y",
		"/*/pass*": "/etc/passwd", "**": "a b d", "": "", "?": "a b d", "x{a,b}{1,2}": "xa1 xa2 xb1 xb2",
	} {
		if got := strings.Join(expand(ns, pattern), " "); got != want {
			t.Errorf("%q: %q, want %q", pattern, got, want)
		}
	}
}
