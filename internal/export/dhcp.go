package export

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"netroot/internal/boot"
)

// Loader is what a DHCP server has machines load.
type Loader string

// The loaders.
const (
	IPXE     Loader = "ipxe"     // iPXE from the TFTP server, and with it the script
	Pxelinux Loader = "pxelinux" // on BIOS pxelinux from the TFTP server; on UEFI iPXE
)

// DHCP is what machines are told when they ask for an address.
type DHCP struct {
	TFTP   netip.Addr // the TFTP server, IPv4
	Script string     // URL of the boot script, for iPXE
	Loader Loader
	Arch   string // of the image: "amd64", "arm64"
}

// ipxeOption encapsulates iPXE's own options, by which it is known (ipxe.org/howto/dhcpd).
const ipxeOption = 175

// rule is one case of what is answered.
type rule struct {
	name  string
	archs []uint16 // of option 93 (RFC 4578, 2.1, and IANA's registry); empty: all
	ipxe  *bool    // whether iPXE asks; nil: no matter
	file  string
	tftp  bool // comes from the TFTP server
}

// rules are in the order in which the first that fits is taken: one for iPXE, and one for each file that
// the table of loaders has for firmware that uses TFTP and can start the image.
func (d DHCP) rules() ([]rule, error) {
	yes, no := true, false
	script := rule{name: "netroot-ipxe", ipxe: &yes, file: d.Script}
	var firmware []rule
	bios := false
	for _, l := range boot.Loaders() {
		if l.HTTP || !l.Starts(cmp.Or(d.Arch, "amd64")) {
			continue
		}
		bios = bios || l.Firmware == boot.BIOS
		if n := len(firmware); n > 0 && firmware[n-1].file == l.File {
			firmware[n-1].archs = append(firmware[n-1].archs, l.Code)
			continue
		}
		firmware = append(firmware, rule{"netroot-" + string(l.Firmware), []uint16{l.Code}, &no, l.File, true})
	}
	if len(firmware) == 0 || d.Loader == Pxelinux && !bios {
		return nil, fmt.Errorf("the image is for %s, for which there is no loader %s", d.Arch, d.Loader)
	}
	if d.Loader == Pxelinux { // which starts on BIOS whoever asks, iPXE too
		firmware[0].ipxe, firmware[0].file = nil, boot.Pxelinux
		return slices.Insert(firmware, 1, script), nil
	}
	return slices.Insert(firmware, 0, script), nil
}

// binaries names the files that the rules send machines to.
func (d DHCP) binaries(rules []rule) string {
	var files []string
	for _, r := range rules {
		switch {
		case r.file == boot.Pxelinux:
			files = append(files, "what \"netroot export pxelinux\" writes,")
		case r.tftp:
			files = append(files, r.file)
		}
	}
	return strings.Join(files, " and ")
}

// below are the names of the rules before r that a machine which fits r may fit as well, with whatever it asks by.
func (r rule) below(before []rule) (names []string) {
	for _, b := range before {
		if len(r.archs) == 0 && b.ipxe == nil {
			names = append(names, b.name)
		}
	}
	return names
}

// Snippets are for dnsmasq(8), ISC's dhcpd.conf(5) and Kea.
func Snippets(d DHCP) (Set, error) {
	if !d.TFTP.Is4() {
		return Set{}, errors.New("the TFTP server is told to machines as an IPv4 address: name it with --server or --tftp")
	}
	rules, err := d.rules()
	if err != nil {
		return Set{}, err
	}
	return Set{
		Files: []File{
			{"dnsmasq/netroot.conf", "/etc/dnsmasq.d/netroot.conf", d.dnsmasq(rules)},
			{"dhcpd/netroot.conf", "/etc/dhcp/netroot.conf", d.dhcpd(rules)},
			{"kea/netroot.json", "/etc/kea/netroot.json", d.kea(rules)},
		},
		Steps: []string{
			"Take the one for your DHCP server; it says nothing of addresses, which stay as they are.\nEvery machine that boots from the network on the server's networks is told of it.",
			"dnsmasq: dnsmasq --test, then restart it.\nISC dhcpd: write include \"/etc/dhcp/netroot.conf\"; into dhcpd.conf, outside of all braces; dhcpd -t, then restart it.\nKea: write \"client-classes\": <?include \"/etc/kea/netroot.json\"?> into Dhcp4 of kea-dhcp4.conf; kea-dhcp4 -t, then reload it.",
			"Have " + d.binaries(rules) + " in the root of the TFTP server " + d.TFTP.String() + "\n(packages: ipxe on Debian and Ubuntu, ipxe-bootimgs-x86 or ipxe-bootimgs on Fedora and EL).",
		},
	}, nil
}

