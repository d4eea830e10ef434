package nfs3

import (
	"math"

	"golang.org/x/sys/unix"
)

// onTarget is the frame of the procedures that have a handle as their only argument, and answer
// with its attributes.
func onTarget(answer func(t *target, fs *unix.Statfs_t, out []byte) []byte) func(*conn, *call, []byte) []byte {
	return func(c *conn, q *call, out []byte) []byte {
		h := q.args.opaque(maxHandle)
		if q.args.bad {
			return out
		}
		t, err := c.target(q, h)
		if err != nil {
			return failed(out, err, 1)
		}
		defer t.done()
		var fs unix.Statfs_t
		if err := unix.Fstatfs(t.path, &fs); err != nil {
			return t.failed(out, err)
		}
		return answer(t, &fs, t.appendAttr(appendU32(out, uint32(statusOK))))
	}
}

// fsstat answers FSSTAT with bytes and inodes: all, free, and free for users.
var fsstat = onTarget(func(_ *target, fs *unix.Statfs_t, out []byte) []byte {
	block := uint64(fs.Frsize)
	if block == 0 {
		block = uint64(fs.Bsize)
	}
	for _, v := range []uint64{fs.Blocks * block, fs.Bfree * block, fs.Bavail * block, fs.Files, fs.Ffree, fs.Ffree} {
		out = appendU64(out, v)
	}
	return appendU32(out, 0) // seconds for which this stays true
})

// Properties in FSINFO.
const (
	fsLink        = 1
	fsSymlink     = 2
	fsHomogeneous = 8
	fsCanSetTime  = 16
)

var fsinfo = onTarget(func(_ *target, _ *unix.Statfs_t, out []byte) []byte {
	for _, v := range []uint32{
		maxData, maxData, 4096, // READ: most, preferred, multiple
		maxData, maxData, 4096, // WRITE
		maxDir, // READDIR: preferred
	} {
		out = appendU32(out, v)
	}
	out = appendU64(out, math.MaxInt64) // size of a file; no call tells that of the file system
	out = appendU32(out, 0)             // granularity of times: 1 ns
	out = appendU32(out, 1)
	return appendU32(out, fsLink|fsSymlink|fsHomogeneous|fsCanSetTime)
})

var pathconf = onTarget(func(_ *target, fs *unix.Statfs_t, out []byte) []byte {
	out = appendU32(out, linkMax(fs.Type))
	out = appendU32(out, uint32(fs.Namelen))
	out = appendFlag(out, true)  // no_trunc: longer names are errors
	out = appendFlag(out, true)  // chown_restricted
	out = appendFlag(out, false) // case_insensitive
	return appendFlag(out, true) // case_preserving
})

// linkMax is how many hard links a file can have. There is no system call for it; the C library has
// a table too.
func linkMax(magic int64) uint32 {
	switch magic {
	case unix.EXT4_SUPER_MAGIC: // EXT4_LINK_MAX
		return 65000
	case unix.BTRFS_SUPER_MAGIC:
		return 65535
	case unix.XFS_SUPER_MAGIC: // XFS_MAXLINK
		return math.MaxInt32
	}
	return 32000
}
