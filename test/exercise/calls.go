package main

import (
	"crypto/sha256"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// These are alternative errors for calls that are wrong in two ways. An NFS client lets the server
// decide whether a directory may be written, which a local file system checks first. An NFS client
// does not look up a name before it makes it.
const (
	orNew    = "EEXIST>EACCES"
	orDevice = orNew + " EEXIST>EPERM EACCES>EPERM"
	orLink   = orNew + " EACCES>EPERM"
	orGone   = "EACCES>EPERM EACCES>ENOTDIR EACCES>EISDIR"
)

// kind is one kind of call and its frequency.
type kind struct {
	weight int
	make   func(n *names) call
}

func kinds() []kind {
	return []kind{
		{12, (*names).mkdir}, {5, (*names).rmdir}, {22, (*names).open}, {5, (*names).link}, {6, (*names).symlink}, {3, (*names).readlink},
		{10, (*names).rename}, {7, (*names).unlink}, {8, (*names).chmod}, {8, (*names).chown}, {6, (*names).utimes}, {6, (*names).mknod},
		{4, (*names).truncate}, {8, (*names).access}, {4, (*names).stat}, {4, (*names).readdir}, {1, (*names).umask},
	}
}

func (n *names) mkdir() call {
	p, mode := n.fresh(), n.mode()
	if n.rng.IntN(3) > 0 {
		mode |= 0o777
	}
	return call{fmt.Sprintf("mkdir %s %#o", short(p), mode), []string{p}, true, orNew, func() string { return errno(unix.Mkdir(p, mode)) }}
}

func (n *names) rmdir() call {
	p := n.path()
	if n.rng.IntN(20) == 0 {
		p += "/.."
	}
	return call{"rmdir " + short(p), []string{p}, true, orGone, func() string { return errno(unix.Rmdir(p)) }}
}

func (n *names) link() call {
	from, to := n.path(), n.fresh()
	flags := []int{0, unix.AT_SYMLINK_FOLLOW}[n.rng.IntN(2)]
	return call{fmt.Sprintf("linkat %s %s, flags %#x", short(from), short(to), flags), []string{from, to}, true, orLink, func() string {
		return errno(unix.Linkat(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags))
	}}
}

func (n *names) symlink() call {
	p, all := n.fresh(), words()
	target := all[n.rng.IntN(len(all))]
	switch n.rng.IntN(8) {
	case 0:
		target = []string{"../", "/", "/x/y/top/", "//"}[n.rng.IntN(4)] + target
	case 1:
		target += "/" + all[n.rng.IntN(len(all))]
	case 2:
		target = strings.Repeat("t/", n.rng.IntN(2047)) + target
	case 3:
		target = []string{"", "/", ".", "..", strings.Repeat("x", 300)}[n.rng.IntN(5)]
	}
	if !confined() { // stay inside
		target = strings.TrimLeft(target, "./")
	}
	return call{fmt.Sprintf("symlink %s %s", short(target), short(p)), []string{p}, true, orNew, func() string { return errno(unix.Symlink(target, p)) }}
}

func (n *names) readlink() call {
	p := n.path()
	return call{"readlink " + short(p), nil, false, "", func() string {
		buf := make([]byte, 5000)
		m, err := unix.Readlink(p, buf)
		if err != nil {
			return errno(err)
		}
		return "ok " + string(buf[:m])
	}}
}

func (n *names) rename() call {
	from, to := n.path(), n.path()
	return call{fmt.Sprintf("rename %s %s", short(from), short(to)), []string{from, to}, true, orGone, func() string { return errno(unix.Rename(from, to)) }}
}

func (n *names) unlink() call {
	p := n.path()
	return call{"unlink " + short(p), []string{p}, true, orGone, func() string { return errno(unix.Unlink(p)) }}
}

func (n *names) chmod() call {
	p, mode := n.path(), n.mode()
	return call{fmt.Sprintf("chmod %s %#o", short(p), mode), []string{p}, true, "", func() string { return errno(unix.Chmod(p, mode)) }}
}

func (n *names) chown() call {
	p, uid, gid := n.path(), n.id(), n.id()
	if uid == -1 && gid == -1 {
		gid = 2000
	}
	flags := []int{0, unix.AT_SYMLINK_NOFOLLOW}[n.rng.IntN(2)]
	return call{fmt.Sprintf("fchownat %s %d:%d, flags %#x", short(p), uid, gid, flags), []string{p}, true, "", func() string {
		return errno(unix.Fchownat(unix.AT_FDCWD, p, uid, gid, flags))
	}}
}

// utimes sets times in the past, in the future, the present time, and no time.
func (n *names) utimes() call {
	p := n.path()
	now, omit := unix.Timespec{Nsec: unix.UTIME_NOW}, unix.Timespec{Nsec: unix.UTIME_OMIT}
	one := func() unix.Timespec {
		switch n.rng.IntN(4) {
		case 0:
			return now
		case 1:
			return omit
		case 2:
			return unix.Timespec{Sec: []int64{0, 1, 1<<31 - 1, 1 << 31, 1<<32 - 1}[n.rng.IntN(5)]}
		}
		return unix.Timespec{Sec: n.rng.Int64N(1 << 30), Nsec: n.rng.Int64N(1e9)}
	}
	times := []unix.Timespec{one(), one()}
	// The present time for only one of the two requires the owner on one side, and a writer on
	// the other.
	for i := range times {
		if times[i] == now && times[1-i] == omit {
			times[1-i] = now
		}
	}
	flags := []int{0, unix.AT_SYMLINK_NOFOLLOW}[n.rng.IntN(2)]
	return call{fmt.Sprintf("utimensat %s %v, flags %#x", short(p), times, flags), []string{p}, true, "", func() string {
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, p, times, flags); err != nil {
			return errno(err)
		}
		var st unix.Stat_t
		if err := unix.Fstatat(unix.AT_FDCWD, p, &st, flags); err != nil {
			return "ok, stat " + errno(err)
		}
		out := "ok"
		for i, at := range []unix.Timespec{st.Atim, st.Mtim} {
			if times[i].Nsec != unix.UTIME_OMIT {
				out += " " + whenAt(at)
			}
		}
		return out
	}}
}

