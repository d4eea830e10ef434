package bootstrap

import (
	"archive/tar"
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// file is an entry of a layer: a directory when its name ends in "/", a link when to is set, else a
// regular file.
type file struct {
	name, to, body string
	typ            byte
	mode           int64
	edit           func(*tar.Header)
}

// layerOf makes an uncompressed layer whose files belong to the user who runs the test.
func layerOf(t testing.TB, files ...file) []byte {
	t.Helper()
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	for _, f := range files {
		hdr := &tar.Header{
			Name: f.name, Linkname: f.to, Typeflag: f.typ, Mode: f.mode, Size: int64(len(f.body)), Uid: os.Getuid(), Gid: os.Getgid(),
			ModTime: time.Unix(1e9, 0), Format: tar.FormatPAX,
		}
		switch {
		case f.typ != 0:
		case strings.HasSuffix(f.name, "/"):
			hdr.Typeflag = tar.TypeDir
		case f.to != "":
			hdr.Typeflag = tar.TypeSymlink
		default:
			hdr.Typeflag = tar.TypeReg
		}
		if f.mode == 0 {
			hdr.Mode = 0o755
		}
		if f.edit != nil {
			f.edit(hdr)
		}
		must(t, tw.WriteHeader(hdr))
		_, err := tw.Write([]byte(f.body))
		must(t, err)
	}
	must(t, tw.Close())
	return out.Bytes()
}

// unpackAll unpacks layers into a directory, from the lowest to the highest.
func unpackAll(t testing.TB, dir string, layers ...[]byte) error {
	t.Helper()
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	for _, l := range layers {
		want, _, err := v1.SHA256(bytes.NewReader(l))
		must(t, err)
		if err := unpack(root, bytes.NewReader(l), want); err != nil {
			return err
		}
	}
	return nil
}

// list lists the files of a tree: directories with "/", files with "=" and their content, links
// with "->".
func list(t testing.TB, dir string) []string {
	t.Helper()
	var out []string
	must(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		must(t, err)
		rel, _ := filepath.Rel(dir, p)
		switch {
		case rel == ".":
			return nil
		case d.IsDir():
			rel += "/"
		case d.Type()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(p)
			rel += "->" + to
		case d.Type().IsRegular():
			b, err := os.ReadFile(p)
			must(t, err)
			rel += "=" + string(b)
		}
		out = append(out, rel)
		return nil
	}))
	return out
}

var lower = []file{
	{name: "a/"}, {name: "a/x", body: "1"}, {name: "a/y", body: "2"}, {name: "a/d/"}, {name: "a/d/z", body: "3"}, {name: "f", body: "4"},
	{name: "l", to: "a"}, {name: "abs", to: "/a/d"},
}

