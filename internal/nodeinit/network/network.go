// Package network brings up the boot interface of a node, by DHCP or as ip= says, or reads how
// dracut configured it, and renders the configuration for the network services of the root.
//
// It configures one interface and starts no service; the keeper renews the lease. What the node is
// called and which files its root gets is decided above it.
package network

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"netroot/internal/handoff"
	"netroot/internal/nodeinit/devices"
	"netroot/internal/nodeinit/report"
)

// Limits of one attempt to bring up the network; the step is tried again.
const (
	linkLimit    = 20 * time.Second // until a driver has made an interface
	carrierLimit = 40 * time.Second // until the link is up: spanning tree may take 30 s
	dhcpLimit    = 60 * time.Second // until a DHCP server answers on any interface
)

// Config is how one interface is configured. It is passed on to the root, for the distribution's
// own network services.
type Config struct {
	Link     string       // interface name
	Index    int          // interface index, which stays the same if the interface is renamed
	MAC      string       // "52:54:00:12:34:56"
	Address  netip.Prefix // with the host part
	Routes   []Route
	DNS      []netip.Addr
	Search   []string
	Hostname string
	MTU      int    // bytes; 0: the driver's
	Lease    *Lease // nil: static
}

// Route is one route of the interface.
type Route struct {
	Dst    netip.Prefix
	Via    netip.Addr // invalid: on the link itself
	Metric int        // 0: the kernel's default
}

// String is the route as ip-route(8) prints it.
func (r Route) String() string {
	if r.Via.IsValid() {
		return fmt.Sprintf("%s via %s", r.Dst, r.Via)
	}
	return r.Dst.String()
}

// BringUp configures the boot interface. probe loads the drivers of devices that have appeared
// since it was last called. What is not necessary and cannot be had is said to out.
func BringUp(ctx context.Context, boot handoff.Boot, probe func(), out report.Step) (*Config, error) {
	if lo, err := netlink.LinkByName("lo"); err == nil {
		netlink.LinkSetUp(lo)
	}
	asked, rest := boot.Primary(func(name string) bool { return isBoot(name, boot.BootMAC) })
	links, err := candidates(ctx, asked, boot.BootMAC, probe, out)
	if err != nil {
		return nil, err
	}
	var cfg *Config
	if asked.Method == "static" {
		cfg, err = static(ctx, links[0], asked, out)
	} else {
		cfg, err = dhcpAny(ctx, links, asked, out)
	}
	if err != nil {
		return nil, err
	}
	for _, i := range rest {
		out.Note(fmt.Sprintf("ip=%s is left to the distribution: the root is behind %s", i, cfg.Link))
	}
	if asked.Hostname != "" {
		cfg.Hostname = hostName(asked.Hostname, out.Note)
	}
	if len(boot.Nameservers) > 0 {
		cfg.DNS = boot.Nameservers
	}
	if err := cfg.apply(out.Note); err != nil {
		return nil, err
	}
	return cfg, writeResolvConf("/etc/resolv.conf", cfg)
}

// String describes the configuration in one line.
func (c *Config) String() string {
	from := "as ip= says"
	if c.Lease != nil {
		from = "by DHCP from " + c.Lease.Server
	}
	s := fmt.Sprintf("%s %s is %s %s", c.Link, c.MAC, c.Address, from)
	for _, r := range c.Routes {
		if r.Dst.Bits() == 0 {
			s += ", gateway " + r.Via.String()
		}
	}
	if c.Hostname != "" {
		s += ", named " + c.Hostname
	}
	return s
}

// linkUp switches an interface on and waits for its carrier.
func linkUp(ctx context.Context, link netlink.Link) error {
	a := link.Attrs()
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("%s: switch on: %w", a.Name, err)
	}
	return devices.Until(ctx, carrierLimit, a.Name+": carrier (is the cable in, the switch port on?)", func() (bool, error) {
		now, err := netlink.LinkByIndex(a.Index)
		return err == nil && now.Attrs().RawFlags&unix.IFF_LOWER_UP != 0, err
	})
}