func (d DHCP) dnsmasq(rules []rule) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("dhcp-match=set:netroot-is-ipxe,%d", ipxeOption)
	for _, r := range rules {
		for _, a := range r.archs {
			line("dhcp-match=set:%s,option:client-arch,%d", r.name, a)
		}
	}
	for i, r := range rules {
		tags := ""
		if len(r.archs) > 0 {
			tags += "tag:" + r.name + ","
		}
		switch {
		case r.ipxe != nil && *r.ipxe:
			tags += "tag:netroot-is-ipxe,"
		case r.ipxe != nil:
			tags += "tag:!netroot-is-ipxe,"
		}
		for _, before := range r.below(rules[:i]) { // dnsmasq has no order of its own
			tags += "tag:!" + before + ","
		}
		server := ""
		if r.tftp {
			server = ",," + d.TFTP.String()
		}
		line("dhcp-boot=%s%s%s", tags, r.file, server)
	}
	return b.String()
}

func (d DHCP) dhcpd(rules []rule) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("option netroot-arch code 93 = unsigned integer 16;")
	line("option netroot-ipxe code %d = string;", ipxeOption)
	line("class \"netroot\" {")
	line("    match if substring(option vendor-class-identifier, 0, 9) = \"PXEClient\";")
	line("    next-server %s;", d.TFTP)
	word := "if"
	for _, r := range rules {
		var all, any []string
		if r.ipxe != nil && *r.ipxe { // the others come behind it
			all = append(all, "exists netroot-ipxe")
		}
		for _, a := range r.archs {
			any = append(any, fmt.Sprintf("option netroot-arch = %02x:%02x", a>>8, a&0xff))
		}
		if len(any) > 0 {
			all = append(all, alternatives(any))
		}
		line("    %s %s {", word, strings.Join(all, " and "))
		line("        filename \"%s\";", r.file)
		word = "} elsif"
	}
	line("    }")
	line("}")
	return b.String()
}

// alternatives are one condition.
func alternatives(any []string) string {
	if len(any) == 1 {
		return any[0]
	}
	return "(" + strings.Join(any, " or ") + ")"
}

// kea is the list of client classes. A client gets the boot file of the first class that it is in.
func (d DHCP) kea(rules []rule) string {
	type class struct {
		Name       string `json:"name"`
		Test       string `json:"test"`
		NextServer string `json:"next-server,omitempty"`
		BootFile   string `json:"boot-file-name"`
	}
	var classes []class
	for i, r := range rules {
		var all, any []string
		if r.ipxe != nil && *r.ipxe {
			all = append(all, fmt.Sprintf("option[%d].exists", ipxeOption))
		} else if r.ipxe != nil {
			all = append(all, fmt.Sprintf("not option[%d].exists", ipxeOption))
		}
		for _, a := range r.archs {
			any = append(any, fmt.Sprintf("option[93].hex == 0x%04X", a))
		}
		if len(any) > 0 {
			all = append(all, alternatives(any))
		}
		for _, before := range r.below(rules[:i]) {
			all = append(all, "not member('"+before+"')")
		}
		c := class{Name: r.name, Test: strings.Join(all, " and "), BootFile: r.file}
		if r.tftp {
			c.NextServer = d.TFTP.String()
		}
		classes = append(classes, c)
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	enc.Encode(classes) // strings alone: it cannot fail
	return b.String()
}
