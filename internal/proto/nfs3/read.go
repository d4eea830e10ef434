package nfs3

import (
	"math"

	"golang.org/x/sys/unix"
)

// read answers READ: status, attributes, count, end of file, data. The data is read to where it
// leaves from.
func read(c *conn, q *call, out []byte) []byte {
	h, offset, count := q.args.opaque(maxHandle), q.args.u64(), q.args.u32()
	if q.args.bad {
		return out
	}
	t, err := c.target(q, h)
	if err != nil {
		return failed(out, err, 1)
	}
	defer t.done()
	fd, err := t.readable()
	if err != nil {
		return t.failed(out, err)
	}
	start := len(out)
	const head = 4 + 4 + attrSize + 4 + 4 + 4
	want := int(min(count, uint32(q.most)))
	out, tail := extend(out, head+want+len(padding))
	n := 0
	if offset <= math.MaxInt64 {
		if n, err = pread(fd, tail[head:head+want], int64(offset)); err != nil {
			diskFailed("READ", t, err)
			return t.failed(out[:start], err)
		}
	}
	if end := int64(offset) + int64(n); n > 0 && (end > t.st.Size || n < want && end < t.st.Size) {
		unix.Fstat(t.path, &t.st) // its size changed meanwhile; data and attributes must agree
	}
	b := appendU32(out[:start], uint32(statusOK))
	b = t.appendAttr(b)
	b = appendU32(b, uint32(n))
	b = appendFlag(b, offset+uint64(n) >= uint64(t.st.Size))
	b = appendU32(b, uint32(n))
	b = b[:len(b)+n]
	t.at.session.Read(n)
	return append(b, padding[:-n&3]...)
}

// readable returns a descriptor to read t with, if the user of the request may. A client asked for
// permission when it opened the file; now the owner may read what was closed to others and himself
// since, and a user who may only execute a file must read it to do so (as with the kernel's server:
// nfsd_permission in fs/nfsd/vfs.c).
func (t *target) readable() (int, error) {
	switch t.kind() {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		return -1, statusIsDir
	default:
		return -1, statusInval
	}
	if t.who.uid != t.st.Uid && !t.may(unix.R_OK) && !t.may(unix.X_OK) {
		return -1, statusAcces
	}
	return t.reader()
}

// pread reads until p is full or the file ends.
func pread(fd int, p []byte, off int64) (n int, err error) {
	for n < len(p) {
		k, err := unix.Pread(fd, p[n:], off+int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return n, err
		}
		if k == 0 {
			break
		}
		n += k
	}
	return n, nil
}

// diskFailed notes that a disk failed: a status of a request that is not the client's doing.
func diskFailed(what string, t *target, err error) {
	if statusOf(err) == statusIO {
		t.at.session.Failed(what+" failed, told the client so", err, "inode", t.st.Ino)
	}
}
