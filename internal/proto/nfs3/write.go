package nfs3

import (
	"math"

	"golang.org/x/sys/unix"
)

// How stable a WRITE is to be when it is answered (stable_how).
const (
	writeUnstable = 0
	writeDataSync = 1
	writeFileSync = 2
)

// writeProc answers WRITE. Attributes before are left out, as the kernel's server does: many are
// under way at once for one file, and each would have to wait for the others; a client that gets
// none takes the change for its own.
func writeProc(c *conn, q *call, out []byte) []byte {
	h, offset, count, stable := q.args.opaque(maxHandle), q.args.u64(), q.args.u32(), q.args.u32()
	data := q.args.opaque(maxData)
	if stable > writeFileSync {
		q.args.bad = true
	}
	if q.args.bad {
		return out
	}
	t, err := c.target(q, h)
	if err != nil {
		return failed(out, err, 2)
	}
	defer t.done()
	verifier := c.srv.verifier.Load() // before: if it changes, this may be lost
	if err = t.writable(); err == nil {
		switch {
		case int(count) != len(data):
			err = statusInval
		case offset > math.MaxInt64-uint64(len(data)):
			err = statusFBig
		default:
			err = t.write(data, int64(offset), stable)
		}
	}
	diskFailed("WRITE", t, err)
	unix.Fstat(t.path, &t.st)
	out = t.appendWcc(appendU32(out, uint32(statusOf(err))), nil)
	if err != nil {
		return out
	}
	t.at.session.Wrote(len(data))
	out = appendU32(out, count)
	out = appendU32(out, stable)
	return appendU64(out, verifier)
}

// writeable returns a descriptor to write t with, if the user of the request may; readable says why
// the owner always may.
func (t *target) writeable() (int, error) {
	switch t.kind() {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		return -1, statusIsDir
	default:
		return -1, statusInval
	}
	if t.who.uid != t.st.Uid && !t.may(unix.W_OK) {
		return -1, statusAcces
	}
	return t.writer()
}

// write writes data as the user of the request: set-user-ID bits are cleared, and that user's quota
// counts.
func (t *target) write(data []byte, off int64, stable uint32) error {
	fd, err := t.writeable()
	if err != nil {
		return err
	}
	var flags int
	switch stable {
	case writeDataSync:
		flags = unix.RWF_DSYNC
	case writeFileSync:
		flags = unix.RWF_SYNC
	}
	return t.who.as(func() error {
		for len(data) > 0 {
			n, err := unix.Pwritev2(fd, [][]byte{data}, off, flags)
			if err == unix.EINTR {
				continue
			}
			if err != nil {
				return err
			}
			data, off = data[n:], off+int64(n)
		}
		return nil
	})
}

// commit answers COMMIT: what was written unstably is on the disk, or the client is made to write
// it again. The whole file is brought there, whatever part was asked for.
func commit(c *conn, q *call, out []byte) []byte {
	h := q.args.opaque(maxHandle)
	q.args.u64() // offset
	q.args.u32() // count
	if q.args.bad {
		return out
	}
	t, err := c.target(q, h)
	if err != nil {
		return failed(out, err, 2)
	}
	defer t.done()
	verifier := c.srv.verifier.Load()
	switch {
	case t.kind() != unix.S_IFREG:
		err = statusInval
	case !t.at.export.ReadOnly:
		if err = t.sync(); err != nil { // the kernel may have dropped what it could not write
			c.srv.newVerifier()
			diskFailed("COMMIT", t, err)
		}
	}
	unix.Fstat(t.path, &t.st)
	out = t.appendWcc(appendU32(out, uint32(statusOf(err))), nil)
	if err != nil {
		return out
	}
	return appendU64(out, verifier)
}
