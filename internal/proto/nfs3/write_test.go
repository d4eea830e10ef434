package nfs3

import (
	"bytes"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// writable serves an empty directory to be written.
func writable(t *testing.T) (dir string, h *host, c *client, root []byte) {
	t.Helper()
	needRoot(t)
	dir = t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	h = serveDir(t, dir, Export{TrustRoot: true})
	c = h.dial(t)
	return dir, h, c, c.mount("/root")
}

func stat(t *testing.T, name string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(name, &st))
	return st
}

// ok fails where a status is another than want.
func ok(t *testing.T, what string, got, want status) {
	t.Helper()
	if got != want {
		t.Errorf("%s: status %d, want %d", what, got, want)
	}
}

// checkWcc checks that a change was told whole: before is what was known, and after is what is now.
func checkWcc(t *testing.T, what string, w change, before attr, now func() (status, attr)) {
	t.Helper()
	if !w.known || w.size != before.size || w.mtime != before.mtime || w.ctime != before.ctime {
		t.Errorf("%s: attributes before are %+v, want those of %+v", what, w, before)
	}
	if _, v := now(); w.after == nil || *w.after != v {
		t.Errorf("%s: attributes after are %+v, want %+v", what, w.after, v)
	}
}

// TestWrite writes in pieces of all sizes and kinds, and looks at the file on this side.
func TestWrite(t *testing.T) {
	dir, h, c, root := writable(t)
	s, fh, _, _ := c.create(root, "file", createGuarded, mode(0o644))
	ok(t, "CREATE", s, statusOK)
	want := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{1}).Read(want)
	var verifiers []uint64
	off := 0
	for i, n := range []int{1 << 20, 1, 4095, 65536, 3, 128 << 10, 8192, 100_001} {
		s, w, count, v := c.write(fh, uint64(off), want[off:off+n], uint32(i%3))
		off += n
		if s != statusOK || count != uint32(n) || w.after == nil || w.after.size != uint64(off) {
			t.Errorf("WRITE of %d: status %d, %d, %+v", n, s, count, w.after)
		}
		verifiers = append(verifiers, v)
	}
	s, v := c.commit(fh)
	ok(t, "COMMIT", s, statusOK)
	for _, o := range append(verifiers, h.verifier.Load()) {
		if o != v {
			t.Errorf("verifiers differ: %v, %d", verifiers, v)
		}
	}
	got, err := os.ReadFile(filepath.Join(dir, "file"))
	if err != nil || !bytes.Equal(got, want[:off]) {
		t.Errorf("the file has %d bytes and differs: %v", len(got), err)
	}
	for at, n := range map[uint64]status{math.MaxInt64: statusFBig, math.MaxUint64 - 2: statusFBig} {
		s, _, _, _ := c.write(fh, at, []byte("data"), 0)
		ok(t, "WRITE behind the end of the world", s, n)
	}
	s, _, _, _ = c.write(fh, 5<<30, []byte("x"), writeFileSync)
	ok(t, "WRITE behind a hole", s, statusOK)
	if _, v := c.getattr(fh); v.size != 5<<30+1 || v.used > 1<<24 {
		t.Errorf("a hole: size %d, used %d", v.size, v.used)
	}
	s, _, _, _ = c.write(root, 0, []byte("x"), 0)
	ok(t, "WRITE to a directory", s, statusIsDir)
	a := c.nfs(procWrite, appendOpaque(appendU32(appendU32(appendU64(appendOpaque(nil, fh), 0), 9), 0), "four"))
	ok(t, "WRITE of another count", status(a.u32()), statusInval)
}

