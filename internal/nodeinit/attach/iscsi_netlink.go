package attach

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink/nl"
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

// Offsets in struct iscsi_uevent, the same in both directions: the head, the union u of the
// request, the union r of the response.
const (
	ueventType     = 0
	ueventError    = 4
	ueventHandle   = 8
	ueventRequest  = 16
	ueventResponse = 40
	ueventSize     = 56
	statsCommands  = 20 // scsicmd_pdus in struct iscsi_stats
)

// iscsiAnswerLimit is how long the kernel may take to answer a request.
const iscsiAnswerLimit = 30 * time.Second

// uevent is one struct iscsi_uevent, and the data that follows it.
type uevent []byte

var native = binary.NativeEndian

// newUevent makes a request; fields is laid out as the request's struct in u, whose fields are 32
// bits wide except for those that the caller makes of two.
func newUevent(kind uint32, handle uint64, fields ...uint32) uevent {
	e := make(uevent, ueventSize)
	native.PutUint32(e[ueventType:], kind)
	native.PutUint64(e[ueventHandle:], handle)
	for i, v := range fields {
		native.PutUint32(e[ueventRequest+4*i:], v)
	}
	return e
}

func (e uevent) kind() uint32          { return native.Uint32(e[ueventType:]) }
func (e uevent) response(i int) uint32 { return native.Uint32(e[ueventResponse+4*i:]) }

// message is e as a netlink message. The kernel reads the kind from e itself.
func (e uevent) message() *nl.NetlinkRequest {
	m := nl.NewNetlinkRequest(int(e.kind()), 0)
	m.AddRawData(e)
	return m
}

// uevents are those among netlink messages.
func uevents(messages []syscall.NetlinkMessage) (events []uevent) {
	for _, m := range messages {
		if len(m.Data) >= ueventSize {
			events = append(events, uevent(m.Data))
		}
	}
	return events
}

// netlinkSocket is the part of nl.NetlinkSocket that is used; a test has another.
type netlinkSocket interface {
	Send(*nl.NetlinkRequest) error
	Receive() ([]syscall.NetlinkMessage, *unix.SockaddrNetlink, error)
	GetFd() int
	Close()
}

// iscsiKernel speaks with the kernel about one session of a transport.
type iscsiKernel struct {
	Handle   uint64 // of the transport iscsi_tcp
	SID, CID uint32 // of session and connection, once they exist

	socket netlinkSocket
	lost   bool // the kernel said that the connection failed
}

// open makes the socket. It also receives what the kernel tells a daemon.
func (k *iscsiKernel) open() error {
	s, err := nl.Subscribe(unix.NETLINK_ISCSI, iscsiGroup)
	if err != nil {
		return fmt.Errorf("the kernel's iSCSI driver: %w", err)
	}
	limit := unix.NsecToTimeval(int64(iscsiAnswerLimit))
	if err := s.SetReceiveTimeout(&limit); err != nil {
		s.Close()
		return fmt.Errorf("iSCSI netlink: %w", err)
	}
	k.socket = s
	return nil
}

// request sends a request and returns the response: the same structure with r filled in.
func (k *iscsiKernel) request(what string, e uevent) (uevent, error) {
	if err := k.socket.Send(e.message()); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	for {
		events, err := k.receive()
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

// errno is the error that a negative return code of the kernel means.
func errno(code uint32) error { return unix.Errno(-int32(code)) }

// do makes a request whose response is a return code.
func (k *iscsiKernel) do(what string, e uevent) error {
	got, err := k.request(what, e)
	if err == nil && got.response(0) != 0 {
		err = fmt.Errorf("%s: %w", what, errno(got.response(0)))
	}
	return err
}

// receive reads the next messages, and notes if one of them reports the connection's failure.
func (k *iscsiKernel) receive() ([]uevent, error) {
	for {
		messages, _, err := k.socket.Receive()
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOBUFS): // what was dropped is not a response to us
			continue
		case err != nil:
			return nil, err
		}
		events := uevents(messages)
		for _, e := range events {
			k.lost = k.lost || e.kind() == iscsiConnError && e.response(0) == k.SID
		}
		return events, nil
	}
}

// poll receives what the kernel has said until now, without waiting for more.
func (k *iscsiKernel) poll() {
	fds := []unix.PollFd{{Fd: int32(k.socket.GetFd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return
		}
		if _, err := k.receive(); err != nil {
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
	k.SID, host = got.response(0), got.response(1)
	got, err = k.request("create a connection", newUevent(iscsiCreateConn, k.Handle, k.SID, 0))
	if err != nil {
		return host, errors.Join(err, k.do("destroy the session", newUevent(iscsiDestroySession, k.Handle, k.SID)))
	}
	k.CID = got.response(1)
	return host, nil
}

// Commands that the kernel has in flight at a time, of a session and of its disk. Powers of two,
// and below the window that targets grant.
const iscsiCommands, iscsiDepth = 64, 32

// createSessionEvent holds two 16-bit fields, cmds_max and queue_depth.
func createSessionEvent(handle uint64, cmdSN uint32) uevent {
	e := newUevent(iscsiCreateSession, handle, cmdSN)
	native.PutUint16(e[ueventRequest+4:], iscsiCommands)
	native.PutUint16(e[ueventRequest+6:], iscsiDepth)
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
	native.PutUint64(e[ueventRequest+8:], fd)                      // transport_eph
	return e
}

func (k *iscsiKernel) start() error {
	return k.do("start the connection", newUevent(iscsiStartConn, k.Handle, k.SID, k.CID))
}

func (k *iscsiKernel) stop(flag uint32) error {
	return k.do("stop the connection", k.stopEvent(flag))
}

func (k *iscsiKernel) stopEvent(flag uint32) uevent {
	return newUevent(iscsiStopConn, k.Handle, k.SID, k.CID, 0, 0, flag) // after conn_handle, which is not read
}

// set sets a parameter, which is text with a zero byte at its end.
func (k *iscsiKernel) set(p iscsiParam) error {
	return k.do(fmt.Sprintf("parameter %d to %q", p.id, p.value), k.setEvent(p))
}

func (k *iscsiKernel) setEvent(p iscsiParam) uevent {
	text := strings.ReplaceAll(p.value, "\x00", "") + "\x00"
	return append(newUevent(iscsiSetParam, k.Handle, k.SID, k.CID, p.id, uint32(len(text))), text...)
}

// commands is the number of SCSI commands that the session has sent. The kernel gives each the next
// CmdSN and counts it at the same time (iscsi_prep_scsi_cmd_pdu in drivers/scsi/libiscsi.c);
// everything else it sends is immediate and does not take a number.
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