// mknod makes all types of mknod. The devices are harmless to open or have no driver.
func (n *names) mknod() call {
	p, mode := n.fresh(), n.mode()
	types := []uint32{unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFREG, 0, unix.S_IFDIR, unix.S_IFCHR, unix.S_IFBLK}
	if !n.devices {
		types = types[:5]
	}
	what := types[n.rng.IntN(len(types))]
	dev := uint64(0)
	switch what {
	case unix.S_IFCHR:
		dev = []uint64{unix.Mkdev(1, 3), unix.Mkdev(4095, 1048575), unix.Mkdev(4000, 256)}[n.rng.IntN(3)]
	case unix.S_IFBLK:
		dev = []uint64{unix.Mkdev(4094, 1), unix.Mkdev(4000, 1000000)}[n.rng.IntN(2)]
	}
	return call{fmt.Sprintf("mknod %s %#o %d:%d", short(p), what|mode, unix.Major(dev), unix.Minor(dev)), []string{p}, true, orDevice, func() string {
		return errno(unix.Mknod(p, what|mode, int(dev)))
	}}
}

// truncate sets a size that no file has. Where a file has the size already, its times may stay.
func (n *names) truncate() call {
	p, size := n.path(), int64(10000+n.journal.n)
	if n.rng.IntN(3) == 0 {
		size = 1<<32 + int64(n.journal.n)
	}
	return call{fmt.Sprintf("truncate %s %d", short(p), size), []string{p}, true, "", func() string { return errno(unix.Truncate(p, size)) }}
}

func (n *names) access() call {
	p, mode := n.path(), n.rng.Uint32N(8)
	flags := []int{0, unix.AT_EACCESS, unix.AT_SYMLINK_NOFOLLOW}[n.rng.IntN(3)]
	return call{fmt.Sprintf("faccessat %s %d, flags %#x", short(p), mode, flags), []string{p}, false, "", func() string {
		var st unix.Stat_t
		if unix.Fstatat(unix.AT_FDCWD, p, &st, flags&unix.AT_SYMLINK_NOFOLLOW) != nil {
			return errno(unix.Faccessat(unix.AT_FDCWD, p, mode, flags))
		}
		return errno(unix.Faccessat(unix.AT_FDCWD, p, askable(st.Mode, mode), flags))
	}}
}

// askable returns the bits of access that Linux' NFS client can answer. It grants X only for what
// can be executed or searched, and W only for directories that can be searched, whatever the mode.
func askable(kind, mode uint32) uint32 {
	switch kind & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFLNK:
		return mode
	case unix.S_IFDIR:
		if mode&unix.W_OK != 0 {
			return mode | unix.X_OK
		}
		return mode
	}
	return mode &^ unix.X_OK
}

