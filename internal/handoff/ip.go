package handoff

import (
	"cmp"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"
)

// String renders i as the value of ip=. The forms are dracut's:
// METHOD, INTERFACE:METHOD[:MTU] and
// CLIENT:PEER:GATEWAY:NETMASK:HOSTNAME:INTERFACE:METHOD[:DNS1[:DNS2]] or [:MTU].
func (i Interface) String() string {
	if !i.Address.IsValid() && !i.Peer.IsValid() && i.Hostname == "" {
		switch name := formatName(i.Name); {
		case i.MTU != 0:
			return fmt.Sprintf("%s:%s:%d", cmp.Or(name, bootInterface), i.Method, i.MTU)
		case name != "":
			return name + ":" + i.Method
		}
		return i.Method
	}
	method := i.Method
	if method == "static" {
		method = "none"
	}
	var address, mask string
	if i.Address.IsValid() {
		address, mask = host(i.Address.Addr()), strconv.Itoa(i.Address.Bits())
	}
	fields := []string{address, host(i.Peer), host(i.Gateway), mask, i.Hostname, formatName(i.Name), method}
	if i.MTU != 0 {
		fields = append(fields, strconv.Itoa(i.MTU))
	} else {
		for _, d := range i.DNS {
			fields = append(fields, host(d))
		}
	}
	return strings.Join(fields, ":")
}

func host(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return ""
	case a.Is6():
		return "[" + a.String() + "]"
	}
	return a.String()
}

// parseInterface reads the value of ip= in the forms of dracut.cmdline(7), of the kernel
// (Documentation/admin-guide/nfs/nfsroot.rst) and of PXELINUX's IPAPPEND 1, which is the kernel's
// with the first four fields. A part that is not needed and not understood goes to pass; an error
// says that the whole value means nothing here.
func parseInterface(value string, pass func(string)) (Interface, error) {
	f := splitColons(value)
	if m, ok := method(cmp.Or(value, "any")); ok {
		return Interface{Method: m}, nil
	}
	if m, ok := method(field(f, 1)); ok {
		i := Interface{Name: ifname(f[0]), Method: m}
		i.setTail(f[2:], pass)
		return i, nil
	}
	for _, word := range []string{f[0], field(f, 1)} {
		if others[word] {
			return Interface{}, fmt.Errorf("netroot-init does not have the method %s; initramfs: dracut has it", word)
		}
	}
	if _, err := prefix(f[0], ""); f[0] != "" && err != nil {
		return Interface{}, errors.New("expected ip=dhcp, ip=INTERFACE:dhcp or ip=CLIENT:PEER:GATEWAY:NETMASK:HOSTNAME:INTERFACE:METHOD")
	}
	return parseLongInterface(f, pass)
}

func parseLongInterface(f []string, pass func(string)) (i Interface, err error) {
	i = Interface{Hostname: field(f, 4), Name: ifname(field(f, 5)), Method: "static"}
	switch word := field(f, 6); {
	case word == "" && f[0] == "":
		i.Method = "dhcp"
	case word != "":
		m, ok := method(word)
		if !ok {
			return Interface{}, fmt.Errorf("%q is not a method: expected dhcp, on, any, none, off or static", word)
		}
		i.Method = m
	}
	if f[0] != "" {
		if i.Address, err = prefix(f[0], field(f, 3)); err != nil {
			return Interface{}, err
		}
	} else if i.Method == "static" {
		return Interface{}, errors.New("a static address is missing")
	}
	optional := func(text string) netip.Addr {
		a, err := address(text)
		if err != nil {
			pass(fmt.Sprintf("%q is not an address", text))
		}
		return a
	}
	i.Peer, i.Gateway = optional(field(f, 1)), optional(field(f, 2))
	i.setTail(f[min(7, len(f)):], pass)
	return i, nil
}

// bootInterface is the name of the interface that BOOTIF= describes.
const bootInterface = "BOOTIF"

// ifname is the interface that a field names. A MAC address, with hyphens or in brackets, becomes
// one with colons.
func ifname(s string) string {
	s = unbracket(s)
	if s == bootInterface {
		return ""
	}
	if mac, err := ParseBootIF(s); err == nil && strings.ContainsAny(s, "-:") {
		return mac
	}
	return s
}

