// Package network brings up the boot interface of a node, by DHCP or as ip= says, or reads how
// dracut configured it, and renders the configuration for the network services of the root.
//
// It configures one interface and starts no service; the keeper renews the lease. What the node is
// called and which files its root gets is decided above it.
package network

import (
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

	"netroot/internal/handoff"
	"netroot/internal/nodeinit/devices"
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
	Dst netip.Prefix
	Via netip.Addr // invalid: on the link itself
}

// BringUp configures the boot interface. probe loads the drivers of devices that have appeared
// since it was last called.
func BringUp(ctx context.Context, boot handoff.Boot, probe func()) (*Config, error) {
	if lo, err := netlink.LinkByName("lo"); err == nil {
		netlink.LinkSetUp(lo)
	}
	asked := handoff.Interface{Method: "dhcp"}
	if len(boot.Interfaces) > 0 {
		asked = boot.Interfaces[0]
	}
	links, err := candidates(ctx, asked.Name, boot.BootMAC, probe)
	if err != nil {
		return nil, err
	}
	var cfg *Config
	if asked.Method == "static" {
		cfg, err = static(ctx, links, asked)
	} else {
		cfg, err = dhcpAny(ctx, links, asked)
	}
	if err != nil {
		return nil, err
	}
	if len(boot.Nameservers) > 0 {
		cfg.DNS = boot.Nameservers
	}
	if err := cfg.apply(); err != nil {
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

// candidates returns the interfaces that the boot may use: the one that BOOTIF= or ip= names, or
// every Ethernet or InfiniBand interface. It waits until a driver has made one, and probes again
// for devices that appear late.
func candidates(ctx context.Context, name, bootMAC string, probe func()) ([]netlink.Link, error) {
	var found []netlink.Link
	err := devices.Until(ctx, linkLimit, "network interface", func() (bool, error) {
		probe()
		all, err := netlink.LinkList()
		if err != nil {
			return false, err
		}
		found = slices.DeleteFunc(all, func(l netlink.Link) bool { return !usable(l.Attrs(), name, bootMAC) })
		return len(found) > 0, nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w%s: is its driver in the image's kernel modules?", err, describe(bootMAC, name))
	}
	return found, nil
}

func usable(a *netlink.LinkAttrs, name, bootMAC string) bool {
	switch {
	case a.Flags&net.FlagLoopback != 0, a.EncapType != "ether" && a.EncapType != "infiniband":
		return false
	case name != "" && !strings.Contains(name, ":"):
		return a.Name == name
	case bootMAC != "":
		return a.HardwareAddr.String() == bootMAC
	}
	_, err := os.Stat("/sys/class/net/" + a.Name + "/device") // hardware, not a bridge or dummy
	return err == nil
}

// describe names the interface that the command line asks for.
func describe(mac, name string) string {
	switch {
	case name != "":
		return " named " + name + " (ip=)"
	case mac != "":
		return " with address " + mac + " (BOOTIF=)"
	}
	return ""
}

// linkUp switches an interface on and waits for its carrier.
func linkUp(ctx context.Context, link netlink.Link, mtu int) error {
	a := link.Attrs()
	if mtu != 0 {
		if err := netlink.LinkSetMTU(link, mtu); err != nil {
			return fmt.Errorf("%s: set MTU %d: %w", a.Name, mtu, err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("%s: switch on: %w", a.Name, err)
	}
	return devices.Until(ctx, carrierLimit, a.Name+": carrier (is the cable in, the switch port on?)", func() (bool, error) {
		return devices.Attribute("/sys/class/net/"+a.Name+"/carrier") == "1", nil
	})
}

// static configures the first of links from ip=.
func static(ctx context.Context, links []netlink.Link, asked handoff.Interface) (*Config, error) {
	a := links[0].Attrs()
	if err := linkUp(ctx, links[0], asked.MTU); err != nil {
		return nil, err
	}
	cfg := &Config{Link: a.Name, Index: a.Index, MAC: a.HardwareAddr.String(),
		Address: asked.Address, DNS: asked.DNS, Hostname: asked.Hostname, MTU: asked.MTU}
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
func dhcpAny(ctx context.Context, links []netlink.Link, asked handoff.Interface) (*Config, error) {
	ctx, cancel := context.WithTimeout(ctx, dhcpLimit)
	defer cancel()
	type answer struct {
		cfg *Config
		err error
	}
	answers := make(chan answer, len(links))
	for _, l := range links {
		go func() {
			if err := linkUp(ctx, l, asked.MTU); err != nil {
				answers <- answer{err: err}
				return
			}
			cfg, err := dhcp(ctx, l)
			answers <- answer{cfg, err}
		}()
	}
	var failures []error
	for range links {
		a := <-answers
		if a.err == nil {
			if asked.Hostname != "" {
				a.cfg.Hostname = asked.Hostname
			}
			return a.cfg, nil
		}
		failures = append(failures, a.err)
	}
	return nil, errors.Join(failures...)
}

// apply gives the interface its address and routes. The address does not expire: the keeper renews
// its lease, and a root must not lose its network because a DHCP server is away.
func (c *Config) apply() error {
	link, err := netlink.LinkByIndex(c.Index)
	if err != nil {
		return err
	}
	if c.MTU != 0 {
		if err := netlink.LinkSetMTU(link, c.MTU); err != nil {
			return fmt.Errorf("%s: set MTU %d: %w", c.Link, c.MTU, err)
		}
	}
	addr := &netlink.Addr{IPNet: ipNet(c.Address)}
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("%s: set address %s: %w", c.Link, c.Address, err)
	}
	for _, r := range c.Routes {
		nr := &netlink.Route{LinkIndex: c.Index, Dst: ipNet(r.Dst.Masked())}
		if r.Via.IsValid() {
			nr.Gw = r.Via.AsSlice()
			if !c.Address.Masked().Contains(r.Via) { // a gateway outside of the network is on the link
				nr.Flags = int(netlink.FLAG_ONLINK)
			}
		} else {
			nr.Scope = netlink.SCOPE_LINK
		}
		if err := netlink.RouteReplace(nr); err != nil {
			return fmt.Errorf("%s: set route %s via %s: %w", c.Link, r.Dst, r.Via, err)
		}
	}
	return nil
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