func TestUnpack(t *testing.T) {
	all := []string{"a/", "a/d/", "a/d/z=3", "a/x=1", "a/y=2", "abs->/a/d", "f=4", "l->a"}
	without := func(names ...string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return slices.Contains(names, s) })
	}
	and := func(list []string, more ...string) []string {
		list = append(list, more...)
		slices.SortFunc(list, func(a, b string) int {
			return strings.Compare(strings.ReplaceAll(a, "/", "\x00"), strings.ReplaceAll(b, "/", "\x00"))
		})
		return list
	}
	for _, tc := range []struct {
		name  string
		upper []file
		want  []string
	}{
		{"nothing", nil, all},
		{"whiteout of a file", []file{{name: "a/.wh.x"}}, without("a/x=1")},
		{"of a directory", []file{{name: ".wh.a"}}, []string{"abs->/a/d", "f=4", "l->a"}},
		{"of a link, not its target", []file{{name: ".wh.l"}}, without("l->a")},
		{"through a link", []file{{name: "l/.wh.x"}}, without("a/x=1")},
		{"through an absolute link", []file{{name: "abs/.wh.z"}}, without("a/d/z=3")},
		{"of what is not there", []file{{name: ".wh.none"}, {name: "none/.wh.x"}, {name: "none/.wh..wh..opq"}}, all},
		{"opaque", []file{{name: "a/"}, {name: "a/.wh..wh..opq"}, {name: "a/new", body: "n"}}, []string{"a/", "a/new=n", "abs->/a/d", "f=4", "l->a"}},
		{"opaque after the files", []file{{name: "a/d/new", body: "n"}, {name: "a/y", body: "n"}, {name: "a/.wh..wh..opq"}},
			[]string{"a/", "a/d/", "a/d/new=n", "a/y=n", "abs->/a/d", "f=4", "l->a"}},
		{"opaque root", []file{{name: ".wh..wh..opq"}, {name: "new", body: "n"}}, []string{"new=n"}},
		{"whiteout after the same name", []file{{name: "a/"}, {name: "a/new", body: "n"}, {name: ".wh.a"}}, []string{"a/", "a/new=n", "abs->/a/d", "f=4", "l->a"}},
		{"whiteout after the same name by a link", []file{{name: "l/d/new", body: "n"}, {name: "a/.wh.d"}}, and(without("a/d/z=3"), "a/d/new=n")},
		{"whiteout after a replaced parent", []file{{name: "n/"}, {name: "n/x", body: "n"}, {name: "n", body: "m"}, {name: ".wh.f"}}, and(without("f=4"), "n=m")},
		{"AUFS's own", []file{{name: ".wh..wh.plnk/1.2", body: "?"}, {name: ".wh..wh.aufs"}}, all},
		{"a file for a directory", []file{{name: "a", body: "n"}}, []string{"a=n", "abs->/a/d", "f=4", "l->a"}},
		{"a link for a directory", []file{{name: "a/d", to: "../f"}}, and(without("a/d/", "a/d/z=3"), "a/d->../f")},
		{"a directory for a link", []file{{name: "l/"}, {name: "l/new", body: "n"}}, and(without("l->a"), "l/", "l/new=n")},
		{"a directory for a file", []file{{name: "f/"}}, and(without("f=4"), "f/")},
		{"a hard link to a lower layer", []file{{name: "hard", to: "a/x", typ: tar.TypeLink}}, and(without(), "hard=1")},
		{"a hard link with a slash", []file{{name: "a/hard", to: "/a/d/z", typ: tar.TypeLink}}, and(without(), "a/hard=3")},
		{"a hard link for a directory", []file{{name: "a/d", to: "f", typ: tar.TypeLink}}, and(without("a/d/", "a/d/z=3"), "a/d=4")},
		{"a file in a linked directory", []file{{name: "l/x", body: "n"}}, and(without("a/x=1"), "a/x=n")},
		{"dots and slashes", []file{{name: "./"}, {name: "./a/./.wh.x"}, {name: ".//f", body: "n"}}, and(without("a/x=1", "f=4"), "f=n")},
		{"a long name", []file{{name: strings.Repeat("n/", 150) + "f"}}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, unpackAll(t, dir, layerOf(t, lower...), layerOf(t, tc.upper...)))
			if tc.want == nil {
				if _, err := os.Stat(filepath.Join(dir, tc.upper[0].name)); err != nil {
					t.Error(err)
				}
				return
			}
			if diff := cmp.Diff(tc.want, list(t, dir)); diff != "" {
				t.Errorf("the tree (-want +got):\n%s", diff)
			}
		})
	}
}

