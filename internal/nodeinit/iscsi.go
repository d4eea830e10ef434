package nodeinit

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/proto/iscsi"
)

const (
	iscsiHandle = "/sys/class/iscsi_transport/tcp/handle"
	// After iscsiIdle without a word from the target the kernel asks for one, and
	// takes the connection for dead when none comes within iscsiPing.
	iscsiIdle = 5 * time.Second
	iscsiPing = 10 * time.Second
)

// iscsiDevice is an attached disk and what it takes to log in again.
type iscsiDevice struct {
	Addresses []string // host:port of the portals, in the order to try
	Server    string   // the one that the connection leads to
	Target    string
	LUN       uint16
	Initiator string
	ISID      [6]byte
	Kernel    iscsiKernel

	conn    *os.File // the socket that the kernel was given
	stopped bool     // the kernel knows that the connection ended, and waits
}

// attachISCSI logs in, gives the connection to the kernel and leaves a keeper
// with it: the kernel reads and writes, but to log in is a process's work.
func (n *node) attachISCSI(ctx context.Context) (said string, err error) {
	addresses, err := n.addresses(ctx)
	if err != nil {
		return "", err
	}
	d := newISCSIDevice(addresses, n.boot.Root.Name, n.hostID())
	d.LUN = n.boot.Root.LUN
	if err := poll(ctx, 10*time.Second, iscsiHandle+" (module iscsi_tcp)", func() (bool, error) {
		d.Kernel.Handle, err = strconv.ParseUint(readTrimmed(iscsiHandle), 10, 64)
		return err == nil, nil
	}); err != nil {
		return "", err
	}
	if err := d.Kernel.open(); err != nil {
		return "", err
	}
	defer d.Kernel.socket.Close()
	host, err := d.create(ctx)
	if err != nil {
		return "", err
	}
	disk, err := d.scan(ctx, host)
	if err == nil {
		_, err = startKeeper(keeperState{ISCSI: d, Net: n.net}, d.conn, d.Kernel.socket)
	}
	if err != nil {
		return "", errors.Join(err, d.Kernel.destroy(), d.conn.Close())
	}
	n.device = disk
	return fmt.Sprintf("%s is LUN %d of %s at %s", disk, d.LUN, d.Target, d.Server), nil
}

// newISCSIDevice names this end by the node's identity: a node that starts again
// takes the place of the session that it left behind (RFC 7143, 6.3.5).
func newISCSIDevice(addresses []string, target, host string) *iscsiDevice {
	d := &iscsiDevice{Addresses: addresses, Target: target, Initiator: initiatorName(host)}
	d.ISID[0] = 0x80 // what follows is random (RFC 7143, 11.12.5)
	hex.Decode(d.ISID[1:4], []byte(host[:6]))
	return d
}

func initiatorName(host string) string { return "iqn.2026-11.invalid.netroot:node:" + host }

// create logs in and makes the kernel's session.
func (d *iscsiDevice) create(ctx context.Context) (host uint32, err error) {
	s, err := d.dialAny(ctx, 0)
	if err != nil {
		return 0, err
	}
	if host, err = d.Kernel.create(s.CmdSN); err != nil {
		return 0, errors.Join(err, d.conn.Close())
	}
	if err := d.give(s); err != nil {
		return 0, errors.Join(fmt.Errorf("give %s to the kernel: %w", d.Server, err), d.Kernel.destroy(), d.conn.Close())
	}
	return host, nil
}

// dialAny tries the portals in their order.
func (d *iscsiDevice) dialAny(ctx context.Context, sent uint32) (iscsi.Session, error) {
	var failures []error
	for _, address := range d.Addresses {
		s, err := d.dial(ctx, address, sent)
		if err == nil {
			return s, nil
		}
		failures = append(failures, err)
	}
	return iscsi.Session{}, errors.Join(failures...)
}

// dial connects and logs in; what comes next on the connection are commands.
func (d *iscsiDevice) dial(ctx context.Context, address string, sent uint32) (iscsi.Session, error) {
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	conn, err := keepAlive.DialContext(ctx, "tcp", address)
	if err != nil {
		return iscsi.Session{}, err
	}
	defer conn.Close()
	s, err := iscsi.Login(ctx, conn, iscsi.LoginConfig{Initiator: d.Initiator, Target: d.Target, ISID: d.ISID, Sent: sent})
	if err != nil {
		return iscsi.Session{}, fmt.Errorf("%s: %w", address, err)
	}
	file, err := forKernel(conn)
	if err != nil {
		return iscsi.Session{}, err
	}
	d.conn, d.Server = file, address
	return s, nil
}

// give hands the connection to the kernel, with what was agreed on.
func (d *iscsiDevice) give(s iscsi.Session) error {
	if err := d.Kernel.bind(d.conn.Fd()); err != nil {
		return err
	}
	d.stopped = false
	for _, p := range d.parameters(s) {
		if err := d.Kernel.set(p); err != nil {
			return err
		}
	}
	return d.Kernel.start()
}

