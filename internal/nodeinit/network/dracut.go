package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"netroot/internal/handoff"
	"netroot/internal/nodeinit/devices"
	"netroot/internal/nodeinit/report"
)

// dracutState is where dracut's scripts record what they configured.
const dracutState = "/tmp"

// FromDracut reads from the kernel how dracut configured the boot interface, and removes the end
// from the address's lifetime: dracut ends its DHCP client with the initramfs, and a node whose
// address expires loses its root.
func FromDracut(boot handoff.Boot, out report.Step) (*Config, error) {
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
		case sameMAC(boot.BootMAC, l.Attrs().HardwareAddr): // BOOTIF= decides
			best = cfg
		case best == nil, best.MAC != boot.BootMAC && !best.hasDefaultRoute() && cfg.hasDefaultRoute():
			best = cfg
		}
	}
	if best == nil {
		return nil, errors.New("no interface has an address: is ip= on the kernel command line, and rd.neednet=1?")
	}
	best.readDracut(dracutState, out.Note)
	if len(boot.Nameservers) > 0 {
		best.DNS = boot.Nameservers
	}
	return best, best.apply(out.Note) // also if dracut recorded no lease
}

// AskAgain gets what DHCP told dracut, where dracut left no record of it: systemd-networkd has one
// in files of its own until version 260 and in none later, and NetworkManager keeps the address
// alone. A server that knows the node by its MAC address gives it the same address once more; the
// time of the lease, name servers and the name come with it. Another address is not asked for.
func (c *Config) AskAgain(ctx context.Context, boot handoff.Boot, out report.Step) {
	asked, _ := boot.Primary(func(name string) bool { return isBoot(name, boot.BootMAC) })
	if c.Lease != nil || asked.Method != "dhcp" || !c.Address.Addr().Is4() {
		return
	}
	again, err := c.dhcpAgain(ctx, out)
	if err != nil {
		out.Note(fmt.Sprintf("%s: nothing renews the lease of %s, so reserve the address in the DHCP server: %v", c.Link, c.Address.Addr(), err))
		return
	}
	c.Lease, c.Hostname = again.Lease, cmp.Or(c.Hostname, again.Hostname)
	if len(c.DNS) == 0 {
		c.DNS = again.DNS
	}
	if len(c.Search) == 0 {
		c.Search = again.Search
	}
}

// dhcpAgain asks for the address that the interface has.
func (c *Config) dhcpAgain(ctx context.Context, out report.Step) (*Config, error) {
	const tries = 3 // 7 s
	started := time.Now()
	hw, err := net.ParseMAC(c.MAC)
	if err != nil {
		return nil, err
	}
	client, err := nclient4.New(c.Link, nclient4.WithTimeout(dhcpFirstTimeout), nclient4.WithRetry(tries))
	if err != nil {
		return nil, err
	}
	defer client.Close()
	options := dhcpv4.WithRequestedOptions(requested...)
	wish := dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(c.Address.Addr().AsSlice()))
	offer, err := client.DiscoverOffer(ctx, identify(hw), options, wish)
	if err != nil {
		return nil, noLease(err, c.MAC, time.Since(started))
	}
	if got := offer.YourIPAddr; !got.Equal(c.Address.Addr().AsSlice()) {
		return nil, fmt.Errorf("the DHCP server would give %s to a client that is known by its MAC address", got)
	}
	l, err := client.RequestFromOffer(ctx, offer, identify(hw), options)
	if err != nil {
		return nil, noLease(err, c.MAC, time.Since(started))
	}
	again, err := fromACK(l.ACK, func(text string) { out.Note(c.Link + ": " + text) })
	if err != nil {
		return nil, err
	}
	again.Lease.Offer = l.Offer.ToBytes()
	return again, nil
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
		if found, ok := asRoute(r, cfg.Address.Addr().Is4()); ok && !slices.Contains(cfg.Routes, found) {
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
	out := Route{Metric: r.Priority}
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
// network modules, what resolv.conf and the state of systemd-networkd say.
func (c *Config) readDracut(dir string, say func(text string)) {
	text, err := os.ReadFile(filepath.Join(dir, "net."+c.Link+".resolv.conf"))
	if err != nil {
		text, _ = os.ReadFile("/etc/resolv.conf")
	}
	c.readResolvConf(string(text), say)
	if len(c.DNS) == 0 {
		state, _ := os.ReadFile(filepath.Join(networkdState, strconv.Itoa(c.Index)))
		c.readNetworkd(string(state), say)
	}
	// "echo NAME > /proc/sys/kernel/hostname"
	if f := strings.Fields(devices.Attribute(filepath.Join(dir, "net."+c.Link+".hostname"))); len(f) > 1 && f[0] == "echo" {
		c.Hostname = hostName(strings.Trim(f[1], `'"`), say)
	}
	if options, err := os.ReadFile(filepath.Join(dir, "dhclient."+c.Link+".dhcpopts")); err == nil {
		c.Lease = dhclientLease(string(options), c.MAC)
	}
}

func (c *Config) addDNS(server string) {
	if a, err := netip.ParseAddr(server); err == nil && !a.IsUnspecified() && !slices.Contains(c.DNS, a) {
		c.DNS = append(c.DNS, a)
	}
}

func (c *Config) readResolvConf(text string, say func(text string)) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		switch {
		case len(f) < 2:
		case f[0] == "nameserver":
			c.addDNS(f[1])
		case f[0] == "search" || f[0] == "domain":
			c.Search = domains(f[1:], say)
		}
	}
}

// networkdState has a file for each interface, by its index.
const networkdState = "/run/systemd/netif/links"

// readNetworkd reads the state that systemd-networkd keeps of an interface. A server may have a
// port, an interface and a name (resolved.conf(5), DNS=).
func (c *Config) readNetworkd(text string, say func(text string)) {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "DNS":
			for server := range strings.FieldsSeq(value) {
				server, _, _ = strings.Cut(server, "#")
				if at, err := netip.ParseAddrPort(server); err == nil {
					server = at.Addr().String()
				}
				c.addDNS(server)
			}
		case "DOMAINS":
			c.Search = domains(strings.Fields(value), say)
		}
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
