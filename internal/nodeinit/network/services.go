package network

import (
	"fmt"
	"strings"
)

// ServiceFiles are the files that keep each network service of a root from taking the boot
// interface down, by path. They lie below /run, so that the image does not change and behaves as
// usual where it is booted otherwise. They name the interface beside its address, so that they do
// not match a bridge or bond that takes over the address.
func ServiceFiles(c *Config) map[string]string {
	return map[string]string{
		// udev keeps the name; renaming an interface that is up fails before Linux 6.2. The address
		// alone decides: udev of systemd 257 and later warns of OriginalName=, and a bridge or bond
		// with this address keeps its name in any case.
		"run/systemd/network/00-netroot.link": "[Match]\nMACAddress=" + c.MAC + "\n\n[Link]\nNamePolicy=keep\n",
		// systemd-networkd configures the same and keeps it when it stops or restarts.
		"run/systemd/network/00-netroot.network": networkdFile(c),
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

func networkdFile(c *Config) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[Match]\nName=%s\nMACAddress=%s\n\n[Link]\nRequiredForOnline=yes\n", c.Link, c.MAC)
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