func (n *names) stat() call {
	p := n.path()
	flags := []int{0, unix.AT_SYMLINK_NOFOLLOW}[n.rng.IntN(2)]
	return call{fmt.Sprintf("fstatat %s, flags %#x", short(p), flags), nil, false, "", func() string {
		var st unix.Stat_t
		if err := unix.Fstatat(unix.AT_FDCWD, p, &st, flags); err != nil {
			return errno(err)
		}
		return "ok " + describe(&st, n.links)
	}}
}

func (n *names) umask() call {
	mask := []int{0o022, 0o002, 0o077, 0, 0, 0o027}[n.rng.IntN(6)]
	return call{fmt.Sprintf("umask %#o", mask), nil, false, "", func() string {
		unix.Umask(mask)
		return "ok"
	}}
}

// open opens a file with all kinds of flags and uses the descriptor.
func (n *names) open() call {
	p, mode := n.path(), n.mode()
	flags := []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR, unix.O_RDWR}[n.rng.IntN(4)]
	for _, flag := range []int{unix.O_CREAT, unix.O_CREAT, unix.O_EXCL, unix.O_TRUNC, unix.O_APPEND, unix.O_NOFOLLOW, unix.O_DIRECTORY, unix.O_SYNC} {
		if n.rng.IntN(4) == 0 || flag == unix.O_CREAT && n.rng.IntN(2) == 0 {
			flags |= flag
		}
	}
	// Its meaning differs between kernels.
	if flags&unix.O_CREAT != 0 && flags&unix.O_DIRECTORY != 0 {
		flags &^= unix.O_DIRECTORY
	}
	if flags&unix.O_CREAT == 0 {
		flags &^= unix.O_EXCL // without O_CREAT it has a meaning only for devices
	}
	what, use := n.use()
	or := ""
	if flags&(unix.O_CREAT|unix.O_EXCL) == unix.O_CREAT|unix.O_EXCL {
		or = orNew
	}
	return call{fmt.Sprintf("open %s with flags %#o, mode %#o, and %s", short(p), flags, mode, what), []string{p}, true, or, func() string {
		var st unix.Stat_t
		if unix.Stat(p, &st) == nil && st.Size == 0 {
			flags &^= unix.O_TRUNC // a truncate to the present size
		}
		fd, err := unix.Open(p, flags|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOCTTY, mode)
		if err != nil {
			return errno(err)
		}
		defer unix.Close(fd)
		return "ok, " + use(fd)
	}}
}

// use returns an operation on a descriptor.
func (n *names) use() (what string, do func(fd int) string) {
	data := make([]byte, 1+n.rng.IntN(7000))
	for i := range data {
		data[i] = byte(n.rng.Uint32())
	}
	mode, uid, gid := n.mode(), n.id(), n.id()
	if uid == -1 && gid == -1 {
		gid = 2001
	}
	size := int64(20000 + n.journal.n)
	switch n.rng.IntN(8) {
	case 0, 1, 2:
		return fmt.Sprintf("write %d bytes", len(data)), func(fd int) string {
			m, err := unix.Write(fd, data)
			return fmt.Sprintf("write %d %s", m, errno(err))
		}
	case 3, 4:
		return "read", func(fd int) string {
			buf := make([]byte, 30000)
			m, err := unix.Read(fd, buf)
			return fmt.Sprintf("read %d %s %x", m, errno(err), sha256.Sum256(buf))
		}
	case 5:
		return fmt.Sprintf("fchmod %#o", mode), func(fd int) string { return "fchmod " + errno(unix.Fchmod(fd, mode)) }
	case 6:
		return fmt.Sprintf("fchown %d:%d", uid, gid), func(fd int) string { return "fchown " + errno(unix.Fchown(fd, uid, gid)) }
	}
	return fmt.Sprintf("ftruncate to %d", size), func(fd int) string { return "ftruncate " + errno(unix.Ftruncate(fd, size)) }
}

// readdir reads a directory and compares each entry with the file.
func (n *names) readdir() call {
	p := n.path()
	if n.rng.IntN(3) == 0 {
		p = "."
	}
	return call{"readdir " + short(p), nil, false, "", func() string {
		fd, err := unix.Open(p, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return errno(err)
		}
		defer unix.Close(fd)
		list, err := readAll(fd)
		return "ok " + errno(err) + summarize(fd, list)
	}}
}
