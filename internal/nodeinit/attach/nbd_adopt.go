package attach

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"netroot/internal/nodeinit/devices"
)

const (
	nbdCmdLinkDead    = 5
	nbdMulticastGroup = "nbd_mc_group"
)

// AdoptNBD takes over an NBD root that nbd-client(8) attached. nbd-client 3.24 and earlier give the
// connection to the kernel and exit, so that the root is lost with its first connection. From now
// on reads wait, as they do with a device of our own, and a keeper reconnects it.
func AdoptNBD(ctx context.Context, r Request) (*NBD, error) {
	addresses, err := r.addresses(ctx)
	if err != nil {
		return nil, err
	}
	sectors, err := strconv.ParseUint(devices.Attribute("/sys/class/block/nbd0/size"), 10, 64)
	if err != nil || sectors == 0 {
		return nil, errors.New("/dev/nbd0 has no size: dracut attached the root elsewhere, and nothing will reconnect it")
	}
	d := &NBD{Addresses: addresses, Export: r.Root.Name, Size: sectors * sectorSize, Adopted: true}
	d.Identity = identityOfDevice(d.Path(), int64(d.Size), connectLimit)
	err = nbdRequest(nbdCmdReconfigure, d.index(),
		nbdSeconds(nbdAttrTimeout, requestTimeout), nbdSeconds(nbdAttrDeadConnTimeout, deadTimeout))
	if err != nil {
		return nil, fmt.Errorf("have reads of /dev/nbd0 wait for a lost server: %w", err)
	}
	return d, nil
}

// watchAdopted blocks until the kernel says that the connection is dead. The socket of another
// process cannot be watched. The kernel announces a dead connection once; whether it did so before
// this process listened shows when it is offered another connection.
func (d *NBD) watchAdopted() error {
	family, err := netlink.GenlFamilyGet(nbdFamily)
	if err != nil {
		return err
	}
	s, err := nl.Subscribe(unix.NETLINK_GENERIC)
	if err != nil {
		return err
	}
	defer s.Close()
	for _, g := range family.Groups {
		if g.Name == nbdMulticastGroup {
			if err := unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, int(g.ID)); err != nil {
				return err
			}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectLimit)
	err = d.Reconnect(ctx)
	cancel()
	if err == nil { // the connection was dead, and there is a new one now
		return waitHangup(d.conn)
	}
	for {
		messages, _, err := s.Receive()
		if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOBUFS) {
			return os.NewSyscallError("receive from the NBD driver", err)
		}
		for _, m := range messages {
			if isLinkDead(m.Data, uint32(d.Index)) {
				return nil
			}
		}
	}
}

// isLinkDead reports whether a message says that a connection of the device is dead
// (drivers/block/nbd.c, nbd_mcast_index).
func isLinkDead(message []byte, index uint32) bool {
	const header = 4 // of generic netlink: the command, the version, two reserved bytes
	if len(message) < header || message[0] != nbdCmdLinkDead {
		return false
	}
	// nl.ParseRouteAttr advances by the aligned length of each attribute and checks only the length
	// itself. An attribute list that ends within the padding makes it panic, so the padding is
	// added.
	list := make([]byte, (len(message)-header+unix.NLA_ALIGNTO-1)/unix.NLA_ALIGNTO*unix.NLA_ALIGNTO)
	copy(list, message[header:])
	attrs, err := nl.ParseRouteAttr(list)
	for _, a := range attrs {
		if err == nil && a.Attr.Type == nbdAttrIndex && len(a.Value) == 4 {
			return nl.NativeEndian().Uint32(a.Value) == index
		}
	}
	return false
}
