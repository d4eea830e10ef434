package nfs3

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// How CREATE takes a file that is there (createmode3).
const (
	createUnchecked = 0 // as it is, but for the size
	createGuarded   = 1 // as an error
	createExclusive = 2 // as made by this call, if it has its verifier
)

// maker makes something in dir and returns it.
type maker func(dir *target, name []byte) (*target, error)

// make is the frame of CREATE, MKDIR, SYMLINK and MKNOD.
func (c *conn) make(q *call, out, h, name []byte, what string, m maker) []byte {
	if q.args.bad {
		return out
	}
	dir, err := c.target(q, h)
	if err != nil {
		return failed(out, err, 2)
	}
	defer dir.done()
	var before *unix.Stat_t
	var t *target
	if err = dir.newEntry(name); err == nil {
		before, err = dir.alter(func() (err error) {
			t, err = m(dir, name)
			return err
		})
	}
	if t != nil {
		defer t.done()
	}
	if err == nil {
		err = dir.sync()
	}
	diskFailed(what, dir, err)
	out = appendU32(out, uint32(statusOf(err)))
	if err == nil {
		out = t.appendHandle(appendU32(out, 1))
		out = t.appendAttr(out)
	}
	return dir.appendWcc(out, before)
}

// newEntry checks what a new entry of a directory is to be called. Permissions are the kernel's
// matter, when it is made.
func (t *target) newEntry(name []byte) error {
	if err := t.entryName(name); err != nil {
		return err
	}
	if string(name) == "." || string(name) == ".." {
		return statusExist
	}
	return t.writable()
}

// bare is as, without a umask: modes are the client's. The umask belongs to the process, unless a
// thread has one of its own; then that thread can be used for nothing else, and ends with the
// goroutine, which must be one that answers a single request.
func (c *cred) bare(f func() error) error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	unix.Umask(0)
	return c.as(f)
}

// found returns what is called name now, which was just made, after the rest of its attributes were
// set. When that fails it stays, as with the kernel's server: the client is told, and may remove
// it.
func (t *target) found(name []byte, s *sattr) (*target, error) {
	o, err := t.child(name)
	if err != nil {
		return nil, err
	}
	return o, o.finish(s)
}

// finish sets what of s a new file does not have.
func (t *target) finish(s *sattr) error {
	rest := *s
	rest.mode = nil // the kernel has taken it, with what default ACLs and the directory's set-group-ID bit say
	if rest.uid != nil && *rest.uid == t.st.Uid {
		rest.uid = nil
	}
	if rest.gid != nil && *rest.gid == t.st.Gid {
		rest.gid = nil
	}
	if rest.size != nil && *rest.size == uint64(t.st.Size) {
		rest.size = nil
	}
	if rest == (sattr{atime: unix.Timespec{Nsec: unix.UTIME_OMIT}, mtime: unix.Timespec{Nsec: unix.UTIME_OMIT}}) {
		return nil
	}
	_, err := t.alter(func() error { return t.set(&rest) })
	if err == nil {
		err = t.sync()
	}
	return err
}

func create(c *conn, q *call, out []byte) []byte {
	h, name := q.args.opaque(maxHandle), q.args.opaque(maxRecord)
	how := q.args.u32()
	var s sattr
	var verifier uint64
	switch how {
	case createUnchecked, createGuarded:
		s = q.args.sattr()
	case createExclusive:
		verifier = q.args.u64()
	default:
		q.args.bad = true
	}
	return c.make(q, out, h, name, "CREATE", func(dir *target, name []byte) (*target, error) {
		switch how {
		case createUnchecked:
			return dir.createOrTake(name, &s)
		case createGuarded:
			return dir.create(name, &s)
		}
		return dir.createExclusive(name, verifier)
	})
}

// create makes a file that is not there.
func (t *target) create(name []byte, s *sattr) (*target, error) {
	fd := -1
	err := t.who.bare(func() (err error) {
		const flags = unix.O_CREAT | unix.O_EXCL | unix.O_RDWR | unix.O_NOFOLLOW | unix.O_CLOEXEC
		fd, err = unix.Openat(t.path, string(name), flags, s.permission())
		return err
	})
	if err != nil {
		return nil, err
	}
	o, err := t.adoptWriter(fd)
	if err != nil {
		return nil, err
	}
	return o, o.finish(s)
}

