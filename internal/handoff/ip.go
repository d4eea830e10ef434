package handoff

import (
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
		if i.Name == "" {
			return i.Method
		}
		if i.MTU != 0 {
			return fmt.Sprintf("%s:%s:%d", i.Name, i.Method, i.MTU)
		}
		return i.Name + ":" + i.Method
	}
	method := i.Method
	if method == "static" {
		method = "none"
	}
	var address, mask string
	if i.Address.IsValid() {
		address, mask = host(i.Address.Addr()), strconv.Itoa(i.Address.Bits())
	}
	fields := []string{address, host(i.Peer), host(i.Gateway), mask, i.Hostname, i.Name, method}
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

func parseInterface(value string) (Interface, error) {
	f := splitColons(value)
	if m, ok := method(f[0]); ok && len(f) == 1 {
		return Interface{Method: m}, nil
	}
	if m, ok := method(field(f, 1)); ok && len(f) <= 4 {
		i := Interface{Name: f[0], Method: m}
		return i, i.setMTU(field(f, 2))
	}
	if len(f) < 6 {
		return Interface{}, errors.New("expected ip=dhcp, ip=INTERFACE:dhcp or ip=CLIENT:PEER:GATEWAY:NETMASK:HOSTNAME:INTERFACE:METHOD")
	}
	return parseLongInterface(f)
}

func parseLongInterface(f []string) (Interface, error) {
	i := Interface{Hostname: f[4], Name: f[5], Method: "static"}
	if word := field(f, 6); word != "" {
		m, ok := method(word)
		if !ok {
			return Interface{}, fmt.Errorf("%q is not a method: expected dhcp, on, any, none, off or static", word)
		}
		i.Method = m
	}
	var err error
	if i.Peer, err = address(f[1]); err != nil {
		return Interface{}, err
	}
	if i.Gateway, err = address(f[2]); err != nil {
		return Interface{}, err
	}
	if f[0] == "" {
		if i.Method == "static" {
			return Interface{}, errors.New("a static address is missing")
		}
	} else if i.Address, err = prefix(f[0], f[3]); err != nil {
		return Interface{}, err
	}
	return i, i.setTail(f[min(7, len(f)):])
}

// setTail reads what follows the method: an MTU, or one or two name servers.
func (i *Interface) setTail(f []string) error {
	if numeric(field(f, 0)) {
		return i.setMTU(f[0])
	}
	for _, s := range f[:min(2, len(f))] {
		a, err := address(s)
		if err != nil {
			return err
		}
		if a.IsValid() {
			i.DNS = append(i.DNS, a)
		}
	}
	return nil
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
	case "dhcp", "on", "any", "dhcp4", "single-dhcp", "both":
		return "dhcp", true
	case "none", "off", "static":
		return "static", true
	}
	return "", false
}

func address(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	return netip.ParseAddr(unbracket(s))
}

// prefix joins an address and a netmask, which is dotted or a prefix length.
func prefix(addr, mask string) (netip.Prefix, error) {
	a, err := netip.ParseAddr(unbracket(addr))
	if err != nil {
		return netip.Prefix{}, err
	}
	if numeric(mask) {
		n, _ := strconv.Atoi(mask)
		if n > a.BitLen() {
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
	if ones := bits.LeadingZeros32(^word); word == ^uint32(0)<<(32-ones) {
		return netip.PrefixFrom(a, ones), nil
	}
	return netip.Prefix{}, fmt.Errorf("netmask %q has holes", mask)
}
