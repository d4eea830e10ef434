package network

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
)

// Lease is what the keeper needs to renew an address.
type Lease struct {
	Server   string
	Offer    []byte // the server's messages, unchanged: RFC 2131 section 2
	ACK      []byte
	Duration time.Duration
	// Anonymous: the lease was requested without a client identifier and is renewed without one.
	Anonymous bool
}

// The attempts of one exchange wait 1, 2, 4, 8 and 16 s for an answer.
const (
	dhcpFirstTimeout = time.Second
	dhcpTries        = 5
)

// requested are the options that are asked for (RFC 2132, RFC 3442 for 121, RFC 3397 for 119).
var requested = []dhcpv4.OptionCode{
	dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer,
	dhcpv4.OptionHostName, dhcpv4.OptionDomainName, dhcpv4.OptionInterfaceMTU,
	dhcpv4.OptionDNSDomainSearchList, dhcpv4.OptionClasslessStaticRoute,
}

// identify names the node by its hardware address, as its firmware does (RFC 2132 section 9.14), so
// that both get the same address.
func identify(mac []byte) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptClientIdentifier(append([]byte{1}, mac...)))
}

// dhcp gets an address for one interface (RFC 2131).
func dhcp(ctx context.Context, link netlink.Link) (*Config, error) {
	a := link.Attrs()
	c, err := nclient4.New(a.Name, nclient4.WithTimeout(dhcpFirstTimeout), nclient4.WithRetry(dhcpTries))
	if err != nil {
		return nil, fmt.Errorf("%s: DHCP: %w", a.Name, err)
	}
	defer c.Close()
	l, err := c.Request(ctx, identify(a.HardwareAddr), dhcpv4.WithRequestedOptions(requested...))
	if err != nil {
		return nil, fmt.Errorf("%s: no DHCP server answered %s: %w", a.Name, a.HardwareAddr, err)
	}
	cfg, err := fromACK(l.ACK)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.Name, err)
	}
	cfg.Link, cfg.Index, cfg.MAC = a.Name, a.Index, a.HardwareAddr.String()
	cfg.Lease.Offer = l.Offer.ToBytes()
	return cfg, nil
}

// fromACK reads a server's answer.
func fromACK(ack *dhcpv4.DHCPv4) (*Config, error) {
	addr, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok || addr.IsUnspecified() {
		return nil, fmt.Errorf("DHCP server %s gave no address", ack.ServerIdentifier())
	}
	bits := classfulBits(addr)
	if mask := ack.SubnetMask(); mask != nil {
		bits, _ = mask.Size()
	}
	cfg := &Config{
		Address:  netip.PrefixFrom(addr, bits),
		Hostname: ack.HostName(),
		Lease: &Lease{
			Server:   ack.ServerIdentifier().String(),
			ACK:      ack.ToBytes(),
			Duration: ack.IPAddressLeaseTime(0),
		},
	}
	if mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, ack.Options); err == nil && mtu >= 576 {
		cfg.MTU = int(mtu)
	}
	for _, ip := range ack.DNS() {
		if d, ok := netip.AddrFromSlice(ip.To4()); ok {
			cfg.DNS = append(cfg.DNS, d)
		}
	}
	if labels := ack.DomainSearch(); labels != nil {
		cfg.Search = labels.Labels
	} else if d := ack.DomainName(); d != "" {
		cfg.Search = []string{d}
	}
	cfg.Routes = routes(ack)
	return cfg, nil
}

// routes are the classless static routes. Only if there are none, the Router option counts: RFC
// 3442 has a client ignore it otherwise.
func routes(ack *dhcpv4.DHCPv4) []Route {
	var rs []Route
	for _, r := range ack.ClasslessStaticRoute() {
		via, ok := netip.AddrFromSlice(r.Router.To4())
		dst, ok2 := netip.AddrFromSlice(r.Dest.IP.To4())
		if !ok || !ok2 {
			continue
		}
		if via.IsUnspecified() { // on the link itself
			via = netip.Addr{}
		}
		bits, _ := r.Dest.Mask.Size()
		rs = append(rs, Route{Dst: netip.PrefixFrom(dst, bits), Via: via})
	}
	if rs != nil {
		return rs
	}
	for _, ip := range ack.Router() {
		if via, ok := netip.AddrFromSlice(ip.To4()); ok {
			return []Route{{Dst: defaultRoute(via), Via: via}}
		}
	}
	return nil
}

// classfulBits is the length of the network prefix if the server names no mask (RFC 950).
func classfulBits(a netip.Addr) int {
	switch first := a.As4()[0]; {
	case first < 128:
		return 8
	case first < 192:
		return 16
	}
	return 24
}

// Renew extends a lease of the interface's address, and returns the new one.
func Renew(ctx context.Context, iface string, l *Lease) (*Lease, error) {
	offer, err := dhcpv4.FromBytes(l.Offer)
	if err != nil {
		return nil, err
	}
	ack, err := dhcpv4.FromBytes(l.ACK)
	if err != nil {
		return nil, err
	}
	c, err := nclient4.New(iface, nclient4.WithTimeout(dhcpFirstTimeout), nclient4.WithRetry(dhcpTries))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	modifiers := []dhcpv4.Modifier{dhcpv4.WithRequestedOptions(requested...)}
	if !l.Anonymous {
		modifiers = append(modifiers, identify(ack.ClientHWAddr))
	}
	got, err := c.Renew(ctx, &nclient4.Lease{Offer: offer, ACK: ack}, modifiers...)
	if err != nil {
		return nil, err
	}
	if !got.ACK.YourIPAddr.Equal(ack.YourIPAddr) {
		return nil, fmt.Errorf("the DHCP server offers %s in place of %s: a node keeps the address that its root is attached from",
			got.ACK.YourIPAddr, ack.YourIPAddr)
	}
	return &Lease{Server: l.Server, Offer: l.Offer, ACK: got.ACK.ToBytes(),
		Duration: got.ACK.IPAddressLeaseTime(l.Duration), Anonymous: l.Anonymous}, nil
}