// formatName is the name of an interface, or its MAC address, as one field.
func formatName(name string) string { return strings.ReplaceAll(name, ":", "-") }

// setTail reads what follows the method: an MTU and perhaps a MAC address, or one or two name
// servers, and perhaps time servers.
func (i *Interface) setTail(f []string, pass func(string)) {
	rest := func(from int) string { return strings.Trim(strings.Join(f[min(from, len(f)):], ":"), ":") }
	second, err := address(field(f, 1))
	if numeric(field(f, 0)) || field(f, 0) == "" && (err != nil || !second.IsValid()) {
		if err := i.setMTU(field(f, 0)); err != nil {
			pass(err.Error())
		}
		if mac := rest(1); mac != "" {
			pass("the interface keeps its MAC address and does not get " + mac)
		}
		return
	}
	for _, s := range f[:min(2, len(f))] {
		a, err := address(s)
		if err != nil {
			pass(fmt.Sprintf("%q is not the address of a name server", s))
		} else if a.IsValid() {
			i.DNS = append(i.DNS, a)
		}
	}
	if more := rest(2); more != "" {
		pass("the time servers " + more + " are not used")
	}
}

func (i *Interface) setMTU(s string) error {
	if s == "" {
		return nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 68 || n > 65535 {
		return fmt.Errorf("%q is not an MTU", s)
	}
	i.MTU = n
	return nil
}

// method maps the words of dracut and of the kernel's own ip= to the two methods here.
func method(word string) (string, bool) {
	switch word {
	case "dhcp", "on", "any", "dhcp4", "single-dhcp", "both", "dhcp,dhcp6", "dhcp,auto6":
		return "dhcp", true
	case "none", "off", "static":
		return "static", true
	}
	return "", false
}

// others are the methods of dracut and the kernel that the init does not have.
var others = map[string]bool{"auto6": true, "dhcp6": true, "either6": true, "link6": true, "link-local": true, "ibft": true, "bootp": true, "rarp": true}

func address(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	return netip.ParseAddr(unbracket(s))
}

// prefix joins an address and a netmask, which is dotted or a prefix length, or part of the address.
// Without one it is that of the address's class, as the kernel has it (net/ipv4/ipconfig.c); an IPv6
// network has 64 bits.
func prefix(addr, mask string) (netip.Prefix, error) {
	addr, bits, slash := strings.Cut(unbracket(addr), "/")
	if slash && mask == "" {
		mask = bits
	}
	a, err := netip.ParseAddr(addr)
	if err != nil || a.Zone() != "" || a.IsUnspecified() {
		return netip.Prefix{}, fmt.Errorf("%q is not an address", addr)
	}
	if mask == "" {
		return netip.PrefixFrom(a, ClassBits(a)), nil
	}
	if numeric(mask) {
		n, err := strconv.Atoi(mask)
		if err != nil || n > a.BitLen() {
			return netip.Prefix{}, fmt.Errorf("netmask %q is longer than the address", mask)
		}
		return netip.PrefixFrom(a, n), nil
	}
	m, err := netip.ParseAddr(mask)
	if err != nil || !m.Is4() || !a.Is4() {
		return netip.Prefix{}, fmt.Errorf("%q is not a netmask", mask)
	}
	m4 := m.As4()
	word := uint32(m4[0])<<24 | uint32(m4[1])<<16 | uint32(m4[2])<<8 | uint32(m4[3])
	if ones := bitsOf(word); word == ^uint32(0)<<(32-ones) {
		return netip.PrefixFrom(a, ones), nil
	}
	return netip.Prefix{}, fmt.Errorf("netmask %q has holes", mask)
}

func bitsOf(mask uint32) int { return bits.LeadingZeros32(^mask) }

// ClassBits is the length of the network prefix of an address that comes without one (RFC 950); of
// IPv6 it is 64.
func ClassBits(a netip.Addr) int {
	if !a.Is4() {
		return 64
	}
	switch first := a.As4()[0]; {
	case first < 128:
		return 8
	case first < 192:
		return 16
	}
	return 24
}