// adoptWriter returns the target of a file that is open to be written, and keeps that descriptor: a
// WRITE follows.
func (t *target) adoptWriter(fd int) (*target, error) {
	fh, err := kernelHandle(fd)
	path := -1
	if err == nil {
		path, err = unix.OpenByHandleAt(t.at.tree.fd, fh, unix.O_PATH|unix.O_CLOEXEC)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	o, err := t.adopt(path)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.rw >= 0 {
		unix.Close(fd)
	} else {
		o.rw = fd
	}
	return o, nil
}

// createOrTake makes a file, or takes the regular file that is there.
func (t *target) createOrTake(name []byte, s *sattr) (*target, error) {
	for {
		o, err := t.create(name, s)
		if err != unix.EEXIST {
			return o, err
		}
		o, err = t.child(name)
		if err == unix.ENOENT { // gone between the two
			continue
		}
		if err != nil {
			return nil, err
		}
		switch {
		case o.kind() != unix.S_IFREG:
			err = statusExist
		case s.size != nil:
			_, err = o.alter(func() error { return o.truncate(*s.size) })
			if err == nil {
				err = o.sync()
			}
		}
		return o, err
	}
}

// createExclusive makes a file that has the client's verifier in its times, or takes the one that
// has. The client asked before and did not hear the answer, and will set times of its own (RFC
// 1813, section 3.3.8).
func (t *target) createExclusive(name []byte, verifier uint64) (*target, error) {
	v := sattr{ // in 31 bits each, which every file system can keep
		atime: unix.Timespec{Sec: int64(verifier >> 32 & 0x7fffffff)},
		mtime: unix.Timespec{Sec: int64(verifier & 0x7fffffff)},
	}
	o, err := t.create(name, &v)
	if err != unix.EEXIST {
		return o, err
	}
	if o, err = t.child(name); err != nil {
		return nil, err
	}
	if o.kind() != unix.S_IFREG || o.st.Size != 0 || o.st.Atim != v.atime || o.st.Mtim != v.mtime {
		err = statusExist
	}
	return o, err
}

func mkdir(c *conn, q *call, out []byte) []byte {
	h, name, s := q.args.opaque(maxHandle), q.args.opaque(maxRecord), q.args.sattr()
	return c.make(q, out, h, name, "MKDIR", func(dir *target, name []byte) (*target, error) {
		err := dir.who.bare(func() error { return unix.Mkdirat(dir.path, string(name), s.permission()) })
		if err != nil {
			return nil, err
		}
		s.size = nil
		return dir.found(name, &s)
	})
}

func symlink(c *conn, q *call, out []byte) []byte {
	h, name, s := q.args.opaque(maxHandle), q.args.opaque(maxRecord), q.args.sattr()
	text := string(q.args.opaque(maxRecord))
	return c.make(q, out, h, name, "SYMLINK", func(dir *target, name []byte) (*target, error) {
		if len(text) >= maxPath {
			return nil, statusNameTooLong
		}
		err := dir.who.as(func() error { return unix.Symlinkat(text, dir.path, string(name)) })
		if err != nil {
			return nil, err
		}
		s.mode, s.size = nil, nil // a link has none to set
		return dir.found(name, &s)
	})
}

func mknod(c *conn, q *call, out []byte) []byte {
	h, name, kind := q.args.opaque(maxHandle), q.args.opaque(maxRecord), q.args.u32()
	var s sattr
	var major, minor uint32
	switch kind {
	case typeChar, typeBlock:
		s = q.args.sattr()
		major, minor = q.args.u32(), q.args.u32()
	case typeSocket, typeFIFO:
		s = q.args.sattr()
	}
	return c.make(q, out, h, name, "MKNOD", func(dir *target, name []byte) (*target, error) {
		mode := map[uint32]uint32{typeChar: unix.S_IFCHR, typeBlock: unix.S_IFBLK, typeSocket: unix.S_IFSOCK, typeFIFO: unix.S_IFIFO}[kind]
		if mode == 0 {
			return nil, statusBadType
		}
		if major >= 1<<12 || minor >= 1<<20 { // MINORBITS in include/linux/kdev_t.h
			return nil, statusInval
		}
		err := dir.who.bare(func() error {
			return unix.Mknodat(dir.path, string(name), mode|s.permission(), int(unix.Mkdev(major, minor)))
		})
		if err != nil {
			return nil, err
		}
		s.size = nil
		return dir.found(name, &s)
	})
}
