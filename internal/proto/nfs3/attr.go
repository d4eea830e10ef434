package nfs3

import "golang.org/x/sys/unix"

// fileType is the ftype3 of a mode.
func fileType(mode uint32) uint32 {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return typeDirectory
	case unix.S_IFBLK:
		return typeBlock
	case unix.S_IFCHR:
		return typeChar
	case unix.S_IFLNK:
		return typeLink
	case unix.S_IFSOCK:
		return typeSocket
	case unix.S_IFIFO:
		return typeFIFO
	}
	return typeRegular
}

// appendTime appends an nfstime3. Its seconds have 32 bits, of which the kernel's client takes the
// top one for no sign; the kernel's server cuts off the rest as well.
func appendTime(b []byte, t unix.Timespec) []byte {
	b = appendU32(b, uint32(t.Sec))
	return appendU32(b, uint32(t.Nsec))
}

const attrSize = 84 // bytes of an fattr3

// appendAttr appends an fattr3 (RFC 1813, section 2.6).
func (t *tree) appendAttr(b []byte, st *unix.Stat_t) []byte {
	b = appendU32(b, fileType(st.Mode))
	b = appendU32(b, st.Mode&0o7777)
	b = appendU32(b, uint32(st.Nlink))
	b = appendU32(b, st.Uid)
	b = appendU32(b, st.Gid)
	b = appendU64(b, uint64(st.Size))
	b = appendU64(b, uint64(st.Blocks)*512)
	b = appendU32(b, unix.Major(st.Rdev))
	b = appendU32(b, unix.Minor(st.Rdev))
	b = appendU64(b, t.fsidOf(st))
	b = appendU64(b, st.Ino)
	b = appendTime(b, st.Atim)
	b = appendTime(b, st.Mtim)
	return appendTime(b, st.Ctim)
}

// appendAttr appends the post_op_attr of t.
func (t *target) appendAttr(b []byte) []byte {
	return t.at.tree.appendAttr(appendU32(b, 1), &t.st)
}

// appendHandle appends the nfs_fh3 of f.
func (f *file) appendHandle(b []byte) []byte { return appendOpaque(b, f.handle) }

// failed appends what a procedure answers that did not get so far as to have a target: its status,
// and n words of zero, each of which says that optional attributes are not there.
func failed(b []byte, err error, n int) []byte {
	b = appendU32(b, uint32(statusOf(err)))
	for range n {
		b = appendU32(b, 0)
	}
	return b
}

// failed appends a status, and the attributes as they are now.
func (t *target) failed(b []byte, err error) []byte {
	return t.appendAttr(appendU32(b, uint32(statusOf(err))))
}