// iscsiParam is a parameter of a session or connection, enum iscsi_param in
// include/scsi/iscsi_if.h, as the kernel's text.
type iscsiParam struct {
	id    uint32
	value string
}

// parameters are what the kernel must know to go on with a session.
func (d *iscsiDevice) parameters(s iscsi.Session) []iscsiParam {
	num := func(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
	flag := func(b bool) string {
		if b {
			return "1"
		}
		return "0"
	}
	host, port, _ := net.SplitHostPort(d.Server)
	return []iscsiParam{
		{0, num(s.MaxReceive)},
		{1, num(s.MaxSend)},
		{2, flag(s.HeaderDigest)},
		{3, flag(s.DataDigest)},
		{4, flag(s.InitialR2T)},
		{5, num(s.MaxR2T)},
		{6, flag(s.ImmediateData)},
		{7, num(s.FirstBurst)},
		{8, num(s.MaxBurst)},
		{9, flag(s.PDUInOrder)},
		{10, flag(s.SeqInOrder)},
		{11, num(s.ErrorRecovery)},
		{14, num(s.ExpStatSN)},
		{15, d.Target},
		{16, num(uint32(s.PortalGroup))},
		{17, host}, // persistent address and port: what udev makes names of
		{18, port},
		// Below zero there is no time after which commands fail
		// (iscsi_block_session in drivers/scsi/scsi_transport_iscsi.c).
		{19, "-1"},
		{30, num(uint32(iscsiPing / time.Second))},
		{31, num(uint32(iscsiIdle / time.Second))},
		{34, d.Initiator},
	}
}

// scan has the kernel look for the LUN, and waits for its disk.
func (d *iscsiDevice) scan(ctx context.Context, host uint32) (disk string, err error) {
	file := fmt.Sprintf("/sys/class/scsi_host/host%d/scan", host)
	if err := os.WriteFile(file, fmt.Appendf(nil, "- - %d", d.LUN), 0); err != nil { // any channel, any target
		return "", fmt.Errorf("look for the disk: %w", err)
	}
	err = poll(ctx, 20*time.Second, fmt.Sprintf("LUN %d of %s", d.LUN, d.Target), func() (bool, error) {
		disk = iscsiDisk("/sys/class/iscsi_session", d.Kernel.SID, d.LUN)
		return disk != "", nil
	})
	if err != nil {
		return "", err
	}
	return disk, waitDevice(ctx, disk)
}

// iscsiDisk finds a disk of a session in sysfs, below the session's target.
func iscsiDisk(class string, sid uint32, lun uint16) string {
	found, _ := filepath.Glob(filepath.Join(class, fmt.Sprintf("session%d/device/target*/*:%d/block/*", sid, lun)))
	if len(found) == 0 {
		return ""
	}
	return "/dev/" + strings.ReplaceAll(filepath.Base(found[0]), "!", "/")
}

// inherit, peer, watch and again are those of kept.
func (d *iscsiDevice) inherit(fd uintptr) {
	d.conn = os.NewFile(fd, "iscsi")
	d.Kernel.socket = os.NewFile(fd+1, "iscsi netlink")
}

func (d *iscsiDevice) peer() string { return d.Server }

// watch waits for the end of TCP's connection, or for the kernel to say that it
// takes it for dead. Of all else that the kernel tells a daemon nothing needs an
// answer: a target's NOP-In, when it asks for one, is answered by the kernel
// itself (iscsi_send_nopout in drivers/scsi/libiscsi.c), and a target that wants
// the session to end, by an asynchronous message, ends it a little later.
func (d *iscsiDevice) watch() error {
	defer d.conn.Close()
	fds := []unix.PollFd{{Fd: int32(d.conn.Fd()), Events: unix.POLLRDHUP}, {Fd: int32(d.Kernel.socket.Fd()), Events: unix.POLLIN}}
	for !d.Kernel.lost {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case (fds[0].Revents|fds[1].Revents)&unix.POLLNVAL != 0:
			return unix.EBADF
		case fds[0].Revents != 0:
			return nil
		default:
			if _, err := d.Kernel.receive(unix.MSG_DONTWAIT); err != nil && !errors.Is(err, unix.EAGAIN) {
				return err
			}
		}
	}
	return nil
}

// again stops the kernel's use of the dead connection, which puts its commands
// off, and logs in anew where that session's numbers end: the kernel goes on
// with the commands that it has, under the next numbers.
func (d *iscsiDevice) again(ctx context.Context) error {
	if !d.stopped {
		if err := d.Kernel.stop(iscsiStopRecover); err != nil {
			return err
		}
		d.stopped = true
	}
	sent, err := d.Kernel.commands()
	if err != nil {
		return err
	}
	d.Kernel.drain()
	s, err := d.dialAny(ctx, sent)
	if err != nil {
		return err
	}
	if err := d.give(s); err != nil {
		return errors.Join(fmt.Errorf("give %s to the kernel: %w", d.Server, err), d.conn.Close())
	}
	return nil
}
