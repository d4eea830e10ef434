package nfs3

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/prototest"
)

// acl is the extended attribute of an access ACL (include/uapi/linux/posix_acl_xattr.h): owner, a
// named user, the group, a named group, the mask, others.
func acl(owner, user, userPerm, group, namedGroup, groupPerm, mask, other int) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range [][3]int{{1, owner, -1}, {2, userPerm, user}, {4, group, -1}, {8, groupPerm, namedGroup}, {16, mask, -1}, {32, other, -1}} {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, uint32(int32(e[2])))
	}
	return b
}

// local says what the shell's test finds of -r, -w and -x when it runs as somebody: what a local
// process may.
func local(t *testing.T, name string, uid, gid uint32, groups ...uint32) (bits uint32) {
	t.Helper()
	cmd := exec.Command("sh", "-c", `test -r "$1" && echo r; test -w "$1" && echo w; test -x "$1" && echo x; true`, "sh", name)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid, Groups: groups}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for i, c := range []string{"r", "w", "x"} {
		if strings.Contains(string(out), c) {
			bits |= 4 >> i
		}
	}
	return bits
}

// TestAccess: for all kinds of modes, owners and ACLs, users, groups and supplementary groups,
// ACCESS, READ, WRITE and LOOKUP allow what a local process may, and the owner's READ and WRITE.
func TestAccess(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		must(t, os.Chmod(d, 0o755))
	}
	type named struct {
		name string
		dir  bool
	}
	var names []named
	for _, mode := range []os.FileMode{0o644, 0o600, 0o040, 0o004, 0o111, 0o222, 0o750, 0o705, 0o070, 0o000, 0o777} {
		n := fmt.Sprintf("f%03o", mode)
		write(t, filepath.Join(dir, n), []byte("data"), mode)
		d := fmt.Sprintf("d%03o", mode)
		must(t, os.Mkdir(filepath.Join(dir, d), 0o700))
		write(t, filepath.Join(dir, d, "in"), nil, 0o644)
		must(t, os.Chmod(filepath.Join(dir, d), mode))
		names = append(names, named{n, false}, named{d, true})
	}
	for i, a := range [][]byte{acl(6, 1001, 0, 4, 500, 6, 6, 4), acl(0, 1001, 7, 7, 500, 1, 5, 0), acl(7, 1001, 4, 0, 500, 2, 7, 7)} {
		n := fmt.Sprintf("a%d", i)
		write(t, filepath.Join(dir, n), []byte("data"), 0o644)
		names = append(names, named{n, false})
		if err := unix.Setxattr(filepath.Join(dir, n), "system.posix_acl_access", a, 0); err != nil {
			t.Skipf("no ACLs on this file system: %v", err)
		}
	}
	for _, n := range names {
		must(t, os.Chown(filepath.Join(dir, n.name), 1000, 100))
	}
	h := serveDir(t, dir, Export{TrustRoot: true})
	c := h.dial(t)
	root := c.mount("/root")
	handles := map[string][]byte{}
	for _, n := range names {
		handles[n.name] = c.walk(root, n.name)
	}
	prototest.Until(t, "changes are settled, so that verdicts are kept", func() bool {
		st := stat(t, filepath.Join(dir, names[len(names)-1].name))
		return sinceTime(st.Ctim) > settled
	})
	for _, u := range []struct {
		uid, gid uint32
		groups   []uint32
	}{
		{0, 0, nil}, {1000, 100, nil}, {1000, 1, nil}, {1001, 1, nil}, {1002, 100, nil}, {1002, 1, []uint32{5, 100}},
		{1002, 1, []uint32{500}}, {1003, 3, nil}, {nobody, nobody, nil}, {0, 5, nil}, {1000, 0, []uint32{0}},
	} {
		c := c.as(u.uid, u.gid, u.groups...)
		for round := range 2 { // the second time by verdicts that were kept
			for _, n := range names {
				who := fmt.Sprintf("%v on %s, round %d", u, n.name, round)
				may := local(t, filepath.Join(dir, n.name), u.uid, u.gid, u.groups...)
				_, bits := c.access(handles[n.name], 63)
				if want := wantBits(may, n.dir); bits != want {
					t.Errorf("%s: ACCESS %#x, want %#x", who, bits, want)
				}
				owner := u.uid == 1000
				if n.dir {
					s, _, _ := c.lookup(handles[n.name], "in")
					ok(t, who+": LOOKUP", s, allowed(may&1 != 0))
					s, _, _, _ = c.readdir(handles[n.name], false, 0, 0, 4096)
					ok(t, who+": READDIR", s, allowed(may&4 != 0))
					continue
				}
				s, _, _ := c.read(handles[n.name], 0, 4)
				ok(t, who+": READ", s, allowed(may&5 != 0 || owner))
				s, _, _, _ = c.write(handles[n.name], 0, []byte("data"), 0)
				ok(t, who+": WRITE", s, allowed(may&2 != 0 || owner))
			}
		}
	}
}

