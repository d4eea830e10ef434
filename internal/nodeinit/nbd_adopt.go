package nodeinit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

const (
	nbdCmdLinkDead    = 5
	nbdMulticastGroup = "nbd_mc_group"
)

// adoptNBD takes over an NBD root that nbd-client(8) attached. nbd-client 3.24
// and before give the connection to the kernel and end, and the first that is
// lost is the end of the root. From now on reads wait, as they do on a device
// of our own, and the keeper connects again.
func (n *node) adoptNBD(ctx context.Context) (*nbdDevice, error) {
	addresses, err := n.addresses(ctx)
	if err != nil {
		return nil, err
	}
	sectors, err := strconv.ParseUint(readTrimmed("/sys/class/block/nbd0/size"), 10, 64)
	if err != nil || sectors == 0 {
		return nil, errors.New("/dev/nbd0 has no size: dracut attached the root elsewhere, and nobody will connect it again")
	}
	d := &nbdDevice{Addresses: addresses, Export: n.boot.Root.Name, Size: sectors * sectorSize, Adopted: true}
	err = nbdRequest(nbdCmdReconfigure,
		nl.NewRtAttr(nbdAttrIndex, nl.Uint32Attr(uint32(d.Index))),
		nl.NewRtAttr(nbdAttrTimeout, nl.Uint64Attr(uint64(requestTimeout/time.Second))),
		nl.NewRtAttr(nbdAttrDeadConnTimeout, nl.Uint64Attr(uint64(deadTimeout/time.Second))))
	if err != nil {
		return nil, fmt.Errorf("have reads of /dev/nbd0 wait for a lost server: %w", err)
	}
	return d, nil
}

// watchAdopted blocks until the kernel says that the connection is dead. Another
// process's socket cannot be watched; but the kernel tells, once, and whether it
// did so before anybody listened shows when it is offered another.
func (d *nbdDevice) watchAdopted() error {
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
	err = d.again(ctx)
	cancel()
	if err == nil { // it was dead, and has the new one now
		return hangUp(d.conn)
	}
	for {
		messages, _, err := s.Receive()
		if err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOBUFS) {
			return os.NewSyscallError("receive from the NBD driver", err)
		}
		for _, m := range messages {
			if linkDead(m.Data, uint32(d.Index)) {
				return nil
			}
		}
	}
}

// linkDead tells whether a message says that a connection of the device is dead
// (drivers/block/nbd.c, nbd_mcast_index).
func linkDead(message []byte, index uint32) bool {
	const header = 4 // of generic netlink: the command, the version, two bytes of nothing
	if len(message) < header || message[0] != nbdCmdLinkDead {
		return false
	}
	attrs, err := nl.ParseRouteAttr(message[header:])
	for _, a := range attrs {
		if err == nil && a.Attr.Type == nbdAttrIndex && len(a.Value) == 4 {
			return nl.NativeEndian().Uint32(a.Value) == index
		}
	}
	return false
}