// TestCreate makes everything there is, with modes past the umask, and looks at it on this side.
func TestCreate(t *testing.T) {
	dir, _, c, root := writable(t)
	defer unix.Umask(unix.Umask(0o77))
	uid, gid := uint32(12), uint32(345678)
	s := mode(0o6751)
	s.uid, s.gid = &uid, &gid
	s.mtime = unix.Timespec{Sec: 1 << 30, Nsec: 5}
	_, before := c.getattr(root)
	st, fh, v, w := c.create(root, "su", createGuarded, s)
	ok(t, "CREATE", st, statusOK)
	checkWcc(t, "CREATE", w, before, func() (status, attr) { return c.getattr(root) })
	if v.uid != uid || v.gid != gid || v.mtime != s.mtime || v.mode != 0o751 { // a change of owner takes the bits away
		t.Errorf("made %+v", v)
	}
	st, w = c.setattr(fh, mode(0o6751), nil)
	ok(t, "SETATTR", st, statusOK)
	if got := stat(t, filepath.Join(dir, "su")).Mode; got != unix.S_IFREG|0o6751 || w.after.mode != 0o6751 {
		t.Errorf("mode %#o, %#o", got, w.after.mode)
	}
	for _, k := range []struct {
		name  string
		make  func(name string) (status, []byte, *attr, change)
		mode  uint32
		check func(st unix.Stat_t) bool
	}{
		{"dir", func(n string) (status, []byte, *attr, change) { return c.mkdir(root, n, mode(0o1777)) }, unix.S_IFDIR | 0o1777, nil},
		{"null", func(n string) (status, []byte, *attr, change) {
			return c.mknod(root, n, typeChar, mode(0o666), 1, 3)
		}, unix.S_IFCHR | 0o666, func(st unix.Stat_t) bool { return st.Rdev == unix.Mkdev(1, 3) }},
		{"disk", func(n string) (status, []byte, *attr, change) {
			return c.mknod(root, n, typeBlock, mode(0o660), 259, 1<<20-1)
		}, unix.S_IFBLK | 0o660, func(st unix.Stat_t) bool { return st.Rdev == unix.Mkdev(259, 1<<20-1) }},
		{"pipe", func(n string) (status, []byte, *attr, change) {
			return c.mknod(root, n, typeFIFO, mode(0o622), 0, 0)
		}, unix.S_IFIFO | 0o622, nil},
		{"socket", func(n string) (status, []byte, *attr, change) {
			return c.mknod(root, n, typeSocket, mode(0o777), 0, 0)
		}, unix.S_IFSOCK | 0o777, nil},
		{"link", func(n string) (status, []byte, *attr, change) { return c.symlink(root, n, "../any\xffwhere") },
			unix.S_IFLNK | 0o777, nil},
		{"naïve\n\xff", func(n string) (status, []byte, *attr, change) {
			return c.create(root, n, createUnchecked, mode(0o666))
		}, unix.S_IFREG | 0o666, nil},
	} {
		s, fh, v, _ := k.make(k.name)
		ok(t, k.name, s, statusOK)
		here := stat(t, filepath.Join(dir, k.name))
		if here.Mode != k.mode || v == nil || v.mode != k.mode&0o7777 || v.fileid != here.Ino || k.check != nil && !k.check(here) {
			t.Errorf("%s: made %#o %#x, told %+v", k.name, here.Mode, here.Rdev, v)
		}
		if _, again, _ := c.lookup(root, k.name); !bytes.Equal(again, fh) {
			t.Errorf("%s: LOOKUP finds another", k.name)
		}
		s, _, _, _ = k.make(k.name)
		want := statusExist
		if strings.HasPrefix(k.name, "na") {
			want = statusOK // unchecked
		}
		ok(t, "again "+k.name, s, want)
	}
	if text, err := os.Readlink(filepath.Join(dir, "link")); text != "../any\xffwhere" {
		t.Errorf("link %q, %v", text, err)
	}
	st, _, _, _ = c.mknod(root, "what", typeRegular, mode(0), 0, 0)
	ok(t, "MKNOD of a file", st, statusBadType)
	st, _, _, _ = c.mknod(root, "what", typeChar, mode(0), 4096, 0)
	ok(t, "MKNOD of a device there cannot be", st, statusInval)
	st, _, _, _ = c.symlink(root, "long", strings.Repeat("l", 4096))
	ok(t, "SYMLINK of 4096 bytes", st, statusNameTooLong)
	for name, want := range map[string]status{"": statusInval, ".": statusExist, "..": statusExist, "a/b": statusInval,
		"a\x00b": statusInval, strings.Repeat("n", 256): statusNameTooLong, strings.Repeat("n", 255): statusOK} {
		s, _, _, _ := c.create(root, name, createGuarded, mode(0o644))
		ok(t, "CREATE of "+name, s, want)
	}
}

