package attach

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/nodeinit/devices"
	"netroot/internal/proto/iscsi"
)

const (
	iscsiHandle = "/sys/class/iscsi_transport/tcp/handle"
	// After iscsiIdle without a PDU from the target the kernel sends a NOP-Out, and regards the
	// connection as dead if there is no response within iscsiPing.
	iscsiIdle = 5 * time.Second
	iscsiPing = 10 * time.Second
)

// ISCSI is an attached disk and everything that is needed to log in again. Its exported fields are
// what a keeper needs.
type ISCSI struct {
	Addresses []string // host:port of the portals, in the order to try
	Server    string   // the portal that it is connected to
	Target    string
	LUN       uint16
	Initiator string
	ISID      [6]byte
	Kernel    iscsiKernel

	conn    *os.File // the socket that the kernel was given
	stopped bool     // the kernel knows that the connection ended, and waits
}

// attachISCSI logs in and gives the connection to the kernel, which reads and writes. To log in is
// the work of a process.
func attachISCSI(ctx context.Context, r Request) (*Root, error) {
	addresses, err := r.addresses(ctx)
	if err != nil {
		return nil, err
	}
	d := newISCSI(addresses, r.Root.Name, r.HostID)
	d.LUN = r.Root.LUN
	if err := devices.UntilFile(ctx, iscsiHandle, "iscsi_tcp"); err != nil {
		return nil, err
	}
	if d.Kernel.Handle, err = strconv.ParseUint(devices.Attribute(iscsiHandle), 10, 64); err != nil {
		return nil, fmt.Errorf("%s: %w", iscsiHandle, err)
	}
	if err := d.Kernel.open(); err != nil {
		return nil, err
	}
	host, err := d.create(ctx)
	if err != nil {
		d.Kernel.socket.Close()
		return nil, err
	}
	disk, err := d.scan(ctx, host)
	if err != nil {
		return nil, errors.Join(err, d.detach())
	}
	said := fmt.Sprintf("%s is LUN %d of %s at %s", disk, d.LUN, d.Target, d.Server)
	return &Root{Device: disk, ISCSI: d, Said: said, detach: d.detach}, nil
}

// newISCSI names this end by the node's identity: a node that starts again takes over the session
// that it left behind (RFC 7143, 6.3.5).
func newISCSI(addresses []string, target, hostID string) *ISCSI {
	d := &ISCSI{Addresses: addresses, Target: target, Initiator: InitiatorName(hostID)}
	d.ISID[0] = 0x80 // the format "random" (RFC 7143, 11.12.5)
	hex.Decode(d.ISID[1:4], []byte(hostID[:6]))
	return d
}

// InitiatorName is the node's name as an iSCSI initiator.
func InitiatorName(hostID string) string { return "iqn.2026-11.invalid.netroot:node:" + hostID }

// create logs in and makes the kernel's session.
func (d *ISCSI) create(ctx context.Context) (host uint32, err error) {
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

// detach ends the session.
func (d *ISCSI) detach() error {
	err := errors.Join(d.Kernel.destroy(), d.conn.Close())
	d.Kernel.socket.Close()
	return err
}

// dialAny tries the portals in their order.
func (d *ISCSI) dialAny(ctx context.Context, sent uint32) (iscsi.Session, error) {
	return firstServer(d.Addresses, func(address string) (iscsi.Session, error) { return d.dial(ctx, address, sent) })
}

// dial connects and logs in. Everything that follows on the connection is commands.
func (d *ISCSI) dial(ctx context.Context, address string, sent uint32) (iscsi.Session, error) {
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

// give hands the connection to the kernel, with the parameters that were negotiated.
func (d *ISCSI) give(s iscsi.Session) error {
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

// scan has the kernel look for the LUN, and waits for its disk.
func (d *ISCSI) scan(ctx context.Context, host uint32) (disk string, err error) {
	file := fmt.Sprintf("/sys/class/scsi_host/host%d/scan", host)
	if err := os.WriteFile(file, fmt.Appendf(nil, "- - %d", d.LUN), 0); err != nil { // any channel, any target
		return "", fmt.Errorf("look for the disk: %w", err)
	}
	err = devices.Until(ctx, 20*time.Second, fmt.Sprintf("LUN %d of %s", d.LUN, d.Target), func() (bool, error) {
		disk = iscsiDisk("/sys/class/iscsi_session", d.Kernel.SID, d.LUN)
		return disk != "", nil
	})
	if err != nil {
		return "", err
	}
	return disk, devices.UntilBlock(ctx, disk)
}

// iscsiDisk finds a disk of a session in sysfs, below the session's target.
func iscsiDisk(class string, sid uint32, lun uint16) string {
	found, _ := filepath.Glob(filepath.Join(class, fmt.Sprintf("session%d/device/target*/*:%d/block/*", sid, lun)))
	if len(found) == 0 {
		return ""
	}
	return "/dev/" + strings.ReplaceAll(filepath.Base(found[0]), "!", "/")
}

// Files are those that a keeper inherits.
func (d *ISCSI) Files() []*os.File { return []*os.File{d.conn} }

// Inherit takes over the files in the keeper, from descriptor fd on, and listens to the kernel on a
// netlink socket of its own.
func (d *ISCSI) Inherit(fd uintptr) error {
	d.conn = os.NewFile(fd, "iscsi")
	return d.Kernel.open()
}

// Release ends the present process's part in the session when a keeper has taken over. An error
// says that the connection was lost before the keeper listened: nobody else was told of it.
func (d *ISCSI) Release() error {
	d.Kernel.poll()
	if d.Kernel.lost {
		return fmt.Errorf("the connection to %s failed as soon as it was made", d.Server)
	}
	d.Kernel.socket.Close()
	return nil
}

// Peer is the server that the device is, or was, connected to.
func (d *ISCSI) Peer() string { return d.Server }

// Watch blocks until the TCP connection has ended, or the kernel says that it regards it as dead,
// and closes it. Nothing else that the kernel tells a daemon needs an answer: the kernel itself
// answers a target's NOP-In (iscsi_send_nopout in drivers/scsi/libiscsi.c), and a target that asks
// for the end of the session, by an asynchronous message, ends it a little later.
func (d *ISCSI) Watch() error {
	defer d.conn.Close()
	fds := []unix.PollFd{
		{Fd: int32(d.conn.Fd()), Events: unix.POLLRDHUP},
		{Fd: int32(d.Kernel.socket.GetFd()), Events: unix.POLLIN},
	}
	for !d.Kernel.lost {
		if err := waitAny(fds); err != nil || fds[0].Revents != 0 {
			return err
		}
		if _, err := d.Kernel.receive(); err != nil && !errors.Is(err, unix.EAGAIN) {
			return err
		}
	}
	return nil
}

// Reconnect stops the kernel's use of the dead connection, which suspends its commands, and logs in
// again where the command numbers of the session end: the kernel continues with the commands that
// it has, under the next numbers.
func (d *ISCSI) Reconnect(ctx context.Context) error {
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
	d.Kernel.poll()
	d.Kernel.lost = false // that was the dead connection
	s, err := d.dialAny(ctx, sent)
	if err != nil {
		return err
	}
	if err := d.give(s); err != nil {
		return errors.Join(fmt.Errorf("give %s to the kernel: %w", d.Server, err), d.conn.Close())
	}
	return nil
}
