package network

import (
	"fmt"
	"strings"
)

// ServiceFiles are the files that keep each network service of a root from taking the boot
// interface down, by path. They lie below /run, so that the image does not change and behaves as
// usual where it is booted otherwise.
//
// From Linux 6.2 on udev renames an interface that is up. The files therefore describe the boot
// interface by what stays: its index, its MAC address, and its alternative name. A bridge or bond
// that takes over the MAC address is not meant.
func ServiceFiles(c *Config) map[string]string {
	return map[string]string{
		// udev keeps the name, unless a rule or an earlier .link file of the image sets another. The address
		// alone decides: udev of systemd 257 and later warns of OriginalName=, and a bridge or bond with
		// this address keeps its name in any case.
		"run/systemd/network/00-netroot.link": "[Match]\nMACAddress=" + c.MAC + "\n\n[Link]\nNamePolicy=keep\n",
		// Where it does, ifupdown regards the interface as configured by its new name, too.
		"run/udev/rules.d/99-netroot.rules": udevRule(c),
		// systemd-networkd configures the same and keeps it when it stops or restarts.
		"run/systemd/network/00-netroot.network": networkdFile(c),
		// systemd-resolved knows the name servers where networkd does not run.
		"run/systemd/resolved.conf.d/00-netroot.conf": resolvedFile(c),
		// NetworkManager leaves the interface alone and resolv.conf as the boot wrote it.
		"run/NetworkManager/conf.d/00-netroot.conf": "[main]\nrc-manager=unmanaged\n\n" +
			"[keyfile]\nunmanaged-devices+=mac:" + c.MAC + "\n",
		// ifupdown regards the interface as configured ...
		"run/network/ifstate":           c.Link + "=" + c.Link + "\n",
		"run/network/ifstate." + c.Link: c.Link + "\n",
		// ... and neither its service nor the old network scripts take it down at shutdown.
		"run/systemd/system/networking.service.d/netroot.conf": keepRunning,
		"run/systemd/system/network.service.d/netroot.conf":    keepRunning,
	}
}

const keepRunning = "# the root is behind this interface\n[Service]\nExecStop=\n"

// AlternativeName stays with the boot interface when it is renamed (Linux 5.5). systemd-networkd
// matches it as it does the name (systemd.network(5), Name=).
const AlternativeName = "netroot-boot"

// udevRule records a new name of the boot interface where ifupdown looks (interfaces(5)).
func udevRule(c *Config) string {
	return fmt.Sprintf("# the root is behind this interface, whatever it is called\n"+
		"SUBSYSTEM==\"net\", ACTION!=\"remove\", ATTR{ifindex}==\"%d\", ATTR{address}==\"%s\", "+
		"RUN+=\"/bin/sh -c 'test -e /run/network/ifstate.$name || { echo $name=$name >> /run/network/ifstate; echo $name > /run/network/ifstate.$name; }'\"\n",
		c.Index, c.MAC)
}

// resolvedFile is read beside resolved.conf(5).
func resolvedFile(c *Config) string {
	var b strings.Builder
	b.WriteString("# written by netroot at boot\n[Resolve]\n")
	for _, d := range c.DNS {
		fmt.Fprintf(&b, "DNS=%s\n", d)
	}
	if len(c.Search) > 0 {
		fmt.Fprintf(&b, "Domains=%s\n", strings.Join(c.Search, " "))
	}
	return b.String()
}

func networkdFile(c *Config) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[Match]\nName=%s "+AlternativeName+"\nMACAddress=%s\n\n[Link]\nRequiredForOnline=yes\n", c.Link, c.MAC)
	if c.MTU != 0 {
		fmt.Fprintf(&b, "MTUBytes=%d\n", c.MTU)
	}
	fmt.Fprintf(&b, "\n[Network]\nKeepConfiguration=yes\nAddress=%s\n", c.Address)
	for _, d := range c.DNS {
		fmt.Fprintf(&b, "DNS=%s\n", d)
	}
	if len(c.Search) > 0 {
		fmt.Fprintf(&b, "Domains=%s\n", strings.Join(c.Search, " "))
	}
	for _, r := range c.Routes {
		fmt.Fprintf(&b, "\n[Route]\nDestination=%s\n", r.Dst.Masked())
		if r.Metric != 0 {
			fmt.Fprintf(&b, "Metric=%d\n", r.Metric)
		}
		if !r.Via.IsValid() {
			b.WriteString("Scope=link\n")
			continue
		}
		fmt.Fprintf(&b, "Gateway=%s\n", r.Via)
		if !c.Address.Masked().Contains(r.Via) {
			b.WriteString("GatewayOnLink=yes\n")
		}
	}
	return b.String()
}
