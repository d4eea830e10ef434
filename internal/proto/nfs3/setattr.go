package nfs3

import (
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// sattr is what of attributes is to be set (sattr3).
type sattr struct {
	mode, uid, gid *uint32
	size           *uint64
	atime, mtime   unix.Timespec // Nsec is unix.UTIME_OMIT, unix.UTIME_NOW or less than 1e9
	noTime         bool          // a time has more nanoseconds than a second
}

// setTime reads a set_atime or set_mtime: leave it, the server's time, the client's.
func (a *args) setTime(s *sattr) unix.Timespec {
	switch a.u32() {
	case 0:
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	case 1:
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	case 2:
		t := unix.Timespec{Sec: int64(a.u32()), Nsec: int64(a.u32())}
		s.noTime = s.noTime || t.Nsec >= 1e9
		return t
	}
	a.bad = true
	return unix.Timespec{}
}

func (a *args) sattr() (s sattr) {
	for _, v := range []**uint32{&s.mode, &s.uid, &s.gid} {
		if a.flag() {
			n := a.u32()
			*v = &n
		}
	}
	if a.flag() {
		n := a.u64()
		s.size = &n
	}
	s.atime, s.mtime = a.setTime(&s), a.setTime(&s)
	return s
}

// permission returns the bits of a mode that can be given to a new file.
func (s *sattr) permission() uint32 {
	if s.mode == nil {
		return 0
	}
	return *s.mode & 0o7777
}

// appendWcc appends wcc_data: attributes before a change, and after. With those before, a client
// that knew just these keeps what it has cached.
func (t *target) appendWcc(b []byte, before *unix.Stat_t) []byte {
	if before == nil {
		b = appendU32(b, 0)
	} else {
		b = appendU32(b, 1)
		b = appendU64(b, uint64(before.Size))
		b = appendTime(b, before.Mtim)
		b = appendTime(b, before.Ctim)
	}
	return t.appendAttr(b)
}

// writable says why nothing of t can be changed, or nil.
func (t *target) writable() error {
	if t.at.export.ReadOnly {
		return statusROFS
	}
	return nil
}

// alter has do change t, and returns the attributes before. Nobody else changes it by this server
// meanwhile, so that a client that knows before and after knows all.
func (t *target) alter(do func() error) (before *unix.Stat_t, err error) {
	t.change.Lock()
	defer t.change.Unlock()
	if err := t.stat(); err != nil {
		return nil, err
	}
	st := t.st
	err = do()
	unix.Fstat(t.path, &t.st) // if this fails, those before
	return &st, err
}

// sync brings a changed inode, or a directory's changed entries, to the disk, as the protocol
// demands of everything but an unstable WRITE (RFC 1813, section 4.8).
func (t *target) sync() error {
	if kind := t.kind(); kind != unix.S_IFREG && kind != unix.S_IFDIR { // what cannot be opened
		return unix.Syncfs(t.at.tree.fd)
	}
	fd, err := t.reader()
	if err != nil {
		return err
	}
	return unix.Fsync(fd)
}

func setattr(c *conn, q *call, out []byte) []byte {
	h, s := q.args.opaque(maxHandle), q.args.sattr()
	var guard *unix.Timespec
	if q.args.flag() {
		guard = &unix.Timespec{Sec: int64(q.args.u32()), Nsec: int64(q.args.u32())}
	}
	if q.args.bad {
		return out
	}
	t, err := c.target(q, h)
	if err != nil {
		return failed(out, err, 2)
	}
	defer t.done()
	var before *unix.Stat_t
	if err = t.writable(); err == nil {
		before, err = t.alter(func() error {
			if guard != nil && (uint32(t.st.Ctim.Sec) != uint32(guard.Sec) || t.st.Ctim.Nsec != guard.Nsec) {
				return statusNotSync
			}
			return t.set(&s)
		})
	}
	if err == nil {
		err = t.sync()
	}
	diskFailed("SETATTR", t, err)
	return t.appendWcc(appendU32(out, uint32(statusOf(err))), before)
}

// set sets attributes as the user of the request. The owner comes before the mode, of which a
// change of owner takes bits away.
func (t *target) set(s *sattr) error {
	if s.noTime {
		return statusInval
	}
	if s.size != nil {
		if err := t.truncate(*s.size); err != nil {
			return err
		}
	}
	if s.uid != nil || s.gid != nil {
		if err := t.chown(s.uid, s.gid); err != nil {
			return err
		}
	}
	if s.mode != nil {
		err := t.who.as(func() error { return chmod(t.path, *s.mode&0o7777) })
		if err != nil {
			return err
		}
	}
	return t.setTimes(s)
}

// truncate sets the size. The owner may do so even after removing the own permission on a file that
// is open.
func (t *target) truncate(size uint64) error {
	fd, err := t.writeable()
	if err != nil {
		return err
	}
	if size > math.MaxInt64 {
		return statusFBig
	}
	return t.who.as(func() error { return unix.Ftruncate(fd, int64(size)) })
}

func (t *target) chown(uid, gid *uint32) error {
	u, g := -1, -1
	for _, v := range []struct {
		from *uint32
		to   *int
	}{{uid, &u}, {gid, &g}} {
		if v.from == nil {
			continue
		}
		if *v.from == math.MaxUint32 { // which means to leave it as it is
			return statusInval
		}
		*v.to = int(*v.from)
	}
	return t.who.as(func() error { return unix.Fchownat(t.path, "", u, g, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW) })
}

// chmod is fchmodat2(2), or what does for it before Linux 6.6.
func chmod(fd int, mode uint32) error {
	err := unix.Fchmodat(fd, "", mode, unix.AT_EMPTY_PATH)
	if err == unix.EOPNOTSUPP {
		return chmodByName(fd, mode)
	}
	return err
}

func chmodByName(fd int, mode uint32) error {
	return unix.Chmod(fmt.Sprintf("/proc/self/fd/%d", fd), mode)
}

// setTimes sets times. To set the present one, permission to write is enough; the kernel says so
// only when it is both that are set. A new size has set mtime already, which Linux clients ask for
// besides.
func (t *target) setTimes(s *sattr) error {
	times := []unix.Timespec{s.atime, s.mtime}
	if s.size != nil && s.mtime.Nsec == unix.UTIME_NOW {
		times[1].Nsec = unix.UTIME_OMIT
	}
	a, m := times[0].Nsec, times[1].Nsec
	if a == unix.UTIME_OMIT && m == unix.UTIME_OMIT {
		return nil
	}
	set := func() error {
		return unix.UtimesNanoAt(t.path, "", times, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
	}
	present := (a == unix.UTIME_NOW || a == unix.UTIME_OMIT) && (m == unix.UTIME_NOW || m == unix.UTIME_OMIT)
	if present && t.may(unix.W_OK) {
		return set()
	}
	return t.who.as(set)
}
