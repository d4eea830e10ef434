package nfs3

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Programs (RFC 1813, section 2.2 and appendix I; RFC 1833, section 3).
const (
	programPortmap = 100000
	programNFS     = 100003
	programMount   = 100005

	nfsVersion   = 3
	mountVersion = 3
)

// status is an nfsstat3 (RFC 1813, section 2.6). It is an error to the functions behind the
// procedures.
type status uint32

const (
	statusOK          status = 0
	statusPerm        status = 1
	statusNoEnt       status = 2
	statusIO          status = 5
	statusNXIO        status = 6
	statusAcces       status = 13
	statusExist       status = 17
	statusXDev        status = 18
	statusNoDev       status = 19
	statusNotDir      status = 20
	statusIsDir       status = 21
	statusInval       status = 22
	statusFBig        status = 27
	statusNoSpc       status = 28
	statusROFS        status = 30
	statusMLink       status = 31
	statusNameTooLong status = 63
	statusNotEmpty    status = 66
	statusDQuot       status = 69
	statusStale       status = 70
	statusBadHandle   status = 10001
	statusNotSync     status = 10002
	statusBadCookie   status = 10003
	statusNotSupp     status = 10004
	statusTooSmall    status = 10005
	statusServerFault status = 10006
	statusBadType     status = 10007
	statusJukebox     status = 10008
)

func (s status) Error() string { return "nfs status" }

// statusOf is what the client is told of err.
func statusOf(err error) status {
	if err == nil {
		return statusOK
	}
	var s status
	if errors.As(err, &s) {
		return s
	}
	var e unix.Errno
	if !errors.As(err, &e) {
		return statusServerFault
	}
	switch e {
	case unix.EPERM, unix.ENOENT, unix.EIO, unix.ENXIO, unix.EACCES, unix.EEXIST, unix.EXDEV, unix.ENODEV,
		unix.ENOTDIR, unix.EISDIR, unix.EINVAL, unix.EFBIG, unix.ENOSPC, unix.EROFS, unix.EMLINK:
		return status(e) // their numbers are the same
	case unix.ENAMETOOLONG:
		return statusNameTooLong
	case unix.ENOTEMPTY:
		return statusNotEmpty
	case unix.EDQUOT:
		return statusDQuot
	case unix.ESTALE:
		return statusStale
	case unix.EOPNOTSUPP:
		return statusNotSupp
	case unix.ELOOP: // an O_NOFOLLOW that met a link
		return statusInval
	case unix.ETXTBSY, unix.EBUSY: // a program that runs here, a mount point of this host: there is no better word
		return statusAcces
	case unix.EAGAIN, unix.ENOMEM, unix.EMFILE, unix.ENFILE: // the client tries again later
		return statusJukebox
	}
	return statusIO
}

// Types of files (ftype3).
const (
	typeRegular   = 1
	typeDirectory = 2
	typeBlock     = 3
	typeChar      = 4
	typeLink      = 5
	typeSocket    = 6
	typeFIFO      = 7
)

// Sizes and limits.
const (
	maxHandle = 64      // NFS3_FHSIZE
	maxName   = 255     // bytes, of every file system that is worth exporting
	maxPath   = 4096    // bytes of a symbolic link's text: PATH_MAX
	maxData   = 1 << 20 // bytes in one READ or WRITE
	maxDir    = 64 << 10
)