func allowed(may bool) status {
	if may {
		return statusOK
	}
	return statusAcces
}

// wantBits are the bits of ACCESS for what a local process may.
func wantBits(may uint32, dir bool) (bits uint32) {
	if may&4 != 0 {
		bits |= accessRead
	}
	switch {
	case dir:
		if may&1 != 0 {
			bits |= accessLookup
		}
		if may&3 == 3 {
			bits |= accessModify | accessExtend | accessDelete
		}
	default:
		if may&2 != 0 {
			bits |= accessModify | accessExtend
		}
		if may&1 != 0 {
			bits |= accessExecute
		}
	}
	return bits
}

// TestVerdictsEnd: a change of mode, owner or ACL is seen by the next request.
func TestVerdictsEnd(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	name := filepath.Join(dir, "file")
	write(t, name, []byte("data"), 0o644)
	must(t, os.Chmod(dir, 0o755))
	h := serveDir(t, dir, Export{})
	c := h.dial(t).as(1000, 1000)
	fh := c.walk(c.mount("/root"), "file")
	prototest.Until(t, "the file is settled", func() bool { return sinceTime(stat(t, name).Ctim) > settled })
	for i := range 50 {
		s, _, _ := c.read(fh, 0, 4)
		ok(t, "READ", s, statusOK)
		must(t, os.Chmod(name, 0o600))
		s, _, _ = c.read(fh, 0, 4)
		ok(t, "READ", s, statusAcces)
		must(t, os.Chmod(name, os.FileMode(0o644+i%2)))
	}
}

// TestUnsettled: no verdict is kept of a file that changed just now, for a second change may leave
// no trace in its time. Of one whose last change is older it is.
func TestUnsettled(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	for what, tt := range map[string]struct {
		age  time.Duration // of the last change
		kept bool
	}{
		"now":                     {0, false},
		"almost settled":          {settled - 100*time.Millisecond, false},
		"by a clock that is fast": {-time.Hour, false},
		"settled":                 {settled + time.Millisecond, true},
		"old":                     {time.Hour, true},
	} {
		write(t, name, nil, 0o755)
		fd, err := unix.Open(name, unix.O_PATH, 0)
		must(t, err)
		f := &file{path: fd, rd: -1, rw: -1}
		var st unix.Stat_t
		must(t, unix.Fstat(fd, &st))
		st.Ctim = unix.NsecToTimespec(time.Now().Add(-tt.age).UnixNano()) // and it stays, as with a coarse clock
		who := &cred{}
		if f.may(who, &st, unix.X_OK) != unix.X_OK {
			t.Errorf("%s: may not be executed", what)
		}
		must(t, os.Chmod(name, 0o644)) // which not even root may execute
		if kept := f.may(who, &st, unix.X_OK) == unix.X_OK; kept != tt.kept {
			t.Errorf("%s: the verdict is kept: %v", what, kept)
		}
		f.close()
	}
}

