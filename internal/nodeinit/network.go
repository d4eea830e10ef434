package nodeinit

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
)

// Limits of one attempt to bring up the network; the step is tried again.
const (
	linkLimit    = 20 * time.Second // for a driver to make an interface
	carrierLimit = 40 * time.Second // for a link: spanning tree may take 30 s
	dhcpLimit    = 60 * time.Second // for an answer on any interface
)

// netConfig is what one interface is configured with. It goes on into the
// root, for the distribution's own network services.
type netConfig struct {
	Link     string       // interface name
	Index    int          // interface index, which a new name does not change
	MAC      string       // "52:54:00:12:34:56"
	Address  netip.Prefix // with the host part
	Routes   []route
	DNS      []netip.Addr
	Search   []string
	Hostname string
	MTU      int    // bytes; 0: the driver's
	Lease    *lease // nil: static
}

type route struct {
	Dst netip.Prefix
	Via netip.Addr // invalid: on the link itself
}

// bringUpNetwork configures the boot interface by DHCP or as ip= says.
func (n *node) bringUpNetwork(ctx context.Context) (string, error) {
	if lo, err := netlink.LinkByName("lo"); err == nil {
		netlink.LinkSetUp(lo)
	}
	want := handoff.Interface{Method: "dhcp"}
	if len(n.boot.Interfaces) > 0 {
		want = n.boot.Interfaces[0]
	}
	links, err := n.candidates(ctx, want.Name)
	if err != nil {
		return "", err
	}
	var cfg *netConfig
	if want.Method == "static" {
		cfg, err = static(ctx, links, want)
	} else {
		cfg, err = n.dhcpAny(ctx, links, want)
	}
	if err != nil {
		return "", err
	}
	if len(n.boot.Nameservers) > 0 {
		cfg.DNS = n.boot.Nameservers
	}
	if err := cfg.apply(); err != nil {
		return "", err
	}
	n.net = cfg
	return cfg.String(), writeResolvConf("/etc/resolv.conf", cfg)
}

func (c *netConfig) String() string {
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

// candidates returns the interfaces that the boot may use: the one that BOOTIF=
// or ip= names, else every Ethernet or InfiniBand one. It waits for a driver to
// make one, and asks again for devices that appear late.
func (n *node) candidates(ctx context.Context, name string) ([]netlink.Link, error) {
	var found []netlink.Link
	err := poll(ctx, linkLimit, "network interface", func() (bool, error) {
		n.coldplug()
		all, err := netlink.LinkList()
		if err != nil {
			return false, err
		}
		found = slices.DeleteFunc(all, func(l netlink.Link) bool { return !n.usable(l.Attrs(), name) })
		return len(found) > 0, nil
	})
	if err != nil {
		return nil, fmt.Errorf("%w%s: is its driver in the image's kernel modules?", err, wanted(n.boot.BootMAC, name))
	}
	return found, nil
}

func (n *node) usable(a *netlink.LinkAttrs, name string) bool {
	switch {
	case a.Flags&net.FlagLoopback != 0, a.EncapType != "ether" && a.EncapType != "infiniband":
		return false
	case name != "" && !strings.Contains(name, ":"):
		return a.Name == name
	case n.boot.BootMAC != "":
		return a.HardwareAddr.String() == n.boot.BootMAC
	}
	_, err := os.Stat("/sys/class/net/" + a.Name + "/device") // a real one, no bridge or dummy
	return err == nil
}

func wanted(mac, name string) string {
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
	return poll(ctx, carrierLimit, a.Name+": carrier (is the cable in, the switch port on?)", func() (bool, error) {
		return readTrimmed("/sys/class/net/"+a.Name+"/carrier") == "1", nil
	})
}

// static configures the first of links from ip=.
func static(ctx context.Context, links []netlink.Link, want handoff.Interface) (*netConfig, error) {
	a := links[0].Attrs()
	if err := linkUp(ctx, links[0], want.MTU); err != nil {
		return nil, err
	}
	cfg := &netConfig{Link: a.Name, Index: a.Index, MAC: a.HardwareAddr.String(),
		Address: want.Address, DNS: want.DNS, Hostname: want.Hostname, MTU: want.MTU}
	if want.Gateway.IsValid() {
		cfg.Routes = []route{{Dst: defaultRoute(want.Gateway), Via: want.Gateway}}
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
func (n *node) dhcpAny(ctx context.Context, links []netlink.Link, want handoff.Interface) (*netConfig, error) {
	ctx, cancel := context.WithTimeout(ctx, dhcpLimit)
	defer cancel()
	type answer struct {
		cfg *netConfig
		err error
	}
	answers := make(chan answer, len(links))
	for _, l := range links {
		go func() {
			if err := linkUp(ctx, l, want.MTU); err != nil {
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
			if want.Hostname != "" {
				a.cfg.Hostname = want.Hostname
			}
			return a.cfg, nil
		}
		failures = append(failures, a.err)
	}
	return nil, errors.Join(failures...)
}

// apply gives the interface its address and routes. The address has no end:
// the keeper renews its lease, and a root must not lose its network because a
// DHCP server is away.
func (c *netConfig) apply() error {
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
			if !c.Address.Masked().Contains(r.Via) { // a gateway outside of the network is reached on the link
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

// resolvConf renders name servers for resolv.conf(5).
func (c *netConfig) resolvConf() string {
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

func writeResolvConf(path string, c *netConfig) error {
	if err := os.MkdirAll("/etc", 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(c.resolvConf()), 0o644)
}
