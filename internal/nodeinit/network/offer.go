package network

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"netroot/internal/handoff"
)

// An offer is read from a server's answer. Only the address is necessary: whatever else the server
// offers and cannot be used is said and passed over, so that no boot fails for it.
type offer struct {
	ack *dhcpv4.DHCPv4
	say func(text string)
}

// passOver says that an option is not used.
func (o offer) passOver(what string, value any) {
	o.say(fmt.Sprintf("the DHCP server's %s %v is not used", what, value))
}

// unreadable says that the server sent an option whose bytes mean nothing; empty is as missing.
func (o offer) unreadable(what string, code dhcpv4.OptionCode, read bool) {
	if raw := o.ack.Options.Get(code); !read && len(raw) > 0 {
		o.passOver(what, fmt.Sprintf("(option %d, %d bytes that cannot be read)", code.Code(), len(raw)))
	}
}

// fromACK reads a server's answer, and says what is not used of it.
func fromACK(ack *dhcpv4.DHCPv4, say func(text string)) (*Config, error) {
	o := offer{ack, say}
	addr, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok || addr.IsUnspecified() || addr.IsMulticast() || addr.IsLoopback() || isBroadcast(addr) {
		return nil, fmt.Errorf("DHCP server %s gave no address", ack.ServerIdentifier())
	}
	lease := &Lease{
		Server:   ack.ServerIdentifier().String(),
		ACK:      ack.ToBytes(),
		Duration: ack.IPAddressLeaseTime(0),
	}
	if lease.Duration == 0 {
		say("the DHCP server names no time for the lease: the node keeps the address and does not renew it")
	}
	return &Config{
		Address:  netip.PrefixFrom(addr, o.prefixLength(addr)),
		Hostname: hostName(ack.HostName(), say),
		MTU:      o.mtu(),
		DNS:      o.dns(),
		Search:   o.search(),
		Routes:   o.routes(addr),
		Lease:    lease,
	}, nil
}

func isBroadcast(a netip.Addr) bool { return a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) }

func (o offer) prefixLength(addr netip.Addr) int {
	mask := o.ack.SubnetMask()
	if bits, size := mask.Size(); bits > 0 && size == 32 {
		return bits
	}
	bits := handoff.ClassBits(addr)
	if len(mask) > 0 {
		o.passOver("netmask", fmt.Sprintf("%s: %s/%d is taken; it", mask, addr, bits))
	}
	o.unreadable("netmask", dhcpv4.OptionSubnetMask, len(mask) > 0)
	return bits
}

// leastMTU is what every IPv4 host receives in one piece (RFC 791).
const leastMTU = 576

func (o offer) mtu() int {
	mtu, err := dhcpv4.GetUint16(dhcpv4.OptionInterfaceMTU, o.ack.Options)
	o.unreadable("MTU", dhcpv4.OptionInterfaceMTU, err == nil)
	switch {
	case err != nil:
		return 0
	case mtu < leastMTU:
		o.passOver("MTU", mtu)
		return 0
	}
	return int(mtu)
}

func (o offer) dns() (servers []netip.Addr) {
	ips := o.ack.DNS()
	o.unreadable("name server", dhcpv4.OptionDomainNameServer, ips != nil)
	for _, ip := range ips {
		d, ok := netip.AddrFromSlice(ip.To4())
		if !ok || d.IsUnspecified() || d.IsMulticast() || isBroadcast(d) {
			o.passOver("name server", ip)
			continue
		}
		servers = append(servers, d)
	}
	return servers
}

// search is the search list (RFC 3397), or else the domain. Many servers are set up with several
// domains in the option for one.
func (o offer) search() []string {
	labels := o.ack.DomainSearch()
	o.unreadable("search list", dhcpv4.OptionDNSDomainSearchList, labels != nil)
	if labels != nil {
		if names := domains(labels.Labels, o.say); names != nil {
			return names
		}
	}
	return domains(strings.Fields(strings.ReplaceAll(o.ack.DomainName(), "\x00", " ")), o.say)
}

// domains are the names that resolv.conf(5) and systemd can have, without their last dot.
func domains(names []string, say func(string)) (valid []string) {
	for _, name := range names {
		if name = strings.TrimSuffix(name, "."); name == "" {
			continue
		}
		if len(name) > 253 || strings.Trim(name, hostCharacters+".") != "" || badLabel(name, 63) {
			say(fmt.Sprintf("%q is not the name of a domain and is not searched", name))
			continue
		}
		valid = append(valid, name)
	}
	return valid
}

const hostCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

// badLabel reports a part between dots that no name can have.
func badLabel(name string, longest int) bool {
	for part := range strings.SplitSeq(name, ".") {
		if part == "" || len(part) > longest || strings.HasPrefix(part, "-") || strings.HasSuffix(part, "-") {
			return true
		}
	}
	return false
}

// maxHostName is the longest name that the kernel takes (HOST_NAME_MAX of limits.h).
const maxHostName = 64

// hostName makes a name that the kernel and the programs of the root take of one that was offered:
// a longer one is cut at its first dot, and then at 64 bytes. It is empty if that gives none.
func hostName(offered string, say func(string)) string {
	name, _, _ := strings.Cut(offered, "\x00")
	name = strings.TrimSuffix(strings.TrimSpace(name), ".")
	if name == "" {
		return ""
	}
	if len(name) > maxHostName {
		long := name
		name, _, _ = strings.Cut(name, ".")
		name = strings.TrimRight(name[:min(len(name), maxHostName)], "-")
		say(fmt.Sprintf("the host name %s has %d bytes, and %d are possible: it becomes %s", long, len(long), maxHostName, name))
	}
	first, _, _ := strings.Cut(name, ".")
	if strings.Trim(name, hostCharacters+".") != "" || badLabel(name, maxHostName) || first == "localhost" {
		say(fmt.Sprintf("%q cannot be a host name and is not used", name))
		return ""
	}
	return name
}

// routes are the classless static routes. Only if there are none, the Router option counts: RFC
// 3442 has a client ignore it otherwise.
func (o offer) routes(own netip.Addr) []Route {
	var rs []Route
	classless := o.ack.ClasslessStaticRoute()
	o.unreadable("routes", dhcpv4.OptionClasslessStaticRoute, classless != nil)
	for _, r := range classless {
		via, ok := netip.AddrFromSlice(r.Router.To4())
		dst, ok2 := netip.AddrFromSlice(r.Dest.IP.To4())
		bits, _ := r.Dest.Mask.Size()
		if !ok || !ok2 || unusableGateway(via, own) || bits > 0 && dst.IsMulticast() {
			o.passOver("route", fmt.Sprintf("to %s via %s", r.Dest, r.Router))
			continue
		}
		if via.IsUnspecified() { // on the link itself
			via = netip.Addr{}
		}
		rs = append(rs, Route{Dst: netip.PrefixFrom(dst, bits).Masked(), Via: via})
	}
	if rs != nil {
		return rs
	}
	routers := o.ack.Router()
	o.unreadable("router", dhcpv4.OptionRouter, routers != nil)
	for _, ip := range routers {
		via, ok := netip.AddrFromSlice(ip.To4())
		if ok && !via.IsUnspecified() && !unusableGateway(via, own) {
			return []Route{{Dst: defaultRoute(via), Via: via}}
		}
		o.passOver("router", ip)
	}
	return nil
}

// unusableGateway reports what the kernel takes for no gateway, or what leads back to the node.
func unusableGateway(via, own netip.Addr) bool {
	return via == own || via.IsMulticast() || via.IsLoopback() || isBroadcast(via)
}