// static configures a link from ip=.
func static(ctx context.Context, link netlink.Link, asked handoff.Interface, out report.Step) (*Config, error) {
	a := link.Attrs()
	out.Note("configuring " + a.Name + " as ip= says")
	if err := linkUp(ctx, link); err != nil {
		return nil, err
	}
	cfg := &Config{Link: a.Name, Index: a.Index, MAC: a.HardwareAddr.String(),
		Address: asked.Address, DNS: asked.DNS, MTU: asked.MTU}
	if asked.Gateway.IsValid() {
		cfg.Routes = []Route{{Dst: defaultRoute(asked.Gateway), Via: asked.Gateway}}
	}
	return cfg, nil
}

func defaultRoute(via netip.Addr) netip.Prefix {
	if via.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// dhcpAny asks on all links at once and takes the first answer.
func dhcpAny(ctx context.Context, links []netlink.Link, asked handoff.Interface, out report.Step) (*Config, error) {
	ctx, cancel := context.WithTimeout(ctx, dhcpLimit)
	defer cancel()
	type answer struct {
		cfg *Config
		err error
	}
	var names []string
	answers := make(chan answer, len(links))
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	out.Note("asking for an address on " + strings.Join(names, ", "))
	for _, l := range links {
		go func() {
			cfg, err := dhcp(ctx, l, out)
			answers <- answer{cfg, err}
		}()
	}
	var failures []error
	for range links {
		a := <-answers
		if a.err == nil {
			a.cfg.DNS = append(slices.Clone(asked.DNS), a.cfg.DNS...)
			a.cfg.MTU = cmp.Or(asked.MTU, a.cfg.MTU)
			return a.cfg, nil
		}
		failures = append(failures, a.err)
	}
	return nil, errors.Join(failures...)
}

// apply gives the interface its address and routes. The address does not expire: the keeper renews
// its lease, and a root must not lose its network because a DHCP server is away. An MTU or a route
// that the kernel refuses is said, and is no part of the configuration any more.
func (c *Config) apply(say func(text string)) error {
	link, err := netlink.LinkByIndex(c.Index)
	if err != nil {
		return err
	}
	// Before Linux 5.5 there are no alternative names, and nothing renames an interface that is up.
	if !slices.Contains(link.Attrs().AltNames, AlternativeName) {
		netlink.LinkAddAltName(link, AlternativeName)
	}
	if c.MTU != 0 {
		if err := netlink.LinkSetMTU(link, c.MTU); err != nil {
			say(fmt.Sprintf("%s: the MTU %d is not possible, and stays %d: %v", c.Link, c.MTU, link.Attrs().MTU, err))
			c.MTU = 0
		}
	}
	addr := &netlink.Addr{IPNet: ipNet(c.Address)}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("%s: set address %s: %w", c.Link, c.Address, err)
	}
	c.Routes = slices.DeleteFunc(c.Routes, func(r Route) bool {
		err := netlink.RouteReplace(c.kernelRoute(r))
		if err != nil {
			say(fmt.Sprintf("%s: the route %s is passed over: %v", c.Link, r, err))
		}
		return err != nil
	})
	return nil
}

// kernelRoute is a route of the interface as the kernel has it.
func (c *Config) kernelRoute(r Route) *netlink.Route {
	nr := &netlink.Route{LinkIndex: c.Index, Dst: ipNet(r.Dst.Masked()), Priority: r.Metric}
	if !r.Via.IsValid() {
		nr.Scope = netlink.SCOPE_LINK
		return nr
	}
	nr.Gw = r.Via.AsSlice()
	if !c.Address.Masked().Contains(r.Via) { // a gateway outside of the network is on the link
		nr.Flags = int(netlink.FLAG_ONLINK)
	}
	return nr
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// ResolvConf renders the name servers for resolv.conf(5).
func (c *Config) ResolvConf() string {
	var b strings.Builder
	b.WriteString("# written by netroot at boot\n")
	if len(c.Search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(c.Search, " "))
	}
	for _, d := range c.DNS {
		fmt.Fprintf(&b, "nameserver %s\n", d)
	}
	return b.String()
}

func writeResolvConf(path string, c *Config) error {
	if err := os.MkdirAll("/etc", 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(c.ResolvConf()), 0o644)
}
