package nodeinit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"netroot/internal/proto/nbd"
)

// Generic netlink interface of the NBD driver, include/uapi/linux/nbd-netlink.h.
const (
	nbdFamily = "nbd"

	nbdCmdConnect     = 1
	nbdCmdDisconnect  = 2
	nbdCmdReconfigure = 3

	nbdAttrIndex           = 1
	nbdAttrSizeBytes       = 2
	nbdAttrBlockSizeBytes  = 3
	nbdAttrTimeout         = 4
	nbdAttrServerFlags     = 5
	nbdAttrSockets         = 7
	nbdAttrDeadConnTimeout = 8

	nbdSockItem = 1
	nbdSockFD   = 1
)

const (
	// requestTimeout is how long the kernel waits for an answer before it
	// takes the connection for dead. The request itself is not lost.
	requestTimeout = 30 * time.Second
	// deadTimeout is how long reads wait for a new connection: ten years.
	deadTimeout = 10 * 365 * 24 * time.Hour
	// connectLimit bounds one attempt to connect and negotiate.
	connectLimit = 15 * time.Second
	// sectorSize is the unit of a device's size in sysfs, in bytes.
	sectorSize = 512
)

// nbdDevice is an attached device and what it takes to attach it again.
type nbdDevice struct {
	Index     int
	Addresses []string // host:port of the servers, in the order to try
	Export    string
	Server    string // the address that the connection leads to
	Size      uint64 // bytes
	Adopted   bool   // somebody else made it and its first connection

	conn   *os.File  // the socket the kernel reads from
	keeper *exec.Cmd // the process that watches it
}

func (d *nbdDevice) path() string { return "/dev/nbd" + strconv.Itoa(d.Index) }

// attachNBD connects the root's device and leaves a keeper with it.
func (n *node) attachNBD(ctx context.Context) (string, error) {
	addresses, err := n.addresses(ctx)
	if err != nil {
		return "", err
	}
	d := &nbdDevice{Addresses: addresses, Export: n.boot.Root.Name}
	info, err := d.dialAny(ctx)
	if err != nil {
		return "", err
	}
	if err := d.connect(info); err != nil {
		return "", fmt.Errorf("give %s to the kernel: %w", d.Server, err)
	}
	if err := waitDevice(ctx, d.path()); err != nil {
		return "", errors.Join(err, d.disconnect())
	}
	d.keeper, err = startKeeper(keeperState{NBD: d, Net: n.net}, d.conn)
	if err != nil {
		return "", errors.Join(err, d.disconnect())
	}
	n.device = d.path()
	return fmt.Sprintf("%s is export %q of %s, %s", d.path(), d.Export, d.Server, mib(d.Size)), nil
}

// dialAny tries the servers in their order.
func (d *nbdDevice) dialAny(ctx context.Context) (nbd.Info, error) {
	var failures []error
	for _, address := range d.Addresses {
		info, err := d.dial(ctx, address)
		if err == nil {
			return info, nil
		}
		failures = append(failures, err)
	}
	return nbd.Info{}, errors.Join(failures...)
}

// dial connects and negotiates; afterwards the socket carries nothing but
// requests and answers and can be given to the kernel.
func (d *nbdDevice) dial(ctx context.Context, address string) (nbd.Info, error) {
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	conn, err := keepAlive.DialContext(ctx, "tcp", address)
	if err != nil {
		return nbd.Info{}, err
	}
	defer conn.Close()
	info, err := nbd.Handshake(ctx, conn, d.Export)
	if err != nil {
		return nbd.Info{}, fmt.Errorf("%s: %w", address, err)
	}
	file, err := forKernel(conn)
	if err != nil {
		return nbd.Info{}, err
	}
	d.conn, d.Server, d.Size = file, address, info.Size
	return info, nil
}

// keepAlive makes connections that the kernel will use: one that is idle asks
// whether the server is still there.
var keepAlive = net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}}

