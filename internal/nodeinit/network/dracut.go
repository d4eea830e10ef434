package network

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"netroot/internal/handoff"
	"netroot/internal/nodeinit/devices"
)

// dracutState is where dracut's scripts record what they configured.
const dracutState = "/tmp"

// FromDracut reads from the kernel how dracut configured the boot interface, and removes the end
// from the address's lifetime: dracut ends its DHCP client with the initramfs, and a node whose
// address expires loses its root.
func FromDracut(boot handoff.Boot) (*Config, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	var best *Config
	for _, l := range links {
		cfg, err := configured(l)
		if err != nil {
			return nil, err
		}
		switch {
		case cfg == nil:
		case cfg.MAC == boot.BootMAC: // BOOTIF= decides
			best = cfg
		case best == nil, best.MAC != boot.BootMAC && !best.hasDefaultRoute() && cfg.hasDefaultRoute():
			best = cfg
		}
	}
	if best == nil {
		return nil, errors.New("no interface has an address: is ip= on the kernel command line, and rd.neednet=1?")
	}
	best.readDracut(dracutState)
	if len(boot.Nameservers) > 0 {
		best.DNS = boot.Nameservers
	}
	return best, best.apply() // also if dracut recorded no lease
}

// configured reads the configuration of an interface; nil if it has none.
func configured(l netlink.Link) (*Config, error) {
	a := l.Attrs()
	if a.Flags&net.FlagLoopback != 0 || a.Flags&net.FlagUp == 0 {
		return nil, nil
	}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return nil, err
	}
	cfg := &Config{Link: a.Name, Index: a.Index, MAC: a.HardwareAddr.String()}
	for _, addr := range addrs {
		ip, ok := netip.AddrFromSlice(addr.IP)
		have := cfg.Address.Addr()
		if ip = ip.Unmap(); !ok || addr.Scope != unix.RT_SCOPE_UNIVERSE || have.IsValid() && (have.Is4() || ip.Is6()) {
			continue // the first IPv4 address counts, or the first IPv6 address if there is no IPv4
		}
		bits, _ := addr.Mask.Size()
		cfg.Address = netip.PrefixFrom(ip, bits)
	}
	if !cfg.Address.IsValid() {
		return nil, nil
	}
	routes, err := netlink.RouteList(l, netlink.FAMILY_ALL)
	for _, r := range routes {
		if found, ok := asRoute(r, cfg.Address.Addr().Is4()); ok {
			cfg.Routes = append(cfg.Routes, found)
		}
	}
	return cfg, err
}

// asRoute converts a route that was set on purpose. The kernel makes those of the interface's own
// network, and routers announce theirs.
func asRoute(r netlink.Route, is4 bool) (Route, bool) {
	if r.Protocol == unix.RTPROT_KERNEL || r.Protocol == unix.RTPROT_RA || r.Table != unix.RT_TABLE_MAIN {
		return Route{}, false
	}
	var out Route
	via, ok := netip.AddrFromSlice(r.Gw)
	if ok {
		out.Via = via.Unmap()
	}
	switch {
	case r.Dst != nil:
		dst, ok := netip.AddrFromSlice(r.Dst.IP)
		if !ok {
			return Route{}, false
		}
		bits, _ := r.Dst.Mask.Size()
		out.Dst = netip.PrefixFrom(dst.Unmap(), bits)
	case ok:
		out.Dst = defaultRoute(out.Via)
	default:
		return Route{}, false
	}
	return out, out.Dst.Addr().Is4() == is4
}

func (c *Config) hasDefaultRoute() bool {
	for _, r := range c.Routes {
		if r.Dst.Bits() == 0 {
			return true
		}
	}
	return false
}

// readDracut adds what dracut's network-legacy recorded for the interface, or, with another of its
// network modules, what resolv.conf says.
func (c *Config) readDracut(dir string) {
	text, err := os.ReadFile(filepath.Join(dir, "net."+c.Link+".resolv.conf"))
	if err != nil {
		text, _ = os.ReadFile("/etc/resolv.conf")
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		switch {
		case len(f) < 2:
		case f[0] == "nameserver":
			if a, err := netip.ParseAddr(f[1]); err == nil {
				c.DNS = append(c.DNS, a)
			}
		case f[0] == "search" || f[0] == "domain":
			c.Search = f[1:]
		}
	}
	// "echo NAME > /proc/sys/kernel/hostname"
	if f := strings.Fields(devices.Attribute(filepath.Join(dir, "net."+c.Link+".hostname"))); len(f) > 1 && f[0] == "echo" {
		c.Hostname = f[1]
	}
	if options, err := os.ReadFile(filepath.Join(dir, "dhclient."+c.Link+".dhcpopts")); err == nil {
		c.Lease = dhclientLease(string(options), c.MAC)
	}
}

// dhclientLease makes a lease of the variables of dhclient-script(8), as a shell prints them:
// new_dhcp_lease_time='86400'. It is nil if they are incomplete.
func dhclientLease(text, mac string) *Lease {
	vars := map[string]string{}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		vars[key] = strings.Trim(value, `'"`)
	}
	hw, err := net.ParseMAC(mac)
	address, server := net.ParseIP(vars["new_ip_address"]), net.ParseIP(vars["new_dhcp_server_identifier"])
	seconds, err2 := strconv.ParseUint(vars["new_dhcp_lease_time"], 10, 32)
	if err != nil || err2 != nil || address.To4() == nil || server.To4() == nil {
		return nil
	}
	duration := time.Duration(seconds) * time.Second
	ack, err := dhcpv4.New(
		dhcpv4.WithMessageType(dhcpv4.MessageTypeAck), dhcpv4.WithHwAddr(hw), dhcpv4.WithYourIP(address),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(server)), dhcpv4.WithLeaseTime(uint32(seconds)))
	if err != nil {
		return nil
	}
	ack.OpCode = dhcpv4.OpcodeBootReply
	return &Lease{Server: server.String(), Offer: ack.ToBytes(), ACK: ack.ToBytes(),
		Duration: duration, Anonymous: true}
}
