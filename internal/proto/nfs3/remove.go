package nfs3

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// cached returns the entry called name, if it is kept open here: it is about to be deleted, and
// must be closed.
func (t *target) cached(name []byte) *file {
	fd, err := t.openChild(name)
	if err != nil {
		return nil
	}
	defer unix.Close(fd)
	fh, err := kernelHandle(fd)
	if err != nil {
		return nil
	}
	return t.srv.files.get(t.at.tree, key(fh))
}

// deleted lets go of f, which cached returned, if it has no name left.
func (t *target) deleted(f *file) {
	if f != nil {
		o := target{file: f, srv: t.srv}
		o.stat()
		o.done()
	}
}

// oldEntry checks the name of an entry that is to go.
func (t *target) oldEntry(name []byte) error {
	if err := t.entryName(name); err != nil {
		return err
	}
	switch string(name) {
	case ".":
		return statusInval
	case "..":
		return statusExist
	}
	return t.writable()
}

func remove(c *conn, q *call, out []byte) []byte { return c.unlink(q, out, "REMOVE", 0) }

func rmdir(c *conn, q *call, out []byte) []byte { return c.unlink(q, out, "RMDIR", unix.AT_REMOVEDIR) }

func (c *conn) unlink(q *call, out []byte, what string, flags int) []byte {
	h, name := q.args.opaque(maxHandle), q.args.opaque(maxRecord)
	if q.args.bad {
		return out
	}
	dir, err := c.target(q, h)
	if err != nil {
		return failed(out, err, 2)
	}
	defer dir.done()
	var before *unix.Stat_t
	if err = dir.oldEntry(name); err == nil {
		before, err = dir.alter(func() error {
			old := dir.cached(name)
			defer dir.deleted(old)
			return dir.who.as(func() error { return unix.Unlinkat(dir.path, string(name), flags) })
		})
	}
	if err == nil {
		err = dir.sync()
	}
	diskFailed(what, dir, err)
	return dir.appendWcc(appendU32(out, uint32(statusOf(err))), before)
}

func rename(c *conn, q *call, out []byte) []byte {
	fromHandle, from := q.args.opaque(maxHandle), q.args.opaque(maxRecord)
	toHandle, to := q.args.opaque(maxHandle), q.args.opaque(maxRecord)
	if q.args.bad {
		return out
	}
	a, err := c.target(q, fromHandle)
	if err != nil {
		return failed(out, err, 4)
	}
	defer a.done()
	b, err := c.target(q, toHandle)
	if err != nil {
		return a.failedBeside(out, err)
	}
	defer b.done()
	beforeA, beforeB, err := a.rename(from, b, to)
	if err == nil {
		if err = a.sync(); err == nil && a.key != b.key {
			err = b.sync()
		}
	}
	diskFailed("RENAME", a, err)
	out = a.appendWcc(appendU32(out, uint32(statusOf(err))), beforeA)
	return b.appendWcc(out, beforeB)
}

// failedBeside appends a status, t's attributes, and that those of a second file are not there.
func (t *target) failedBeside(out []byte, err error) []byte {
	return appendU64(t.appendWcc(appendU32(out, uint32(statusOf(err))), nil), 0)
}

// rename moves an entry of a to b, which may be the same directory.
func (a *target) rename(from []byte, b *target, to []byte) (beforeA, beforeB *unix.Stat_t, err error) {
	if a.at != b.at {
		return nil, nil, statusXDev
	}
	for _, e := range []struct {
		dir  *target
		name []byte
	}{{a, from}, {b, to}} {
		if err := e.dir.oldEntry(e.name); err != nil {
			if err == statusExist {
				err = statusInval
			}
			return nil, nil, err
		}
	}
	do := func() error {
		old := b.cached(to)
		defer b.deleted(old)
		return a.who.as(func() error { return unix.Renameat(a.path, string(from), b.path, string(to)) })
	}
	// Two directories are locked in the order of their handles, so that two renames do not wait for
	// each other.
	switch {
	case a.key == b.key:
		beforeA, err = a.alter(do)
		b.st, beforeB = a.st, beforeA
	case a.handle < b.handle:
		beforeA, err = a.alter(func() (err error) {
			beforeB, err = b.alter(do)
			return err
		})
	default:
		beforeB, err = b.alter(func() (err error) {
			beforeA, err = a.alter(do)
			return err
		})
	}
	return beforeA, beforeB, err
}

// link answers LINK: another name for a file.
func link(c *conn, q *call, out []byte) []byte {
	h, dirHandle, name := q.args.opaque(maxHandle), q.args.opaque(maxHandle), q.args.opaque(maxRecord)
	if q.args.bad {
		return out
	}
	t, err := c.target(q, h)
	if err != nil {
		return failed(out, err, 3)
	}
	defer t.done()
	dir, err := c.target(q, dirHandle)
	if err != nil {
		return appendU64(t.failed(out, err), 0)
	}
	defer dir.done()
	var before *unix.Stat_t
	if err = dir.newEntry(name); err == nil && t.at != dir.at {
		err = statusXDev
	}
	if err == nil {
		before, err = dir.alter(func() error { return t.link(dir, name) })
	}
	if err == nil {
		err = dir.sync()
	}
	diskFailed("LINK", dir, err)
	unix.Fstat(t.path, &t.st)
	out = t.failed(out, err)
	return dir.appendWcc(out, before)
}

// link makes name in dir another name of t. The way over /proc needs no capability, which the user
// of the request does not have (linkat(2), AT_EMPTY_PATH).
func (t *target) link(dir *target, name []byte) error {
	return t.who.as(func() error {
		return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", t.path), dir.path, string(name), unix.AT_SYMLINK_FOLLOW)
	})
}
