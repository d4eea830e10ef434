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

// Loader is the boot loader that a DHCP server names for machines.
type Loader string

// These are the loaders.
const (
	IPXE     Loader = "ipxe"     // iPXE from the TFTP server; iPXE then loads the script
	Pxelinux Loader = "pxelinux" // BIOS: pxelinux from the TFTP server; UEFI: iPXE
)

// Loaders are all loaders.
func Loaders() []Loader { return []Loader{IPXE, Pxelinux} }

// DHCP describes what a DHCP server tells machines about booting.
type DHCP struct {
	TFTP   netip.Addr // IPv4 address of the TFTP server
	Script string     // URL of the boot script for iPXE
	Loader Loader
	Arch   string // architecture of the image: "amd64", "arm64"
}

// ipxeOption encapsulates iPXE's own options, by which iPXE is recognized (ipxe.org/howto/dhcpd).
const ipxeOption = 175

// rule is the boot file for one kind of machine.
type rule struct {
	name  string
	archs []uint16 // values of option 93 (RFC 4578, 2.1, and IANA's registry); empty: all
	ipxe  *bool    // whether the request comes from iPXE; nil: any
	file  string
	tftp  bool // the TFTP server has the file
}

// rules are in the order in which the first that fits is taken: one for iPXE, and one for each file
// that the table of loaders has for firmware that uses TFTP and can start the image.
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
		return nil, fmt.Errorf("there is no loader %[2]s for %[1]s, the architecture of the image", d.Arch, d.Loader)
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

// overlapping returns the names of those rules in before that match some of the machines that r
// matches.
func (r rule) overlapping(before []rule) (names []string) {
	for _, b := range before {
		if len(r.archs) == 0 && b.ipxe == nil {
			names = append(names, b.name)
		}
	}
	return names
}

// Snippets returns configuration for dnsmasq(8), ISC's dhcpd.conf(5) and Kea.
func Snippets(d DHCP) (Set, error) {
	if !d.TFTP.Is4() {
		return Set{}, errors.New("DHCP gives machines the IPv4 address of the TFTP server: set it with --server or --tftp")
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
			"Use the file for your DHCP server. It does not change how addresses are assigned.\nIt applies to every machine that boots from the network on the server's networks.",
			"dnsmasq: run dnsmasq --test, then restart it.\nISC dhcpd: add include \"/etc/dhcp/netroot.conf\"; to dhcpd.conf, outside of all braces; run dhcpd -t, then restart it.\nKea: add \"client-classes\": <?include \"/etc/kea/netroot.json\"?> to Dhcp4 in kea-dhcp4.conf; run kea-dhcp4 -t, then reload it.",
			"Put " + d.binaries(rules) + " into the root of the TFTP server " + d.TFTP.String() + "\n(packages: ipxe on Debian and Ubuntu, ipxe-bootimgs-x86 or ipxe-bootimgs on Fedora and EL).",
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
		// dnsmasq does not evaluate its lines in order.
		for _, before := range r.overlapping(rules[:i]) {
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
		if r.ipxe != nil && *r.ipxe { // requests of firmware follow
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

// alternatives joins conditions of which one must be true.
func alternatives(any []string) string {
	if len(any) == 1 {
		return any[0]
	}
	return "(" + strings.Join(any, " or ") + ")"
}

// kea returns the list of client classes. A client gets the boot file of its first class.
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
		for _, before := range r.overlapping(rules[:i]) {
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
	enc.Encode(classes) // all values are strings, so this cannot fail
	return b.String()
}
