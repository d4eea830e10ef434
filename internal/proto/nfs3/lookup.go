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
	procSetattr:     {run: unable(2)},
	procLookup:      {run: lookup},
	procAccess:      {run: accessProc},
	procReadlink:    {run: readlink},
	procRead:        {run: read},
	procWrite:       {run: unable(2)},
	procCreate:      {run: unable(2)},
	procMkdir:       {run: unable(2)},
	procSymlink:     {run: unable(2)},
	procMknod:       {run: unable(2)},
	procRemove:      {run: unable(2)},
	procRmdir:       {run: unable(2)},
	procRename:      {run: unable(4)},
	procLink:        {run: unable(3)},
	procReaddir:     {run: readdir},
	procReaddirplus: {run: readdirplus},
	procFsstat:      {run: fsstat},
	procFsinfo:      {run: fsinfo},
	procPathconf:    {run: pathconf},
	procCommit:      {run: unable(2)},
}

func unable(words int) func(*conn, *call, []byte) []byte {
	return func(c *conn, q *call, out []byte) []byte { return failed(out, statusROFS, words) }
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
	if err := dir.entry(name); err != nil {
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

// allowed returns the bits of ACCESS that are true of t. Devices, pipes and sockets are the client's own behind their
// permissions, so they can be written in a read-only export too: its /dev/null for one.
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
