package handoff

import (
	"encoding/hex"
	"errors"
	"net"
	"strings"
)

// foreign are arguments by which dracut configures a network, and which our init does not have.
var foreign = map[string]bool{
	"bond": true, "bridge": true, "team": true, "vlan": true, "ifname": true, "rd.route": true, "rd.peerdns": true,
	"rd.net.timeout.dhcp": true, "rd.net.dhcp.retry": true, "rd.net.timeout.carrier": true, "rd.znet": true,
}

// networkArgument reads one argument about the network. No boot fails for one that is not
// understood: it is passed over, and without any the boot interface asks by DHCP.
func (b *Boot) networkArgument(key, value string) {
	pass := func(why string) { b.PassedOver = append(b.PassedOver, key+"="+value+": "+why) }
	switch {
	case key == "ip":
		i, err := parseInterface(value, pass)
		if err != nil {
			pass(err.Error())
			return
		}
		b.Interfaces = append(b.Interfaces, i)
	case key == "nameserver":
		a, err := address(value)
		if err != nil || !a.IsValid() {
			pass("not the address of a name server")
			return
		}
		b.Nameservers = append(b.Nameservers, a)
	case key == "BOOTIF":
		mac, err := ParseBootIF(value)
		if err != nil {
			pass(err.Error())
			return
		}
		b.BootMAC = mac
	case key == "bootdev":
		b.BootDevice = ifname(value)
	case foreign[key]:
		pass("dracut has this argument and netroot-init does not: initramfs: dracut understands it")
	}
}

var errBootIF = errors.New("expected 01- and a MAC address with hyphens")

// ParseBootIF reads the hardware address that a boot loader hands on, "01-52-54-00-12-34-56": the
// hardware type of DHCP (RFC 1700) and the address. The type may be missing, and colons may stand
// for the hyphens. The address is an Ethernet one, or one of IP over InfiniBand (type 20, which is
// 32 in hexadecimal): 20 bytes, of which the last 8 name the port, or these 8 alone.
func ParseBootIF(value string) (string, error) {
	var digits strings.Builder
	for i, r := range value {
		if separated := r == '-' || r == ':'; separated != (i%3 == 2) && strings.ContainsAny(value, "-:") {
			return "", errBootIF
		} else if !separated {
			digits.WriteRune(r)
		}
	}
	b, err := hex.DecodeString(digits.String())
	if err != nil {
		return "", errBootIF
	}
	switch len(b) {
	case 7, 9, 21: // with the hardware type
		b = b[1:]
	case 6, 8, 20:
	default:
		return "", errBootIF
	}
	return net.HardwareAddr(b).String(), nil
}

// formatBootIF is BOOTIF= for an address as ParseBootIF returns it.
func formatBootIF(mac string) string {
	kind := "01-"
	if len(mac) > len("52:54:00:12:34:56") {
		kind = "20-"
	}
	return "BOOTIF=" + kind + strings.ReplaceAll(mac, ":", "-")
}

// Primary chooses, of several ip=, the one that configures the interface of the root: the one that
// bootdev= names, or that is meant for the boot interface. isBoot reports whether a name means the
// interface that BOOTIF= describes; with no BOOTIF= it is never asked. The rest is left to the
// distribution. Without ip= it is DHCP on the boot interface.
func (b Boot) Primary(isBoot func(name string) bool) (i Interface, rest []Interface) {
	if len(b.Interfaces) == 0 {
		return Interface{Method: "dhcp"}, nil
	}
	best, rank := 0, 0
	for n, i := range b.Interfaces {
		r := 1
		switch {
		case b.BootDevice != "" && i.Name == b.BootDevice:
			r = 4
		case b.BootMAC != "" && i.Name != "" && (i.Name == b.BootMAC || isBoot(i.Name)):
			r = 3
		case i.Name == "":
			r = 2
		}
		if r > rank {
			best, rank = n, r
		}
	}
	rest = append(rest, b.Interfaces[:best]...)
	return b.Interfaces[best], append(rest, b.Interfaces[best+1:]...)
}
