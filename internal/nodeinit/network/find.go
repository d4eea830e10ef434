package network

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"netroot/internal/handoff"
	"netroot/internal/nodeinit/devices"
	"netroot/internal/nodeinit/report"
)

const sysfs = "/sys"

// candidates returns the interfaces that the boot may use: the one that ip= or BOOTIF= names, or
// every Ethernet or InfiniBand interface. It waits until a driver has made one, and probes again
// for devices that appear late.
//
// If there is none of that name or address, the boot continues with what cannot be wrong: the
// interface of BOOTIF=, the only interface, or, over DHCP, any.
func candidates(ctx context.Context, asked handoff.Interface, bootMAC string, probe func(), out report.Step) ([]netlink.Link, error) {
	var found, hardware []netlink.Link
	err := devices.Until(ctx, linkLimit, "network interface", func() (bool, error) {
		probe()
		all, err := netlink.LinkList()
		if err != nil {
			return false, err
		}
		hardware = slices.DeleteFunc(slices.Clone(all), func(l netlink.Link) bool { return !usable(l.Attrs(), "", "") })
		found = slices.DeleteFunc(all, func(l netlink.Link) bool { return !usable(l.Attrs(), asked.Name, bootMAC) })
		return len(found) > 0, nil
	})
	if err == nil || ctx.Err() != nil {
		return found, err
	}
	err = fmt.Errorf("%w%s: is its driver in the image's kernel modules?%s", err, describe(bootMAC, asked.Name), list(hardware))
	instead := fallback(hardware, asked, bootMAC)
	if instead == nil {
		return nil, err
	}
	out.Note(fmt.Sprintf("%v The boot continues with %s", err, strings.TrimPrefix(list(instead), " There is ")))
	return instead, nil
}

// fallback are the interfaces to use in place of one that does not exist.
func fallback(hardware []netlink.Link, asked handoff.Interface, bootMAC string) []netlink.Link {
	if asked.Name == "" && bootMAC == "" {
		return nil
	}
	for i, l := range hardware {
		if asked.Name != "" && bootMAC != "" && sameMAC(bootMAC, l.Attrs().HardwareAddr) {
			return hardware[i : i+1]
		}
	}
	if len(hardware) == 1 || asked.Method == "dhcp" && len(hardware) > 0 {
		return hardware
	}
	return nil
}

// usable reports whether an interface is the one that a name or else a MAC address describes, or,
// without both, whether it is hardware.
func usable(a *netlink.LinkAttrs, name, bootMAC string) bool {
	switch {
	case a.Flags&net.FlagLoopback != 0, a.EncapType != "ether" && a.EncapType != "infiniband":
		return false
	case name != "":
		return called(sysfs, a, name)
	case bootMAC != "":
		return sameMAC(bootMAC, a.HardwareAddr)
	}
	_, err := os.Stat(sysfs + "/class/net/" + a.Name + "/device") // hardware, not a bridge or dummy
	return err == nil
}

// isBoot reports whether a name means the interface that BOOTIF= describes.
func isBoot(name, bootMAC string) bool {
	all, err := netlink.LinkList()
	return err == nil && slices.ContainsFunc(all, func(l netlink.Link) bool {
		return usable(l.Attrs(), "", bootMAC) && called(sysfs, l.Attrs(), name)
	})
}

// called reports whether an interface has a name: from the kernel, as an alternative, as udev would
// give it, or as its MAC address.
func called(sys string, a *netlink.LinkAttrs, name string) bool {
	return a.Name == name || slices.Contains(a.AltNames, name) || sameMAC(name, a.HardwareAddr) ||
		slices.Contains(predictable(sys, a), name)
}

// sameMAC compares the address that a command line has with that of an interface. An InfiniBand
// port is named by the last 8 of 20 bytes; those before change.
func sameMAC(asked string, hw net.HardwareAddr) bool {
	const port = 8
	want, err := handoff.ParseBootIF(asked)
	if err != nil || len(hw) == 0 {
		return false
	}
	have := hw.String()
	if len(hw) == 20 {
		have = hw[20-port:].String()
		want = want[max(0, len(want)-len(have)):]
	}
	return want == have
}

// describe names the interface that the command line asks for.
func describe(mac, name string) string {
	switch {
	case name != "":
		return " called " + name + " (ip=)"
	case mac != "":
		return " with address " + mac + " (BOOTIF=)"
	}
	return ""
}

// list names interfaces, after a blank.
func list(links []netlink.Link) string {
	if len(links) == 0 {
		return ""
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name+" "+l.Attrs().HardwareAddr.String())
	}
	return " There is " + strings.Join(names, ", ")
}