// TestCreateModes: unchecked takes what is there, guarded does not, exclusive only what it has
// made.
func TestCreateModes(t *testing.T) {
	dir, _, c, root := writable(t)
	write(t, filepath.Join(dir, "there"), []byte("12345"), 0o600)
	s, fh, v, _ := c.create(root, "there", createUnchecked, mode(0o777))
	if ok(t, "unchecked", s, statusOK); v.size != 5 || v.mode != 0o600 {
		t.Errorf("%+v", v)
	}
	empty := mode(0o777)
	empty.size = new(uint64)
	s, again, v, _ := c.create(root, "there", createUnchecked, empty)
	if ok(t, "unchecked, emptied", s, statusOK); v.size != 0 || v.mode != 0o600 || !bytes.Equal(fh, again) {
		t.Errorf("%+v", v)
	}
	s, _, _, _ = c.create(root, "there", createGuarded, mode(0o777))
	ok(t, "guarded", s, statusExist)
	s, _, _, _ = c.createExclusive(root, "there", 7)
	ok(t, "exclusive", s, statusExist)
	for range 2 { // the second is the first, repeated
		s, fh, _, _ = c.createExclusive(root, "new", 0xfedcba9876543210)
		ok(t, "exclusive", s, statusOK)
	}
	s, _, _, _ = c.createExclusive(root, "new", 0xfedcba9876543211)
	ok(t, "exclusive, another's", s, statusExist)
	set := mode(0o640)
	set.atime, set.mtime = now(), now()
	s, w := c.setattr(fh, set, nil)
	if ok(t, "SETATTR", s, statusOK); w.after.mode != 0o640 || w.after.mtime.Sec < 1<<30 {
		t.Errorf("%+v", w.after)
	}
	must(t, os.Mkdir(filepath.Join(dir, "dir"), 0o755))
	must(t, os.Symlink("nowhere", filepath.Join(dir, "link")))
	for _, name := range []string{"dir", "link"} {
		for how := range uint32(2) {
			s, _, _, _ := c.create(root, name, how, mode(0o644))
			ok(t, "CREATE over a "+name, s, statusExist)
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "nowhere")); err == nil {
		t.Error("made through a link")
	}
}

func TestSetattr(t *testing.T) {
	dir, _, c, root := writable(t)
	name := filepath.Join(dir, "file")
	write(t, name, []byte("0123456789"), 0o644)
	fh := c.walk(root, "file")
	_, v := c.getattr(fh)
	size, uid := uint64(3), uint32(1000)
	s, w := c.setattr(fh, sattr{size: &size, atime: no(), mtime: no()}, &v.ctime)
	ok(t, "guarded", s, statusOK)
	checkWcc(t, "SETATTR", w, v, func() (status, attr) { return c.getattr(fh) })
	s, _ = c.setattr(fh, mode(0), &v.ctime)
	ok(t, "guarded by an old time", s, statusNotSync)
	set := mode(0o4711)
	set.uid, set.atime, set.mtime = &uid, unix.Timespec{Sec: 1 << 31, Nsec: 999999999}, unix.Timespec{Sec: 12, Nsec: 34}
	s, _ = c.setattr(fh, set, nil)
	ok(t, "SETATTR", s, statusOK)
	st := stat(t, name)
	if st.Size != 3 || st.Mode&0o7777 != 0o4711 || st.Uid != 1000 || st.Gid != 0 || st.Atim != set.atime || st.Mtim != set.mtime {
		t.Errorf("%+v", st)
	}
	big := uint64(1 << 63)
	s, _ = c.setattr(fh, sattr{size: &big, atime: no(), mtime: no()}, nil)
	ok(t, "a size of 2^63", s, statusFBig)
	none := uint32(math.MaxUint32)
	s, _ = c.setattr(fh, sattr{uid: &none, atime: no(), mtime: no()}, nil)
	ok(t, "a user of -1", s, statusInval)
	s, _ = c.setattr(root, sattr{size: &size, atime: no(), mtime: no()}, nil)
	ok(t, "the size of a directory", s, statusIsDir)
	must(t, os.Symlink("x", filepath.Join(dir, "link")))
	must(t, unix.Mknod(filepath.Join(dir, "dev"), unix.S_IFCHR|0o600, 0))
	gid := uint32(77)
	for _, special := range []string{"link", "dev"} {
		s, _ = c.setattr(c.walk(root, special), sattr{uid: &uid, gid: &gid, atime: no(), mtime: set.mtime}, nil)
		if st := stat(t, filepath.Join(dir, special)); s != statusOK || st.Uid != uid || st.Gid != gid || st.Mtim != set.mtime {
			t.Errorf("%s: status %d, %+v", special, s, st)
		}
	}
	s, _ = c.setattr(c.walk(root, "dev"), mode(0o644), nil)
	if st := stat(t, filepath.Join(dir, "dev")); s != statusOK || st.Mode != unix.S_IFCHR|0o644 {
		t.Errorf("dev: status %d, %#o", s, st.Mode)
	}
}

