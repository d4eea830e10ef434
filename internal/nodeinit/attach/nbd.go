package attach

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"netroot/internal/nodeinit/devices"
	"netroot/internal/proto/nbd"
)

// The generic netlink interface of the NBD driver, include/uapi/linux/nbd-netlink.h.
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
	// deadTimeout is how long reads wait for a new connection: ten years.
	deadTimeout = 10 * 365 * 24 * time.Hour
	// sectorSize is the unit of a device's size in sysfs, in bytes.
	sectorSize = 512
)

// NBD is an attached device and everything that is needed to reconnect it. Its exported fields are
// what a keeper needs.
type NBD struct {
	Index     int
	Addresses []string // host:port of the servers, in the order to try
	Export    string
	Server    string // the address that it is connected to
	Size      uint64 // bytes
	Identity  []byte // of what it has; empty: not known, and the size alone counts
	Adopted   bool   // another program made it and its first connection

	conn *os.File // the socket that the kernel reads from
}

// Path is the device's.
func (d *NBD) Path() string { return "/dev/nbd" + strconv.Itoa(d.Index) }

// attachNBD connects the root's device.
func attachNBD(ctx context.Context, r Request) (*Root, error) {
	addresses, err := r.addresses(ctx)
	if err != nil {
		return nil, err
	}
	d := &NBD{Addresses: addresses, Export: r.Root.Name}
	info, err := d.dialAny(ctx)
	if err != nil {
		return nil, err
	}
	if err := d.connect(info); err != nil {
		return nil, errors.Join(fmt.Errorf("give %s to the kernel: %w", d.Server, err), d.conn.Close())
	}
	if err := devices.UntilBlock(ctx, d.Path()); err != nil {
		return nil, errors.Join(err, d.disconnect())
	}
	said := fmt.Sprintf("%s is export %q of %s, %s", d.Path(), d.Export, d.Server, mib(d.Size))
	return &Root{Device: d.Path(), NBD: d, Said: said, detach: d.disconnect}, nil
}

// dialAny tries the servers in their order.
func (d *NBD) dialAny(ctx context.Context) (nbd.Info, error) {
	return firstServer(d.Addresses, func(address string) (nbd.Info, error) { return d.dial(ctx, address) })
}

// dial connects and negotiates. Afterwards the socket carries nothing but requests and replies and
// can be given to the kernel.
func (d *NBD) dial(ctx context.Context, address string) (nbd.Info, error) {
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
	if err := d.recognise(ctx, conn, address, info.Size); err != nil {
		return nbd.Info{}, err
	}
	file, err := forKernel(conn)
	if err != nil {
		return nbd.Info{}, err
	}
	d.conn, d.Server, d.Size = file, address, info.Size
	return info, nil
}

// recognise returns an error when a server has another root than the device. A device without an
// identity takes the server's.
func (d *NBD) recognise(ctx context.Context, conn net.Conn, address string, size uint64) error {
	if d.Size != 0 && d.Size/sectorSize != size/sectorSize { // that of an adopted device is known in sectors
		return fmt.Errorf("%s now serves %d bytes as export %q, not the %d of this root: serve the image that this node runs",
			address, size, d.Export, d.Size)
	}
	id, err := identity(readerAt(func(p []byte, off int64) (int, error) {
		if err := nbd.Read(ctx, conn, p, off); err != nil {
			return 0, err
		}
		return len(p), nil
	}), int64(size))
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", address, err)
	case len(d.Identity) == 0:
		d.Identity = id
	case !bytes.Equal(d.Identity, id):
		return fmt.Errorf("%s now serves another image of the same size as export %q: serve the image that this node runs", address, d.Export)
	}
	return nil
}

// connect makes the device (NBD_CMD_CONNECT).
func (d *NBD) connect(info nbd.Info) error {
	size := info.Size / sectorSize * sectorSize
	return nbdRequest(nbdCmdConnect, d.index(),
		nl.NewRtAttr(nbdAttrSizeBytes, nl.Uint64Attr(size)),
		nl.NewRtAttr(nbdAttrBlockSizeBytes, nl.Uint64Attr(sectorSize)),
		nl.NewRtAttr(nbdAttrServerFlags, nl.Uint64Attr(uint64(info.Flags))),
		nbdSeconds(nbdAttrTimeout, requestTimeout),
		nbdSeconds(nbdAttrDeadConnTimeout, deadTimeout),
		nbdSocket(d.conn))
}

// reconfigure gives the device another connection in place of a dead one. The kernel answers ENOSPC
// while it has not noticed yet that the old one is dead.
func (d *NBD) reconfigure() error {
	return nbdRequest(nbdCmdReconfigure, d.index(), nbdSocket(d.conn))
}

// disconnect removes the device.
func (d *NBD) disconnect() error {
	return errors.Join(nbdRequest(nbdCmdDisconnect, d.index()), d.conn.Close())
}

// Files are those that a keeper inherits.
func (d *NBD) Files() []*os.File {
	if d.conn == nil {
		return nil
	}
	return []*os.File{d.conn}
}

// Inherit takes over the files in the keeper, from descriptor fd on.
func (d *NBD) Inherit(fd uintptr) error {
	d.Server = cmp.Or(d.Server, d.Addresses[0]) // that of an adopted device is not known
	if !d.Adopted {
		d.conn = os.NewFile(fd, "nbd")
	}
	return nil
}

// Peer is the server that the device is, or was, connected to.
func (d *NBD) Peer() string { return d.Server }

// Watch blocks until the connection has ended, and closes it.
func (d *NBD) Watch() error {
	if d.conn == nil {
		return d.watchAdopted()
	}
	err := waitHangup(d.conn)
	d.conn.Close()
	return err
}

// Reconnect makes one attempt with each server to give the device another connection.
func (d *NBD) Reconnect(ctx context.Context) error {
	if _, err := d.dialAny(ctx); err != nil {
		return err
	}
	err := d.reconfigure()
	if err != nil {
		d.conn.Close()
		d.conn = nil
	}
	return err
}

func (d *NBD) index() *nl.RtAttr { return nl.NewRtAttr(nbdAttrIndex, nl.Uint32Attr(uint32(d.Index))) }

func nbdSeconds(attr int, t time.Duration) *nl.RtAttr {
	return nl.NewRtAttr(attr, nl.Uint64Attr(uint64(t/time.Second)))
}

func nbdSocket(conn *os.File) *nl.RtAttr {
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