// TestChangesAs: a user owns what the user makes, and may do only what a local process of that user
// may.
func TestChangesAs(t *testing.T) {
	dir, _, c, root := writable(t)
	must(t, os.Mkdir(filepath.Join(dir, "tmp"), 0))
	must(t, os.Chmod(filepath.Join(dir, "tmp"), 0o777|os.ModeSticky))
	must(t, os.Mkdir(filepath.Join(dir, "team"), 0))
	must(t, os.Chmod(filepath.Join(dir, "team"), 0o775|os.ModeSetgid))
	must(t, os.Chown(filepath.Join(dir, "team"), 0, 500))
	a, b := c.as(1000, 100), c.as(1001, 101, 500)
	s, _, _, _ := a.create(root, "mine", createGuarded, mode(0o644))
	ok(t, "CREATE in root's directory", s, statusAcces)
	tmp, team := c.walk(root, "tmp"), c.walk(root, "team")
	s, fh, v, _ := a.create(tmp, "mine", createGuarded, mode(0o4755))
	if ok(t, "CREATE", s, statusOK); v.uid != 1000 || v.gid != 100 || v.mode != 0o4755 {
		t.Errorf("%+v", v)
	}
	s, _ = b.unlink(procRemove, tmp, "mine")
	ok(t, "REMOVE of another's file in a sticky directory", s, statusPerm)
	s, _, _ = b.rename(tmp, "mine", tmp, "yours")
	ok(t, "RENAME of another's file in a sticky directory", s, statusPerm)
	s, _ = b.setattr(fh, mode(0o777), nil)
	ok(t, "SETATTR of another's file", s, statusPerm)
	s, _, _, _ = b.write(fh, 0, []byte("x"), 0)
	ok(t, "WRITE to another's file", s, statusAcces)
	zero := uint32(0)
	s, _ = a.setattr(fh, sattr{uid: &zero, atime: no(), mtime: no()}, nil)
	ok(t, "giving a file away", s, statusPerm)
	s, _, _, _ = a.mknod(tmp, "disk", typeBlock, mode(0o666), 8, 0)
	ok(t, "MKNOD of a device by a user", s, statusPerm)
	s, _, _, _ = a.create(team, "x", createGuarded, mode(0o644))
	ok(t, "CREATE in another team's directory", s, statusAcces)
	s, _, v, _ = b.create(team, "x", createGuarded, mode(0o644))
	if ok(t, "CREATE by a supplementary group", s, statusOK); v.gid != 500 {
		t.Errorf("%+v", v)
	}
	s, _, v, _ = b.mkdir(team, "sub", mode(0o755))
	if ok(t, "MKDIR by a supplementary group", s, statusOK); v.gid != 500 || v.mode != 0o2755 {
		t.Errorf("%+v", v)
	}
	must(t, os.Chmod(filepath.Join(dir, "tmp/mine"), 0o777|os.ModeSetuid))
	s, w, _, _ := b.write(fh, 0, []byte("x"), 0)
	if ok(t, "WRITE to a file for all", s, statusOK); w.after.mode != 0o777 {
		t.Errorf("set-user-ID after another's WRITE: %#o", w.after.mode)
	}
	times := sattr{atime: no(), mtime: now()}
	s, _ = b.setattr(fh, times, nil)
	ok(t, "mtime is now, by who may write", s, statusOK)
	times.mtime = unix.Timespec{Sec: 1}
	s, _ = b.setattr(fh, times, nil)
	ok(t, "mtime is then, by who may write", s, statusPerm)
	size := uint64(0)
	s, _ = b.setattr(fh, sattr{size: &size, atime: no(), mtime: now()}, nil)
	ok(t, "truncation by who may write", s, statusOK)
	s, fh, _, _ = a.create(tmp, "blind", createGuarded, mode(0))
	ok(t, "CREATE with no permission", s, statusOK)
	s, _, _, _ = a.write(fh, 0, []byte("x"), 0)
	ok(t, "WRITE by the owner who opened it so", s, statusOK)
}

// TestSquash: root is nobody unless trusted, in all three places of a credential.
func TestSquash(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o777|os.ModeSticky))
	write(t, filepath.Join(dir, "secret"), []byte("data"), 0o600)
	write(t, filepath.Join(dir, "wheel"), []byte("data"), 0o040)
	h := serveDir(t, dir, Export{})
	c := h.dial(t)
	root := c.mount("/root")
	for _, who := range []*client{c, c.as(1000, 0), c.as(1000, 100, 0), c.as(0, 100, 5, 0), c.as(1<<32-1, 1<<32-1, 1<<32-1)} {
		for _, name := range []string{"secret", "wheel"} {
			s, _, _ := who.read(who.walk(root, name), 0, 4)
			ok(t, fmt.Sprint(who.uid, who.gid, who.gids, name), s, statusAcces)
		}
	}
	s, _, v, _ := c.create(root, "mine", createGuarded, mode(0o644))
	if ok(t, "CREATE", s, statusOK); v.uid != nobody || v.gid != nobody {
		t.Errorf("%+v", v)
	}
	s, _ = c.unlink(procRemove, root, "secret")
	ok(t, "REMOVE", s, statusPerm)
	if uid, gid := unix.Getuid(), unix.Getgid(); uid != 0 || gid != 0 {
		t.Errorf("the process is %d, %d now", uid, gid)
	}
}
