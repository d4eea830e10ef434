package nfs3

import (
	"golang.org/x/sys/unix"
)

// Procedures of NFSv3 (RFC 1813, section 3.3).
const (
	procNull        = 0
	procGetattr     = 1
	procSetattr     = 2
	procLookup      = 3
	procAccess      = 4
	procReadlink    = 5
	procRead        = 6
	procWrite       = 7
	procCreate      = 8
	procMkdir       = 9
	procSymlink     = 10
	procMknod       = 11
	procRemove      = 12
	procRmdir       = 13
	procRename      = 14
	procLink        = 15
	procReaddir     = 16
	procReaddirplus = 17
	procFsstat      = 18
	procFsinfo      = 19
	procPathconf    = 20
	procCommit      = 21
)

var nfsProcedures = []procedure{
	procNull:        {run: null},
	procGetattr:     {run: getattr},
	procSetattr:     {run: setattr, beside: true, once: true},
	procLookup:      {run: lookup},
	procAccess:      {run: accessProc},
	procReadlink:    {run: readlink},
	procRead:        {run: read},
	procWrite:       {run: writeProc, beside: true},
	procCreate:      {run: create, beside: true, once: true},
	procMkdir:       {run: mkdir, beside: true, once: true},
	procSymlink:     {run: symlink, beside: true, once: true},
	procMknod:       {run: mknod, beside: true, once: true},
	procRemove:      {run: remove, beside: true, once: true},
	procRmdir:       {run: rmdir, beside: true, once: true},
	procRename:      {run: rename, beside: true, once: true},
	procLink:        {run: link, beside: true, once: true},
	procReaddir:     {run: readdir},
	procReaddirplus: {run: readdirplus},
	procFsstat:      {run: fsstat},
	procFsinfo:      {run: fsinfo},
	procPathconf:    {run: pathconf},
	procCommit:      {run: commit, beside: true},
}

func null(_ *conn, _ *call, out []byte) []byte { return out }

func getattr(c *conn, q *call, out []byte) []byte {
	h := q.args.opaque(maxHandle)
	if q.args.bad {
		return out
	}
	t, err := c.target(q, h)
	if err != nil {
		return failed(out, err, 0)
	}
	defer t.done()
	out = appendU32(out, uint32(statusOK))
	return t.at.tree.appendAttr(out, &t.st)
}

func lookup(c *conn, q *call, out []byte) []byte {
	h, name := q.args.opaque(maxHandle), q.args.opaque(maxRecord)
	if q.args.bad {
		return out
	}
	dir, err := c.target(q, h)
	if err != nil {
		return failed(out, err, 1)
	}
	defer dir.done()
	err = dir.entryName(name)
	if err == nil && !dir.may(unix.X_OK) {
		err = statusAcces
	}
	if err != nil {
		return dir.failed(out, err)
	}
	t, err := dir.child(name)
	if err != nil {
		return dir.failed(out, err)
	}
	defer t.done()
	out = appendU32(out, uint32(statusOK))
	out = t.appendHandle(out)
	out = t.appendAttr(out)
	return dir.appendAttr(out)
}

// Bits of ACCESS.
const (
	accessRead    = 1
	accessLookup  = 2
	accessModify  = 4
	accessExtend  = 8
	accessDelete  = 16
	accessExecute = 32
)

// accessProc tells which of some kinds of access are allowed.
func accessProc(c *conn, q *call, out []byte) []byte {
	h, asked := q.args.opaque(maxHandle), q.args.u32()
	if q.args.bad {
		return out
	}
	t, err := c.target(q, h)
	if err != nil {
		return failed(out, err, 1)
	}
	defer t.done()
	out = appendU32(out, uint32(statusOK))
	out = t.appendAttr(out)
	return appendU32(out, asked&t.allowed())
}

// allowed returns the bits of ACCESS that are true of t. Devices, pipes and sockets are the
// client's own behind their permissions, so they can be written in a read-only export too: its
// /dev/null for one.
func (t *target) allowed() (bits uint32) {
	may := t.file.may(t.who, &t.st, unix.R_OK|unix.W_OK|unix.X_OK)
	kind := t.kind()
	if t.at.export.ReadOnly && (kind == unix.S_IFDIR || kind == unix.S_IFREG || kind == unix.S_IFLNK) {
		may &^= unix.W_OK
	}
	if may&unix.R_OK != 0 {
		bits |= accessRead
	}
	if kind == unix.S_IFDIR {
		if may&unix.X_OK != 0 {
			bits |= accessLookup
		}
		if may&(unix.W_OK|unix.X_OK) == unix.W_OK|unix.X_OK {
			bits |= accessModify | accessExtend | accessDelete
		}
		return bits
	}
	if may&unix.W_OK != 0 {
		bits |= accessModify | accessExtend
	}
	if may&unix.X_OK != 0 {
		bits |= accessExecute
	}
	return bits
}

func readlink(c *conn, q *call, out []byte) []byte {
	h := q.args.opaque(maxHandle)
	if q.args.bad {
		return out
	}
	t, err := c.target(q, h)
	if err != nil {
		return failed(out, err, 1)
	}
	defer t.done()
	if t.kind() != unix.S_IFLNK {
		return t.failed(out, statusInval)
	}
	var text [maxPath]byte
	n, err := unix.Readlinkat(t.path, "", text[:])
	if err != nil {
		return t.failed(out, err)
	}
	out = appendU32(out, uint32(statusOK))
	out = t.appendAttr(out)
	return appendOpaque(out, text[:n])
}