// TestChmodBefore66 takes the way that kernels without fchmodat2 need.
func TestChmodBefore66(t *testing.T) {
	needRoot(t)
	name := filepath.Join(t.TempDir(), "pipe")
	must(t, unix.Mkfifo(name, 0o600))
	fd, err := unix.Open(name, unix.O_PATH, 0)
	must(t, err)
	defer unix.Close(fd)
	for i, f := range []func(int, uint32) error{chmod, chmodByName} {
		must(t, (&cred{uid: 0, gid: 5}).as(func() error { return f(fd, 0o640+uint32(i)) }))
		if got := stat(t, name).Mode & 0o7777; got != 0o640+uint32(i) {
			t.Errorf("mode %#o", got)
		}
	}
}

func TestRemove(t *testing.T) {
	dir, _, c, root := writable(t)
	write(t, filepath.Join(dir, "file"), nil, 0o644)
	write(t, filepath.Join(dir, "full/file"), nil, 0o644)
	must(t, os.Mkdir(filepath.Join(dir, "empty"), 0o755))
	fh := c.walk(root, "file")
	_, before := c.getattr(root)
	s, w := c.unlink(procRemove, root, "file")
	ok(t, "REMOVE", s, statusOK)
	checkWcc(t, "REMOVE", w, before, func() (status, attr) { return c.getattr(root) })
	s, _ = c.getattr(fh)
	ok(t, "GETATTR of what was removed", s, statusStale)
	eh := c.walk(root, "empty")
	for _, k := range []struct {
		proc uint32
		name string
		want status
	}{
		{procRemove, "file", statusNoEnt}, {procRemove, "empty", statusIsDir}, {procRemove, ".", statusInval},
		{procRmdir, "full", statusNotEmpty}, {procRmdir, "empty", statusOK}, {procRmdir, ".", statusInval},
		{procRmdir, "..", statusExist}, {procRmdir, "full/file", statusInval}, {procRemove, "", statusInval},
	} {
		s, _ := c.unlink(k.proc, root, k.name)
		ok(t, k.name, s, k.want)
	}
	s, _ = c.getattr(eh)
	ok(t, "GETATTR of a directory that was removed", s, statusStale)
	s, _ = c.unlink(procRmdir, c.walk(root, "full"), "file")
	ok(t, "RMDIR of a file", s, statusNotDir)
}

// TestRemovedIsFreed: what has no name any more is not kept from being freed by the cache, whoever
// deleted it.
func TestRemovedIsFreed(t *testing.T) {
	dir, h, c, root := writable(t)
	open := func() (names []string) {
		fds, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		for _, fd := range fds {
			if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.Contains(to, "victim") {
				names = append(names, to)
			}
		}
		return names
	}
	handles := map[string][]byte{}
	for _, name := range []string{"victim-remove", "victim-rename", "victim-here", "other"} {
		s, fh, _, _ := c.create(root, name, createGuarded, mode(0o644))
		ok(t, "CREATE", s, statusOK)
		c.write(fh, 0, []byte("data"), 0)
		c.read(fh, 0, 4)
		handles[name] = fh
	}
	if len(open()) == 0 {
		t.Fatal("nothing is kept open: the test cannot show anything")
	}
	c.unlink(procRemove, root, "victim-remove")
	s, _, _ := c.rename(root, "other", root, "victim-rename")
	ok(t, "RENAME", s, statusOK)
	if left := strings.Join(open(), " "); strings.Contains(left, "deleted") {
		t.Errorf("still open: %s", left)
	}
	must(t, os.Remove(filepath.Join(dir, "victim-here")))
	s, _ = c.getattr(handles["victim-here"])
	ok(t, "GETATTR", s, statusStale)
	s, _ = c.getattr(handles["victim-rename"])
	ok(t, "GETATTR", s, statusStale)
	if left := strings.Join(open(), " "); strings.Contains(left, "deleted") {
		t.Errorf("still open: %s", left)
	}
	s, _ = c.getattr(handles["other"])
	ok(t, "GETATTR of what was renamed", s, statusOK)
	for range idleEpochs + 1 {
		h.files.age()
	}
	if left := open(); len(left) > 0 {
		t.Errorf("still open when idle: %q", left)
	}
	s, _ = c.getattr(handles["other"])
	ok(t, "GETATTR of what was closed", s, statusOK)
}

