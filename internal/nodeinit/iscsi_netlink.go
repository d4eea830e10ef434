package nodeinit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The netlink family of the kernel's iSCSI transports, include/scsi/iscsi_if.h.
const (
	iscsiCreateSession  = 11 // enum iscsi_uevent_e: ISCSI_UEVENT_CREATE_SESSION and so on
	iscsiDestroySession = 12
	iscsiCreateConn     = 13
	iscsiDestroyConn    = 14
	iscsiBindConn       = 15
	iscsiSetParam       = 16
	iscsiStartConn      = 17
	iscsiStopConn       = 18
	iscsiGetStats       = 20

	iscsiConnError = 102 // ISCSI_KEVENT_CONN_ERROR
	iscsiIfError   = 103 // ISCSI_KEVENT_IF_ERROR

	iscsiGroup = 1 // ISCSI_NL_GRP_ISCSID: what the kernel tells a daemon

	iscsiStopTerm    = 1 // STOP_CONN_TERM: for good
	iscsiStopRecover = 3 // STOP_CONN_RECOVER: commands wait for another connection
)

// Offsets in struct iscsi_uevent, the same in both directions: the head, the
// union u of what is asked, the union r of what is answered.
const (
	ueventType    = 0
	ueventError   = 4
	ueventHandle  = 8
	ueventAsk     = 16
	ueventAnswer  = 40
	ueventSize    = 56
	statsCommands = 20 // scsicmd_pdus in struct iscsi_stats
)

// uevent is one struct iscsi_uevent, and the data that follows it.
type uevent []byte

var native = binary.NativeEndian

// newUevent makes a request; ask is laid out as the request's struct in u, whose
// fields are 32 bits wide but for those that the caller makes of two.
func newUevent(kind uint32, handle uint64, ask ...uint32) uevent {
	e := make(uevent, ueventSize)
	native.PutUint32(e[ueventType:], kind)
	native.PutUint64(e[ueventHandle:], handle)
	for i, v := range ask {
		native.PutUint32(e[ueventAsk+4*i:], v)
	}
	return e
}

func (e uevent) kind() uint32        { return native.Uint32(e[ueventType:]) }
func (e uevent) answer(i int) uint32 { return native.Uint32(e[ueventAnswer+4*i:]) }

// encode puts the netlink header before e (struct nlmsghdr).
func (e uevent) encode(seq uint32) []byte {
	b := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(e)+3)
	native.PutUint32(b, uint32(unix.NLMSG_HDRLEN+len(e)))
	native.PutUint16(b[4:], uint16(e.kind()))
	native.PutUint16(b[6:], unix.NLM_F_REQUEST)
	native.PutUint32(b[8:], seq)
	b = append(b, e...)
	return b[:(len(b)+3)&^3]
}

// parseUevents takes apart what one read brought.
func parseUevents(b []byte) (events []uevent) {
	for len(b) >= unix.NLMSG_HDRLEN {
		n := int(native.Uint32(b))
		if n < unix.NLMSG_HDRLEN || n > len(b) {
			return events
		}
		if n >= unix.NLMSG_HDRLEN+ueventSize {
			events = append(events, uevent(b[unix.NLMSG_HDRLEN:n]))
		}
		b = b[min((n+3)&^3, len(b)):]
	}
	return events
}

// iscsiKernel speaks with the kernel about one session of a transport.
type iscsiKernel struct {
	Handle   uint64 // of the transport iscsi_tcp
	SID, CID uint32 // of session and connection, once they are there

	socket *os.File
	seq    uint32
	lost   bool // the kernel said that the connection failed
}

// open makes the socket. It also gets what the kernel tells a daemon.
func (k *iscsiKernel) open() error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ISCSI)
	if err != nil {
		return fmt.Errorf("the kernel's iSCSI driver: %w", err)
	}
	k.socket = os.NewFile(uintptr(fd), "iscsi netlink")
	limit := unix.NsecToTimeval(int64(30 * time.Second))
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (iscsiGroup - 1)}),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)); err != nil {
		return errors.Join(fmt.Errorf("iSCSI netlink: %w", err), k.socket.Close())
	}
	return nil
}

