package nfs3

import (
	"bytes"
	"encoding/binary"
	"sync"

	"golang.org/x/sys/unix"
)

// A cookie is the kernel's d_off of an entry: the place after it. File systems keep these the same
// for as long as the directory lives, so a listing goes on after a restart of the server, and the
// verifier is a constant.

// dirBuffers are for getdents64(2).
var dirBuffers = sync.Pool{New: func() any {
	b := make([]byte, 32<<10)
	return &b
}}

func readdir(c *conn, q *call, out []byte) []byte {
	h, cookie, verifier, count := q.args.opaque(maxHandle), q.args.u64(), q.args.u64(), q.args.u32()
	if q.args.bad {
		return out
	}
	return c.list(q, out, h, listing{cookie: cookie, verifier: verifier, space: int(min(count, maxDir)), names: maxDir})
}

func readdirplus(c *conn, q *call, out []byte) []byte {
	h, cookie, verifier := q.args.opaque(maxHandle), q.args.u64(), q.args.u64()
	names, count := q.args.u32(), q.args.u32()
	if q.args.bad {
		return out
	}
	return c.list(q, out, h, listing{cookie: cookie, verifier: verifier, plus: true,
		space: int(min(count, maxDir)), names: int(min(names, maxDir))})
}

// listing is a READDIR or READDIRPLUS under way.
type listing struct {
	cookie, verifier uint64
	plus             bool
	space            int // bytes that are left of the result
	names            int // bytes that are left of names, ids and cookies in it (READDIRPLUS: dircount)
}

func (c *conn) list(q *call, out []byte, h []byte, l listing) []byte {
	dir, err := c.target(q, h)
	if err != nil {
		return failed(out, err, 1)
	}
	defer dir.done()
	verifier := dir.at.tree.fsid
	switch {
	case dir.kind() != unix.S_IFDIR:
		err = statusNotDir
	case !dir.may(unix.R_OK):
		err = statusAcces
	case l.cookie != 0 && l.verifier != verifier:
		err = statusBadCookie
	}
	var fd int
	if err == nil { // a place of its own in the directory for each listing
		fd, err = unix.Openat(dir.path, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return dir.failed(out, err)
	}
	defer unix.Close(fd)
	if _, err := unix.Seek(fd, int64(l.cookie), unix.SEEK_SET); err != nil {
		return dir.failed(out, statusBadCookie)
	}
	start := len(out)
	out = appendU32(out, uint32(statusOK))
	out = dir.appendAttr(out)
	out = appendU64(out, verifier)
	l.space -= 4 + attrSize + 8 + 4 + 4 // those, but for the status, and the two words at the end
	first := len(out)
	out, eof, err := l.entries(dir, fd, out)
	if err == nil && len(out) == first && !eof {
		err = statusTooSmall
	}
	if err != nil {
		return dir.failed(out[:start], err)
	}
	out = appendU32(out, 0) // no further entry
	return appendFlag(out, eof)
}

// entries appends what there is room for, and whether that is all.
func (l *listing) entries(dir *target, fd int, out []byte) (b []byte, eof bool, err error) {
	buf := dirBuffers.Get().(*[]byte)
	defer dirBuffers.Put(buf)
	for {
		n, err := unix.Getdents(fd, *buf)
		if err != nil || n == 0 {
			return out, err == nil, err
		}
		for rest := (*buf)[:n]; len(rest) > 0; {
			var e dirent
			e, rest = nextDirent(rest)
			var full bool
			if out, full = l.entry(dir, e, out); full {
				return out, false, nil
			}
		}
	}
}

// dirent is a linux_dirent64 (getdents(2)).
type dirent struct {
	ino, off uint64
	name     []byte
}

func nextDirent(b []byte) (e dirent, rest []byte) {
	e.ino = binary.NativeEndian.Uint64(b)
	e.off = binary.NativeEndian.Uint64(b[8:])
	n := binary.NativeEndian.Uint16(b[16:])
	e.name = b[19:n]
	if i := bytes.IndexByte(e.name, 0); i >= 0 {
		e.name = e.name[:i]
	}
	return e, b[n:]
}

// entry appends one entry, if there is room for it.
func (l *listing) entry(dir *target, e dirent, out []byte) (b []byte, full bool) {
	if string(e.name) == ".." && dir.at.tree.isRoot(&dir.st) {
		e.ino = dir.st.Ino // the client's root has nothing above
	}
	b = appendU32(out, 1)
	b = appendU64(b, e.ino)
	b = appendOpaque(b, e.name)
	b = appendU64(b, e.off)
	names := len(b) - len(out) - 4
	if l.plus {
		b = l.appendPlus(dir, e, b)
	}
	if n := len(b) - len(out); n > l.space || names > l.names {
		return out, true
	}
	l.space -= len(b) - len(out)
	l.names -= names
	return b, false
}

// appendPlus appends attributes and handle of an entry, or that they are not there: of ".", "..",
// which no client looks at, and of entries that the user of the request may not search or that are
// gone by now. The files are not kept open: most are only looked at.
func (l *listing) appendPlus(dir *target, e dirent, b []byte) []byte {
	if string(e.name) == "." || string(e.name) == ".." || !dir.may(unix.X_OK) {
		return appendU64(b, 0)
	}
	fd, err := dir.openChild(e.name)
	if err != nil {
		return appendU64(b, 0)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	fh, err := kernelHandle(fd)
	if err == nil {
		err = unix.Fstat(fd, &st)
	}
	if err != nil || st.Nlink == 0 {
		return appendU64(b, 0)
	}
	tree := dir.at.tree
	b = tree.appendAttr(appendU32(b, 1), &st)
	return appendOpaque(appendU32(b, 1), dir.srv.seals.make(tree.key.id, fh))
}
