package nfs3

import (
	"golang.org/x/sys/unix"
)

// The client's half of the procedures that change something.

// appendSattr encodes an sattr3.
func appendSattr(b []byte, s sattr) []byte {
	for _, v := range []*uint32{s.mode, s.uid, s.gid} {
		b = appendFlag(b, v != nil)
		if v != nil {
			b = appendU32(b, *v)
		}
	}
	b = appendFlag(b, s.size != nil)
	if s.size != nil {
		b = appendU64(b, *s.size)
	}
	for _, t := range []unix.Timespec{s.atime, s.mtime} {
		switch t.Nsec {
		case unix.UTIME_OMIT:
			b = appendU32(b, 0)
		case unix.UTIME_NOW:
			b = appendU32(b, 1)
		default:
			b = appendTime(appendU32(b, 2), t)
		}
	}
	return b
}

func no() unix.Timespec  { return unix.Timespec{Nsec: unix.UTIME_OMIT} }
func now() unix.Timespec { return unix.Timespec{Nsec: unix.UTIME_NOW} }

// mode returns an sattr that sets the mode alone.
func mode(m uint32) sattr { return sattr{mode: &m, atime: no(), mtime: no()} }

// change is wcc_data.
type change struct {
	size         uint64 // before, if known
	mtime, ctime unix.Timespec
	known        bool
	after        *attr
}

func (a *args) wcc() (w change) {
	if w.known = a.flag(); w.known {
		w.size = a.u64()
		for _, t := range []*unix.Timespec{&w.mtime, &w.ctime} {
			t.Sec, t.Nsec = int64(a.u32()), int64(a.u32())
		}
	}
	w.after = a.post()
	return w
}

func (c *client) setattr(h []byte, s sattr, guard *unix.Timespec) (status, change) {
	c.t.Helper()
	b := appendSattr(appendOpaque(nil, h), s)
	b = appendFlag(b, guard != nil)
	if guard != nil {
		b = appendTime(b, *guard)
	}
	a := c.nfs(procSetattr, b)
	st, w := status(a.u32()), a.wcc()
	c.ended(a, "SETATTR")
	return st, w
}

// result reads what CREATE, MKDIR, SYMLINK and MKNOD answer.
func (c *client) result(a args, what string) (s status, h []byte, v *attr, w change) {
	c.t.Helper()
	s = status(a.u32())
	if s == statusOK {
		if a.flag() {
			h = a.opaque(maxHandle)
		}
		v = a.post()
	}
	w = a.wcc()
	c.ended(a, what)
	return s, h, v, w
}

func (c *client) create(dir []byte, name string, how uint32, s sattr) (status, []byte, *attr, change) {
	c.t.Helper()
	b := appendU32(appendOpaque(appendOpaque(nil, dir), name), how)
	return c.result(c.nfs(procCreate, appendSattr(b, s)), "CREATE")
}

func (c *client) createExclusive(dir []byte, name string, verifier uint64) (status, []byte, *attr, change) {
	c.t.Helper()
	b := appendU32(appendOpaque(appendOpaque(nil, dir), name), createExclusive)
	return c.result(c.nfs(procCreate, appendU64(b, verifier)), "CREATE")
}

func (c *client) mkdir(dir []byte, name string, s sattr) (status, []byte, *attr, change) {
	c.t.Helper()
	b := appendSattr(appendOpaque(appendOpaque(nil, dir), name), s)
	return c.result(c.nfs(procMkdir, b), "MKDIR")
}

func (c *client) symlink(dir []byte, name, text string) (status, []byte, *attr, change) {
	c.t.Helper()
	b := appendSattr(appendOpaque(appendOpaque(nil, dir), name), mode(0o777))
	return c.result(c.nfs(procSymlink, appendOpaque(b, text)), "SYMLINK")
}

func (c *client) mknod(dir []byte, name string, kind uint32, s sattr, major, minor uint32) (status, []byte, *attr, change) {
	c.t.Helper()
	b := appendU32(appendOpaque(appendOpaque(nil, dir), name), kind)
	switch kind {
	case typeChar, typeBlock:
		b = appendU32(appendU32(appendSattr(b, s), major), minor)
	case typeFIFO, typeSocket:
		b = appendSattr(b, s)
	}
	return c.result(c.nfs(procMknod, b), "MKNOD")
}

func (c *client) unlink(proc uint32, dir []byte, name string) (status, change) {
	c.t.Helper()
	a := c.nfs(proc, appendOpaque(appendOpaque(nil, dir), name))
	s, w := status(a.u32()), a.wcc()
	c.ended(a, "REMOVE")
	return s, w
}

func (c *client) rename(from []byte, a string, to []byte, b string) (s status, wa, wb change) {
	c.t.Helper()
	r := c.nfs(procRename, appendOpaque(appendOpaque(appendOpaque(appendOpaque(nil, from), a), to), b))
	s, wa, wb = status(r.u32()), r.wcc(), r.wcc()
	c.ended(r, "RENAME")
	return s, wa, wb
}

func (c *client) link(h, dir []byte, name string) (status, *attr, change) {
	c.t.Helper()
	a := c.nfs(procLink, appendOpaque(appendOpaque(appendOpaque(nil, h), dir), name))
	s, v, w := status(a.u32()), a.post(), a.wcc()
	c.ended(a, "LINK")
	return s, v, w
}

func (c *client) write(h []byte, off uint64, data []byte, stable uint32) (s status, w change, n uint32, verifier uint64) {
	c.t.Helper()
	b := appendU64(appendOpaque(nil, h), off)
	b = appendU32(appendU32(b, uint32(len(data))), stable)
	a := c.nfs(procWrite, appendOpaque(b, data))
	s, w = status(a.u32()), a.wcc()
	if s == statusOK {
		n = a.u32()
		if how := a.u32(); how < stable {
			c.t.Errorf("WRITE as stable as %d, asked for %d", how, stable)
		}
		verifier = a.u64()
	}
	c.ended(a, "WRITE")
	return s, w, n, verifier
}

func (c *client) commit(h []byte) (s status, verifier uint64) {
	c.t.Helper()
	a := c.nfs(procCommit, appendU32(appendU64(appendOpaque(nil, h), 0), 0))
	s = status(a.u32())
	a.wcc()
	if s == statusOK {
		verifier = a.u64()
	}
	c.ended(a, "COMMIT")
	return s, verifier
}
