package nfs3

import (
	"encoding/binary"
	"runtime"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Every access is judged by the kernel: it is asked, or told to act, by a thread that has the
// client's user, group and supplementary groups for file systems (setfsuid(2), setfsgid(2),
// setgroups(2), per thread below the C library). With a user that is not 0 the kernel takes the
// thread's capabilities over files away too (capabilities(7)). So ACLs, sticky directories,
// set-group-ID inheritance and quotas are right without a line about them here.
//
// What changes something is done under the client's ids. What only reads is done as root once the
// kernel has said that the client may (access); that answer is kept with the file, for as long as
// its inode does not change: six system calls to change ids and back would cost more than the READ.

// nobody is the user and group of a client that has none, or that may not be root.
const nobody = 65534

// cred is the user that a request comes from. Equal ids have the same pointer until a credTable
// starts anew.
type cred struct {
	uid, gid uint32
	groups   []uint32
	squashed *cred // the same without root
}

// isRoot says that c is allowed everything, as whom the server runs anyway.
func (c *cred) isRoot() bool { return c.uid == 0 && c.gid == 0 }

// credTable makes credentials, each once.
type credTable struct {
	mu  sync.Mutex
	all map[string]*cred
}

const maxCreds = 4096 // in a table; then it starts anew

// get returns the credentials of those ids. An id that is not one to the kernel (-1) becomes
// nobody.
func (t *credTable) get(uid, gid uint32, groups []uint32) *cred {
	known := func(id uint32) uint32 {
		if id == ^uint32(0) {
			return nobody
		}
		return id
	}
	c := cred{uid: known(uid), gid: known(gid)}
	for _, g := range groups {
		c.groups = append(c.groups, known(g))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.intern(c)
}

func (t *credTable) intern(c cred) *cred {
	key := make([]byte, 0, 4*(2+maxGroups))
	for _, id := range append([]uint32{c.uid, c.gid}, c.groups...) {
		key = binary.NativeEndian.AppendUint32(key, id)
	}
	if known := t.all[string(key)]; known != nil {
		return known
	}
	if t.all == nil || len(t.all) >= maxCreds {
		t.all = make(map[string]*cred)
	}
	t.all[string(key)] = &c
	c.squashed = &c
	if s, root := c.squash(); root {
		c.squashed = t.intern(s)
	}
	return &c
}

// squash returns c with nobody in root's place, and whether root was there.
func (c *cred) squash() (s cred, root bool) {
	mine := func(id uint32) uint32 {
		if id == 0 {
			root = true
			return nobody
		}
		return id
	}
	s.uid, s.gid = mine(c.uid), mine(c.gid)
	for _, g := range c.groups {
		s.groups = append(s.groups, mine(g))
	}
	return s, root
}

// identify returns the user that q comes from, or nil when its credential is not of a supported
// kind. It is called by the connection's reading goroutine only.
func (c *conn) identify(q *call) *cred {
	if q.proc == 0 { // NULL has no parameters, no effect and so no user (RFC 5531, section 12)
		return c.srv.creds.get(nobody, nobody, nil)
	}
	switch q.flavor {
	case authNone:
		return c.srv.creds.get(nobody, nobody, nil)
	case authSys:
	default:
		return nil
	}
	if known := c.creds[string(q.credential)]; known != nil {
		return known
	}
	who := parseAuthSys(q.credential, &c.srv.creds)
	if who == nil {
		return nil
	}
	if c.creds == nil || len(c.creds) >= 64 {
		c.creds = make(map[string]*cred)
	}
	c.creds[string(q.credential)] = who
	return who
}

// parseAuthSys reads the body of an AUTH_SYS credential (RFC 5531, appendix A), nil when it is
// malformed.
func parseAuthSys(body []byte, t *credTable) *cred {
	a := args{b: body}
	a.u32()              // stamp
	a.opaque(maxMachine) // what the client calls itself
	uid, gid := a.u32(), a.u32()
	n := a.u32()
	if a.bad || n > maxGroups {
		return nil
	}
	groups := make([]uint32, n)
	for i := range groups {
		groups[i] = a.u32()
	}
	if a.bad || len(a.b) > 0 {
		return nil
	}
	return t.get(uid, gid, groups)
}

// as runs f under the credentials of c. f makes system calls and waits for nothing else. No new
// thread inherits them: the runtime does not clone from a thread that is locked.
func (c *cred) as(f func() error) error {
	if c.isRoot() {
		return f()
	}
	runtime.LockOSThread()
	own, err := c.take()
	if err == nil {
		err = f()
	}
	if !own.takeBack() { // the connection ends, and with its goroutine the thread, which stays locked to it
		panic("the server's own credentials cannot be taken back")
	}
	runtime.UnlockOSThread()
	return err
}

// server is the user that the server itself runs as.
var server = sync.OnceValue(func() *cred {
	c := &cred{uid: uint32(unix.Geteuid()), gid: uint32(unix.Getegid())}
	groups, _ := unix.Getgroups()
	for _, g := range groups {
		c.groups = append(c.groups, uint32(g))
	}
	return c
})

// take makes c the credentials of this thread. It returns whose they were.
func (c *cred) take() (before *cred, err error) {
	before = server()
	var groups *uint32
	if len(c.groups) > 0 {
		groups = &c.groups[0]
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(c.groups)), uintptr(unsafe.Pointer(groups)), 0); e != 0 {
		return before, e
	}
	// These two return no error but the previous id: ask again.
	unix.RawSyscall(unix.SYS_SETFSGID, uintptr(c.gid), 0, 0)
	unix.RawSyscall(unix.SYS_SETFSUID, uintptr(c.uid), 0, 0)
	gid, _, _ := unix.RawSyscall(unix.SYS_SETFSGID, ^uintptr(0), 0, 0)
	uid, _, _ := unix.RawSyscall(unix.SYS_SETFSUID, ^uintptr(0), 0, 0)
	if uint32(gid) != c.gid || uint32(uid) != c.uid {
		return before, unix.EPERM
	}
	return before, nil
}

// takeBack makes the server's own credentials those of this thread again, and says whether it
// worked. The user comes first: with it the capabilities come back.
func (c *cred) takeBack() bool {
	unix.RawSyscall(unix.SYS_SETFSUID, uintptr(c.uid), 0, 0)
	_, err := c.take()
	return err == nil
}

// verdict is the kernel's answer to whether somebody may access a file.
type verdict struct {
	who            *cred
	ctime          unix.Timespec // of the file: what changes the answer changes it
	known, allowed uint32        // of unix.R_OK, W_OK, X_OK
}

// settled is how old a file's last change must be for a verdict to be kept: the clock of file
// systems is coarse, and a second change might not show.
const settled = time.Second

// may returns which of want (unix.R_OK and so on) the kernel allows to the user on f, whose
// attributes are st.
func (f *file) may(who *cred, st *unix.Stat_t, want uint32) (allowed uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := &f.verdicts[f.next]
	for i := range f.verdicts {
		if o := &f.verdicts[i]; o.who == who && o.ctime == st.Ctim {
			v = o
			break
		}
	}
	if v.who != who || v.ctime != st.Ctim {
		*v = verdict{who: who, ctime: st.Ctim}
		f.next = (f.next + 1) % len(f.verdicts)
	}
	ask := want &^ v.known
	if ask == 0 {
		return v.allowed & want
	}
	var got uint32
	err := who.as(func() error {
		for _, bit := range []uint32{unix.R_OK, unix.W_OK, unix.X_OK} {
			if ask&bit != 0 && access(f.path, bit) == nil {
				got |= bit
			}
		}
		return nil
	})
	allowed = (v.allowed | got) & want
	if age := time.Since(time.Unix(st.Ctim.Unix())); err == nil && age > settled {
		v.known |= ask
		v.allowed |= got
	}
	return allowed
}

// access is faccessat2(2) with AT_EACCESS on a descriptor. The one of package unix falls back to
// working the answer out from the process's own user, which is not the thread's.
func access(fd int, mode uint32) error {
	empty := [1]byte{}
	_, _, e := unix.Syscall6(unix.SYS_FACCESSAT2, uintptr(fd), uintptr(unsafe.Pointer(&empty)), uintptr(mode),
		unix.AT_EACCESS|unix.AT_EMPTY_PATH, 0, 0)
	if e != 0 {
		return e
	}
	return nil
}