// TestUnpackStaysInside unpacks hostile layers into a tree. A file beside the tree must not change.
func TestUnpackStaysInside(t *testing.T) {
	for _, tc := range []struct {
		name  string
		files []file
		want  string // part of the error; empty: the layer stays inside
	}{
		{"dots", []file{{name: "../outside/f", body: "x"}}, `entry "../outside/f": has ".." in its name`},
		{"dots in between", []file{{name: "a/../../outside/f", body: "x"}}, `has ".." in its name`},
		{"dots behind a link", []file{{name: "l", to: "/"}, {name: "l/../outside/f", body: "x"}}, `has ".." in its name`},
		{"absolute", []file{{name: "/outside/f", body: "x"}}, "absolute path"},
		{"whiteout with dots", []file{{name: "../outside/.wh.f"}}, `has ".." in its name`},
		{"absolute whiteout", []file{{name: "OUTSIDE/.wh.f"}}, "absolute path"},
		{"whiteout of ..", []file{{name: "a/"}, {name: "a/.wh..."}}, "whiteout without a name"},
		{"whiteout of .", []file{{name: ".wh.."}}, "whiteout without a name"},
		{"whiteout without a name", []file{{name: "a/.wh."}}, "whiteout without a name"},
		{"opaque with dots", []file{{name: "../outside/.wh..wh..opq"}}, `has ".." in its name`},
		{"hard link with dots", []file{{name: "h", to: "../outside/f", typ: tar.TypeLink}}, `".."`},
		{"hard link to the host", []file{{name: "h", to: "OUTSIDE/f", typ: tar.TypeLink}}, "no such file"},
		{"root as a link", []file{{name: "./", to: "OUTSIDE", typ: tar.TypeSymlink}}, "a file that is not a directory"},
		{"parent is a link", []file{{name: "etc", to: "OUTSIDE"}, {name: "etc/f", body: "x"}}, ""},
		{"parent is a relative link", []file{{name: "etc", to: "../outside"}, {name: "etc/f", body: "x"}}, ""},
		{"directory through a link", []file{{name: "etc", to: "OUTSIDE"}, {name: "etc/d/", mode: 0o777}}, ""},
		{"whiteout through a link", []file{{name: "etc", to: "OUTSIDE"}, {name: "etc/.wh.f"}}, ""},
		{"opaque through a link", []file{{name: "etc", to: "../outside"}, {name: "etc/.wh..wh..opq"}}, ""},
		{"written through a link", []file{{name: "f", to: "OUTSIDE/f"}, {name: "f", body: "x"}}, ""},
		{"link of a link", []file{{name: "a", to: "b"}, {name: "b", to: "OUTSIDE"}, {name: "a/f", body: "x"}}, ""},
		{"link to itself", []file{{name: "a", to: "a"}, {name: "a/f", body: "x"}}, "too many"},
		{"whiteout under a file", []file{{name: "a", body: "x"}, {name: "a/.wh.f"}}, "not a directory"},
		{"unknown kind", []file{{name: "x", typ: '7'}}, "type"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			outside := filepath.Join(dir, "outside")
			must(t, os.Mkdir(outside, 0o750))
			must(t, os.WriteFile(filepath.Join(outside, "f"), []byte("safe"), 0o640))
			before := describe(t, outside)
			for i := range tc.files {
				f := &tc.files[i]
				f.name, f.to = strings.ReplaceAll(f.name, "OUTSIDE", outside), strings.ReplaceAll(f.to, "OUTSIDE", outside)
			}
			tree := filepath.Join(dir, "tree")
			must(t, os.Mkdir(tree, 0o755))
			err := unpackAll(t, tree, layerOf(t, tc.files...))
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			if diff := cmp.Diff(before, describe(t, outside)); diff != "" {
				t.Errorf("outside changed (-before +after):\n%s", diff)
			}
			if names, _ := os.ReadDir(dir); len(names) != 2 {
				t.Errorf("beside the tree: %v", names)
			}
		})
	}
}

func TestUnpackDamaged(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	must(t, err)
	defer root.Close()
	l := layerOf(t, file{name: "f", body: strings.Repeat("x", 2000)})
	want, _, err := v1.SHA256(bytes.NewReader(l))
	must(t, err)
	if err := unpack(root, io.MultiReader(bytes.NewReader(l), strings.NewReader("more")), want); err == nil || !strings.Contains(err.Error(), "the layer is damaged") {
		t.Errorf("bytes behind the archive: %v", err)
	}
	if err := unpack(root, bytes.NewReader(l[:1000]), want); err == nil || !strings.Contains(err.Error(), "unexpected EOF") {
		t.Errorf("cut short: %v", err)
	}
	if err := unpack(root, strings.NewReader(strings.Repeat("no tar", 1000)), want); err == nil || !strings.Contains(err.Error(), "tar") {
		t.Errorf("no archive: %v", err)
	}
}

// TestUnpackKinds compares everything that a layer can say about a file with the results of stat.
func TestUnpackKinds(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	owned := func(uid, gid int) func(*tar.Header) { return func(h *tar.Header) { h.Uid, h.Gid = uid, gid } }
	must(t, unpackAll(t, dir, layerOf(t,
		file{name: "./", mode: 0o711},
		file{name: "su", body: "x", mode: 0o4755, edit: owned(0, 42)},
		file{name: "ping", body: "x", edit: func(h *tar.Header) {
			h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": capability, "VENDOR.thing": "dropped"}
		}},
		file{name: "tmp/", mode: 0o1777}, file{name: "locked/", mode: 0o500, edit: owned(7, 8)}, file{name: "locked/f", body: "x", mode: 0o400},
		file{name: "null", typ: tar.TypeChar, mode: 0o666, edit: func(h *tar.Header) { h.Devmajor, h.Devminor = 1, 3 }},
		file{name: "disk", typ: tar.TypeBlock, mode: 0o660, edit: func(h *tar.Header) { h.Devmajor, h.Devminor = 259, 70000 }},
		file{name: "fifo", typ: tar.TypeFifo, mode: 0o622}, file{name: "link", to: "/dangling", edit: owned(9, 10)},
		file{name: "nano", edit: func(h *tar.Header) { h.ModTime = time.Unix(1e9, 123456789); h.Uid = 1 << 31 }},
	)))
	got := describe(t, dir)
	want := map[string]string{
		"su":       "urwxr-xr-x 0:42 rdev 0 1000000000000000000 size 1 sparse false",
		"ping":     "-rwxr-xr-x 0:0 rdev 0 1000000000000000000 size 1 sparse false capability 0100000200200000000000000000000000000000",
		"tmp":      "dtrwxrwxrwx 0:0 rdev 0 1000000000000000000",
		"locked":   "dr-x------ 7:8 rdev 0 1000000000000000000",
		"locked/f": "-r-------- 0:0 rdev 0 1000000000000000000 size 1 sparse false",
		"null":     "Dcrw-rw-rw- 0:0 rdev 103 1000000000000000000",
		"disk":     "Drw-rw---- 0:0 rdev 11110370 1000000000000000000",
		"fifo":     "prw--w--w- 0:0 rdev 0 1000000000000000000",
		"link":     "Lrwxrwxrwx 9:10 rdev 0 1000000000000000000 -> /dangling",
		"nano":     "-rwxr-xr-x 2147483648:0 rdev 0 1000000000123456789 size 0 sparse false",
	}
	if !strings.HasPrefix(got["."], "drwx--x--x") {
		t.Errorf("the root is %s", got["."])
	}
	delete(got, ".")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the tree (-want +got):\n%s", diff)
	}
}

