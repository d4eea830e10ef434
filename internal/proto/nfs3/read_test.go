package nfs3

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// must fails a test whose preparation failed.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestTree looks at a directory with all that a root file system has, and finds it as it is.
func TestTree(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	join := func(name string) string { return filepath.Join(dir, name) }
	noise := make([]byte, 3<<20+1)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	write(t, join("big"), noise, 0o644)
	write(t, join("su"), []byte("root"), 0o755|os.ModeSetuid|os.ModeSetgid)
	must(t, os.Mkdir(join("tmp"), 0o755))
	must(t, os.Chmod(join("tmp"), 0o777|os.ModeSticky))
	must(t, os.Symlink("su", join("link")))
	must(t, os.Link(join("su"), join("hard")))
	must(t, unix.Mknod(join("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(join("disk"), unix.S_IFBLK|0o600, int(unix.Mkdev(259, 70000))))
	must(t, unix.Mkfifo(join("pipe"), 0o600))
	must(t, unix.Mknod(join("sock"), unix.S_IFSOCK|0o755, 0))
	must(t, os.Chown(join("disk"), 7, 1234567))
	odd := "F\xc5\x91tan\xfas\xc3\xadtv\xff\n"
	write(t, join(odd), []byte("x"), 0o400)
	must(t, os.Truncate(join("su"), 5<<30))
	must(t, unix.Lutimes(join("link"), []unix.Timeval{{Sec: 1}, {Sec: 1 << 31}}))

	h := serveDir(t, dir, Export{ReadOnly: true, TrustRoot: true})
	c := h.dial(t)
	root := c.mount("/root")
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		var st unix.Stat_t
		must(t, unix.Lstat(join(e.Name()), &st))
		s, fh, v := c.lookup(root, e.Name())
		if s != statusOK {
			t.Errorf("%q: status %d", e.Name(), s)
			continue
		}
		want := attr{
			kind: v.kind, mode: st.Mode & 0o7777, nlink: uint32(st.Nlink), uid: st.Uid, gid: st.Gid, size: uint64(st.Size),
			used: uint64(st.Blocks) * 512, major: unix.Major(st.Rdev), minor: unix.Minor(st.Rdev),
			fsid: be.Uint64(append([]byte(nil), id8("root")...)), fileid: st.Ino, atime: st.Atim, mtime: st.Mtim, ctime: st.Ctim,
		}
		if d := cmp.Diff(want, *v, cmp.AllowUnexported(attr{})); d != "" {
			t.Errorf("%q: attributes differ (-want +got)\n%s", e.Name(), d)
		}
		if s, again := c.getattr(fh); s != statusOK || again != *v {
			t.Errorf("%q: GETATTR says otherwise: status %d", e.Name(), s)
		}
	}
	for name, kind := range map[string]uint32{"big": typeRegular, "tmp": typeDirectory, "link": typeLink, "null": typeChar,
		"disk": typeBlock, "pipe": typeFIFO, "sock": typeSocket} {
		if _, v := c.getattr(c.walk(root, name)); v.kind != kind {
			t.Errorf("%s is of type %d, want %d", name, v.kind, kind)
		}
	}
	if s, text := c.readlink(c.walk(root, "link")); s != statusOK || text != "su" {
		t.Errorf("link: %d %q", s, text)
	}
	if s, _ := c.readlink(c.walk(root, "su")); s != statusInval {
		t.Errorf("readlink of a file: %d", s)
	}
	if a, b := c.walk(root, "su"), c.walk(root, "hard"); !bytes.Equal(a, b) {
		t.Error("two names of a file have two handles")
	}
	checkData(t, c, c.walk(root, "big"), noise)
}

func id8(name string) []byte {
	id := IDOf(name)
	return id[:]
}

// checkData reads a file in pieces of all sizes.
func checkData(t *testing.T, c *client, h, want []byte) {
	t.Helper()
	size := uint64(len(want))
	for _, n := range []uint32{1 << 20, 128 << 10, 65536, 65535, 4096, 511} {
		for _, off := range []uint64{0, 1, 4096, size - uint64(n), size - 1} {
			stop := min(off+uint64(n), size)
			s, data, eof := c.read(h, off, n)
			if s != statusOK || !bytes.Equal(data, want[off:stop]) || eof != (stop == size) {
				t.Fatalf("READ of %d at %d: status %d, %d bytes, end %v", n, off, s, len(data), eof)
			}
		}
	}
	for _, off := range []uint64{size, size + 1, 1 << 62, 1 << 63, 1<<64 - 1} {
		if s, data, eof := c.read(h, off, 4096); s != statusOK || len(data) != 0 || !eof {
			t.Errorf("READ at %d: status %d, %d bytes, end %v", off, s, len(data), eof)
		}
	}
	if s, data, _ := c.read(h, 0, 1<<31); s != statusOK || !bytes.Equal(data, want[:1<<20]) {
		t.Errorf("READ of 2 GiB: status %d, %d bytes", s, len(data))
	}
}

// entry is one of READDIR or READDIRPLUS.
type entry struct {
	fileid, cookie uint64
	name           string
	attr           *attr
	handle         []byte
}

// readdir lists a part of a directory: after cookie, in at most count bytes.
func (c *client) readdir(h []byte, plus bool, cookie, verifier uint64, count uint32) (s status, all []entry, ver uint64, eof bool) {
	c.t.Helper()
	b := appendU64(appendU64(appendOpaque(nil, h), cookie), verifier)
	proc := uint32(procReaddir)
	if plus {
		proc = procReaddirplus
		b = appendU32(b, count)
	}
	a := c.nfs(proc, appendU32(b, count))
	whole := len(a.b)
	s = status(a.u32())
	a.post()
	if s == statusOK {
		ver = a.u64()
		for a.flag() {
			e := entry{fileid: a.u64(), name: string(a.opaque(maxRecord)), cookie: a.u64()}
			if plus {
				e.attr = a.post()
				if a.flag() {
					e.handle = a.opaque(maxHandle)
				}
			}
			all = append(all, e)
		}
		eof = a.flag()
		if uint32(whole-4) > count {
			c.t.Errorf("a listing of %d bytes, %d asked for", whole-4, count)
		}
	}
	c.ended(a, "READDIR")
	return s, all, ver, eof
}

// list lists a directory whole, in parts of count bytes.
func (c *client) list(h []byte, plus bool, count uint32) (all []entry) {
	c.t.Helper()
	var cookie, verifier uint64
	for {
		s, part, ver, eof := c.readdir(h, plus, cookie, verifier, count)
		if s != statusOK || !eof && len(part) == 0 {
			c.t.Fatalf("listing: status %d, %d entries", s, len(part))
		}
		all = append(all, part...)
		if eof {
			return all
		}
		cookie, verifier = part[len(part)-1].cookie, ver
	}
}

// TestReaddir lists directories of many sizes in parts of many sizes, and goes on after a restart
// of the server.
func TestReaddir(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	want := map[string]bool{".": true, "..": true}
	for i := range 1500 {
		name := fmt.Sprintf("%d-%s", i, strings.Repeat("n", i%250))
		write(t, filepath.Join(dir, name), nil, 0o644)
		want[name] = true
	}
	h := serveDir(t, dir, Export{ReadOnly: true, TrustRoot: true})
	c := h.dial(t)
	root := c.mount("/root")
	_, self := c.getattr(root)
	for _, plus := range []bool{false, true} {
		for _, count := range []uint32{512, 4096, 65536, 1 << 20} {
			got := map[string]bool{}
			for _, e := range c.list(root, plus, count) {
				if got[e.name] {
					t.Errorf("%s twice", e.name)
				}
				got[e.name] = true
				if dot := strings.Trim(e.name, ".") == ""; dot {
					if e.fileid != self.fileid {
						t.Errorf("%s is %d, not %d", e.name, e.fileid, self.fileid)
					}
				} else if plus {
					if s, fh, v := c.lookup(root, e.name); s != statusOK || !bytes.Equal(fh, e.handle) || e.attr == nil || *v != *e.attr || v.fileid != e.fileid {
						t.Fatalf("%s: READDIRPLUS and LOOKUP differ: status %d", e.name, s)
					}
				}
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("plus %v, count %d: %s", plus, count, d)
			}
		}
	}
	if s, _, _, _ := c.readdir(root, false, 0, 0, 100); s != statusTooSmall {
		t.Errorf("100 bytes for a listing: status %d", s)
	}
	_, part, ver, _ := c.readdir(root, false, 0, 0, 4096)
	if s, _, _, _ := c.readdir(root, false, part[3].cookie, ver+1, 4096); s != statusBadCookie {
		t.Errorf("another verifier: status %d", s)
	}
	if s, _, _, _ := c.readdir(c.walk(root, part[2].name), false, 0, 0, 4096); s != statusNotDir {
		t.Errorf("listing of a file: status %d", s)
	}
}

// TestReadOnly: nothing changes a read-only export, and everything says why.
func TestReadOnly(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), []byte("1"), 0o666)
	must(t, unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	h := serveDir(t, dir, Export{ReadOnly: true, TrustRoot: true})
	c := h.dial(t)
	root := c.mount("/root")
	fh := c.walk(root, "file")
	list := func() (names []string) {
		for _, e := range c.list(root, false, 4096) {
			names = append(names, e.name)
		}
		return names
	}
	before := list()
	_, v := c.getattr(fh)
	var got []status
	add := func(s status) { got = append(got, s) }
	s, _, _, _ := c.write(fh, 0, []byte("2"), 0)
	add(s)
	s, _ = c.setattr(fh, mode(0), nil)
	add(s)
	s, _, _, _ = c.create(root, "new", createGuarded, mode(0))
	add(s)
	s, _, _, _ = c.mkdir(root, "new", mode(0))
	add(s)
	s, _, _, _ = c.symlink(root, "new", "x")
	add(s)
	s, _, _, _ = c.mknod(root, "new", typeFIFO, mode(0), 0, 0)
	add(s)
	s, _ = c.unlink(procRemove, root, "file")
	add(s)
	s, _ = c.unlink(procRmdir, root, "file")
	add(s)
	s, _, _ = c.rename(root, "file", root, "new")
	add(s)
	s, _, _ = c.link(fh, root, "new")
	add(s)
	for i, s := range got {
		if s != statusROFS {
			t.Errorf("change %d: status %d", i, s)
		}
	}
	if _, now := c.getattr(fh); now != v {
		t.Errorf("changed: %+v to %+v", v, now)
	}
	if d := cmp.Diff(before, list()); d != "" {
		t.Error(d)
	}
	const all = accessRead | accessLookup | accessModify | accessExtend | accessDelete | accessExecute
	for path, want := range map[string]uint32{"file": accessRead, "null": accessRead | accessModify | accessExtend} {
		if s, bits := c.access(c.walk(root, path), all); s != statusOK || bits != want {
			t.Errorf("ACCESS of %s: status %d, %#x, want %#x", path, s, bits, want)
		}
	}
	if s, bits := c.access(root, all); s != statusOK || bits != accessRead|accessLookup {
		t.Errorf("ACCESS of the root: status %d, %#x", s, bits)
	}
}