// request asks, and returns the answer: the same structure with r filled in.
func (k *iscsiKernel) request(what string, e uevent) (uevent, error) {
	k.seq++
	if _, err := unix.Write(int(k.socket.Fd()), e.encode(k.seq)); err != nil { // to the kernel, where no one else is named
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	for {
		events, err := k.receive(0)
		if err != nil {
			return nil, fmt.Errorf("%s: the kernel's answer: %w", what, err)
		}
		for _, got := range events {
			switch got.kind() {
			case iscsiIfError:
				return nil, fmt.Errorf("%s: %w", what, errno(native.Uint32(got[ueventError:])))
			case e.kind():
				return got, nil
			}
		}
	}
}

// errno is the error that a kernel's negative return code means.
func errno(code uint32) error { return unix.Errno(-int32(code)) }

// do makes a request that is answered by a return code.
func (k *iscsiKernel) do(what string, e uevent) error {
	got, err := k.request(what, e)
	if err == nil && got.answer(0) != 0 {
		err = fmt.Errorf("%s: %w", what, errno(got.answer(0)))
	}
	return err
}

// receive reads what there is, and notes when it tells of the connection's failure.
func (k *iscsiKernel) receive(flags int) ([]uevent, error) {
	buf := make([]byte, 16<<10)
	for {
		n, _, err := unix.Recvfrom(int(k.socket.Fd()), buf, flags)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOBUFS): // of what was dropped nothing was an answer to us
			continue
		case err != nil:
			return nil, err
		}
		events := parseUevents(buf[:n])
		for _, e := range events {
			k.lost = k.lost || e.kind() == iscsiConnError && e.answer(0) == k.SID
		}
		return events, nil
	}
}

// drain forgets what the kernel told until now.
func (k *iscsiKernel) drain() {
	for {
		if _, err := k.receive(unix.MSG_DONTWAIT); err != nil {
			k.lost = false
			return
		}
	}
}

// create makes a session with one connection. It returns the number of the SCSI host.
func (k *iscsiKernel) create(cmdSN uint32) (host uint32, err error) {
	got, err := k.request("create a session", createSessionEvent(k.Handle, cmdSN))
	if err != nil {
		return 0, err
	}
	k.SID, host = got.answer(0), got.answer(1)
	got, err = k.request("create a connection", newUevent(iscsiCreateConn, k.Handle, k.SID, 0))
	if err != nil {
		return host, errors.Join(err, k.do("destroy the session", newUevent(iscsiDestroySession, k.Handle, k.SID)))
	}
	k.CID = got.answer(1)
	return host, nil
}

// Commands that the kernel has under way at a time, of a session and of its disk. A
// power of two, and below the window that targets grant.
const iscsiCommands, iscsiDepth = 64, 32

// createSessionEvent holds two 16-bit fields, cmds_max and queue_depth.
func createSessionEvent(handle uint64, cmdSN uint32) uevent {
	e := newUevent(iscsiCreateSession, handle, cmdSN)
	native.PutUint16(e[ueventAsk+4:], iscsiCommands)
	native.PutUint16(e[ueventAsk+6:], iscsiDepth)
	return e
}

// destroy ends session and connection for good.
func (k *iscsiKernel) destroy() error {
	return errors.Join(
		k.stop(iscsiStopTerm),
		k.do("destroy the connection", newUevent(iscsiDestroyConn, k.Handle, k.SID, k.CID)),
		k.do("destroy the session", newUevent(iscsiDestroySession, k.Handle, k.SID)))
}

// bind gives the connection a socket of this process.
func (k *iscsiKernel) bind(fd uintptr) error {
	return k.do("bind the connection", k.bindEvent(uint64(fd)))
}

func (k *iscsiKernel) bindEvent(fd uint64) uevent {
	e := newUevent(iscsiBindConn, k.Handle, k.SID, k.CID, 0, 0, 1) // is_leading
	native.PutUint64(e[ueventAsk+8:], fd)                          // transport_eph
	return e
}

func (k *iscsiKernel) start() error {
	return k.do("start the connection", newUevent(iscsiStartConn, k.Handle, k.SID, k.CID))
}

func (k *iscsiKernel) stop(flag uint32) error {
	return k.do("stop the connection", k.stopEvent(flag))
}

func (k *iscsiKernel) stopEvent(flag uint32) uevent {
	return newUevent(iscsiStopConn, k.Handle, k.SID, k.CID, 0, 0, flag) // after conn_handle, which nothing reads
}

// set sets a parameter, which is text with a zero byte at its end.
func (k *iscsiKernel) set(p iscsiParam) error {
	return k.do(fmt.Sprintf("parameter %d to %q", p.id, p.value), k.setEvent(p))
}

func (k *iscsiKernel) setEvent(p iscsiParam) uevent {
	text := strings.ReplaceAll(p.value, "\x00", "") + "\x00"
	return append(newUevent(iscsiSetParam, k.Handle, k.SID, k.CID, p.id, uint32(len(text))), text...)
}

// commands is how many SCSI commands the session has sent. The kernel gives each
// the next CmdSN and counts it in the same breath (iscsi_prep_scsi_cmd_pdu in
// drivers/scsi/libiscsi.c); all else it sends is immediate and takes none.
func (k *iscsiKernel) commands() (uint32, error) {
	got, err := k.request("statistics of the connection", newUevent(iscsiGetStats, k.Handle, k.SID, k.CID))
	if err != nil {
		return 0, err
	}
	if len(got) < ueventSize+statsCommands+4 {
		return 0, errors.New("statistics of the connection: the kernel's answer is short")
	}
	return native.Uint32(got[ueventSize+statsCommands:]), nil
}