// TestUnpackSparse reads the sparse formats of GNU tar.
func TestUnpackSparse(t *testing.T) {
	gnutar := needTool(t, "tar")
	src := t.TempDir()
	content := bytes.Repeat([]byte{0}, 1<<20)
	copy(content[300000:], "in the middle")
	f, err := os.Create(filepath.Join(src, "sparse"))
	must(t, err)
	must(t, f.Truncate(int64(len(content))))
	_, err = f.WriteAt([]byte("in the middle"), 300000)
	must(t, err)
	must(t, f.Close())
	for _, format := range [][]string{{"--format=gnu"}, {"--format=posix"}, {"--format=posix", "--sparse-version=0.1"}, {"--format=posix", "--sparse-version=0.0"}} {
		l := output(t, gnutar, append([]string{"-C", src, "-c", "--sparse", "-f", "-"}, append(format, "sparse")...)...)
		if len(l) > len(content)/2 {
			t.Errorf("%v: the archive is not sparse: %d bytes", format, len(l))
		}
		dir := t.TempDir()
		must(t, unpackAll(t, dir, l))
		if got, err := os.ReadFile(filepath.Join(dir, "sparse")); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%v: %d bytes, %v", format, len(got), err)
		}
	}

	must(t, os.Truncate(filepath.Join(src, "sparse"), 1<<43))
	l := output(t, gnutar, "-C", src, "-c", "--sparse", "--format=posix", "-f", "-", "sparse")
	var st unix.Statfs_t
	must(t, unix.Statfs(src, &st))
	if int64(st.Bavail)*st.Bsize > 1<<43 {
		t.Skip("this disk has room for 8 TiB")
	}
	if err := unpackAll(t, t.TempDir(), l); err == nil || !strings.Contains(err.Error(), "sparse file of 8796093022208 bytes, but the tree's disk has") {
		t.Errorf("8 TiB: %v", err)
	}
}

// FuzzUnpack unpacks mutated layers into a tree. A file beside the tree must not change.
func FuzzUnpack(f *testing.F) {
	f.Add(layerOf(f, lower...))
	f.Add(layerOf(f, file{name: "etc", to: "../outside"}, file{name: "etc/.wh.f"}, file{name: "l/.wh..wh..opq"}, file{name: "a", body: "x"}))
	f.Add(layerOf(f, file{name: "h", to: "a/x", typ: tar.TypeLink}, file{name: "a/.wh..."}))
	f.Fuzz(func(t *testing.T, l []byte) {
		dir := t.TempDir()
		for _, d := range []string{"outside", "tree"} {
			must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
		}
		must(t, os.WriteFile(filepath.Join(dir, "outside/f"), []byte("safe"), 0o600))
		tree := filepath.Join(dir, "tree")
		must(t, os.Symlink("../outside", filepath.Join(tree, "out")))
		must(t, os.Symlink(filepath.Join(dir, "outside"), filepath.Join(tree, "abs")))
		before := describe(t, filepath.Join(dir, "outside"))
		_ = unpackAll(t, tree, layerOf(t, lower...), l)
		if diff := cmp.Diff(before, describe(t, filepath.Join(dir, "outside"))); diff != "" {
			t.Errorf("outside changed:\n%s", diff)
		}
		if names, _ := os.ReadDir(dir); len(names) != 2 {
			t.Errorf("beside the tree: %v", names)
		}
		// This lets TempDir be removed without root.
		_ = filepath.WalkDir(tree, func(p string, d fs.DirEntry, _ error) error {
			if d != nil && d.IsDir() {
				_ = os.Chmod(p, 0o755)
			}
			return nil
		})
	})
}
