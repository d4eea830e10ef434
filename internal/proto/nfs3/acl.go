package nfs3

// NFSACL, version 3: a program beside NFS that no RFC describes. The numbers are those of
// include/linux/nfsacl.h, the encoding is that of fs/nfsd/nfs3acl.c and fs/nfs_common/nfsacl.c.
//
// It is here for the sake of one answer. An overlay over NFS asks for the ACL of every file that
// has group bits and belongs to somebody else, and where the server does not know the program,
// Linux refuses the file with EOPNOTSUPP: no user but root could read the root (nfs3_get_acl in
// fs/nfs/nfs3acl.c; noacl does not help). The answer is that there is no ACL, so that the mode
// counts. The server's own kernel holds clients to the ACLs that files have, as it does to modes.
const (
	programACL = 100227

	procGetACL = 1
	procSetACL = 2

	aclMask = 0xf // access list and its count, default list and its count
)

var aclProcedures = []procedure{
	procNull:   {run: null},
	procGetACL: {run: getACL},
	procSetACL: {run: setACL},
}

func getACL(c *conn, q *call, out []byte) []byte {
	h, mask := q.args.opaque(maxHandle), q.args.u32()
	if q.args.bad {
		return out
	}
	t, err := c.target(q, h)
	if err != nil {
		return failed(out, err, 1)
	}
	defer t.done()
	out = t.appendAttr(appendU32(out, uint32(statusOK)))
	out = appendU32(out, mask&aclMask)
	for range 4 { // of the access list the count and the length of an array, and the same of the default list
		out = appendU32(out, 0)
	}
	return out
}

// setACL refuses: there are none to set.
func setACL(_ *conn, q *call, out []byte) []byte {
	q.args.opaque(maxHandle)
	if q.args.bad {
		return out
	}
	return failed(out, statusNotSupp, 1)
}