// forKernel is the socket of a connection that keepAlive made.
func forKernel(conn net.Conn) (*os.File, error) {
	file, err := conn.(*net.TCPConn).File()
	if err != nil {
		return nil, err
	}
	// Unacknowledged data for so long means that the server is gone; the
	// keepalive only speaks on an idle connection (tcp(7)).
	unix.SetsockoptInt(int(file.Fd()), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(requestTimeout/time.Millisecond))
	return file, nil
}

// connect makes the device (NBD_CMD_CONNECT).
func (d *nbdDevice) connect(info nbd.Info) error {
	size := info.Size / sectorSize * sectorSize
	return nbdRequest(nbdCmdConnect,
		nl.NewRtAttr(nbdAttrIndex, nl.Uint32Attr(uint32(d.Index))),
		nl.NewRtAttr(nbdAttrSizeBytes, nl.Uint64Attr(size)),
		nl.NewRtAttr(nbdAttrBlockSizeBytes, nl.Uint64Attr(sectorSize)),
		nl.NewRtAttr(nbdAttrServerFlags, nl.Uint64Attr(uint64(info.Flags))),
		nl.NewRtAttr(nbdAttrTimeout, nl.Uint64Attr(uint64(requestTimeout/time.Second))),
		nl.NewRtAttr(nbdAttrDeadConnTimeout, nl.Uint64Attr(uint64(deadTimeout/time.Second))),
		sockets(d.conn))
}

// reconfigure gives the device another connection in place of a dead one. The
// kernel answers ENOSPC while it has not noticed yet that the old one is dead.
func (d *nbdDevice) reconfigure() error {
	return nbdRequest(nbdCmdReconfigure, nl.NewRtAttr(nbdAttrIndex, nl.Uint32Attr(uint32(d.Index))), sockets(d.conn))
}

// disconnect takes the device away and ends its keeper.
func (d *nbdDevice) disconnect() error {
	if d.keeper != nil {
		dismiss(d.keeper)
	}
	err := nbdRequest(nbdCmdDisconnect, nl.NewRtAttr(nbdAttrIndex, nl.Uint32Attr(uint32(d.Index))))
	return errors.Join(err, d.conn.Close())
}

// inherit, peer, watch and again are those of kept.
func (d *nbdDevice) inherit(fd uintptr) {
	d.Server = cmp.Or(d.Server, d.Addresses[0]) // nobody says what an adopted one has
	if !d.Adopted {
		d.conn = os.NewFile(fd, "nbd")
	}
}

func (d *nbdDevice) peer() string { return d.Server }

func (d *nbdDevice) watch() error {
	if d.conn == nil {
		return d.watchAdopted()
	}
	err := hangUp(d.conn)
	d.conn.Close()
	return err
}

func (d *nbdDevice) again(ctx context.Context) error {
	size := d.Size
	if _, err := d.dialAny(ctx); err != nil {
		return err
	}
	var err error
	if d.Size/sectorSize != size/sectorSize { // of an adopted device no more is known
		err = fmt.Errorf("%s now serves %d bytes as export %q, not the %d of this root: serve the image this node runs", d.Server, d.Size, d.Export, size)
	} else {
		err = d.reconfigure()
	}
	if err != nil {
		d.Size = size
		d.conn.Close()
		d.conn = nil
	}
	return err
}

func sockets(conn *os.File) *nl.RtAttr {
	list := nl.NewRtAttr(nbdAttrSockets|unix.NLA_F_NESTED, nil)
	item := list.AddRtAttr(nbdSockItem|unix.NLA_F_NESTED, nil)
	item.AddRtAttr(nbdSockFD, nl.Uint32Attr(uint32(conn.Fd())))
	return list
}

func nbdRequest(command uint8, attrs ...*nl.RtAttr) error {
	family, err := netlink.GenlFamilyGet(nbdFamily)
	if err != nil {
		return fmt.Errorf("the kernel's NBD driver (4.12 or newer): %w", err)
	}
	req := nl.NewNetlinkRequest(int(family.ID), unix.NLM_F_ACK)
	req.AddData(&nl.Genlmsg{Command: command, Version: uint8(family.Version)})
	for _, a := range attrs {
		req.AddData(a)
	}
	_, err = req.Execute(unix.NETLINK_GENERIC, 0)
	return err
}