func TestRename(t *testing.T) {
	dir, _, c, root := writable(t)
	write(t, filepath.Join(dir, "a/file"), []byte("1"), 0o644)
	write(t, filepath.Join(dir, "b/old"), []byte("2"), 0o644)
	write(t, filepath.Join(dir, "b/full/file"), nil, 0o644)
	a, b := c.walk(root, "a"), c.walk(root, "b")
	fh := c.walk(a, "file")
	_, va := c.getattr(a)
	_, vb := c.getattr(b)
	s, wa, wb := c.rename(a, "file", b, "old")
	ok(t, "RENAME", s, statusOK)
	checkWcc(t, "from", wa, va, func() (status, attr) { return c.getattr(a) })
	checkWcc(t, "to", wb, vb, func() (status, attr) { return c.getattr(b) })
	if s, data, _ := c.read(fh, 0, 9); s != statusOK || string(data) != "1" {
		t.Errorf("by its old handle: status %d, %q", s, data)
	}
	if !bytes.Equal(c.walk(b, "old"), fh) {
		t.Error("the handle changed")
	}
	for _, k := range []struct {
		from   []byte
		a      string
		to     []byte
		b      string
		want   status
		though string
	}{
		{b, "old", b, ".nfs0001", statusOK, "the way of a client with the file open"},
		{b, ".nfs0001", b, "old", statusOK, "and back"},
		{a, "file", b, "old", statusNoEnt, ""},
		{b, "old", b, "full", statusIsDir, ""},
		{b, "full", b, "old", statusNotDir, ""},
		{root, "a", b, "full", statusNotEmpty, ""},
		{root, "b", b, "sub", statusInval, "into itself"},
		{b, ".", b, "x", statusInval, ""},
		{b, "old", b, "..", statusInval, ""},
		{b, "old", b, "a/b", statusInval, ""},
	} {
		s, _, _ := c.rename(k.from, k.a, k.to, k.b)
		ok(t, "RENAME of "+k.a+" to "+k.b+" "+k.though, s, k.want)
	}
}

func TestLink(t *testing.T) {
	dir, _, c, root := writable(t)
	write(t, filepath.Join(dir, "file"), []byte("1"), 0o644)
	must(t, os.Symlink("gone", filepath.Join(dir, "sym")))
	must(t, os.Mkdir(filepath.Join(dir, "dir"), 0o755))
	fh, dh := c.walk(root, "file"), c.walk(root, "dir")
	_, before := c.getattr(dh)
	s, v, w := c.link(fh, dh, "hard")
	ok(t, "LINK", s, statusOK)
	checkWcc(t, "LINK", w, before, func() (status, attr) { return c.getattr(dh) })
	if v.nlink != 2 || stat(t, filepath.Join(dir, "dir/hard")).Ino != v.fileid {
		t.Errorf("%+v", v)
	}
	s, _, _ = c.link(c.walk(root, "sym"), dh, "sym")
	if ok(t, "LINK of a link", s, statusOK); stat(t, filepath.Join(dir, "dir/sym")).Mode&unix.S_IFMT != unix.S_IFLNK {
		t.Error("the link was followed")
	}
	s, _, _ = c.link(fh, dh, "hard")
	ok(t, "LINK again", s, statusExist)
	s, _, _ = c.link(dh, root, "dir2")
	ok(t, "LINK of a directory", s, statusPerm)
}
