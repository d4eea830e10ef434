package handoff

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Flavour is which initramfs a machine starts with. Both read the same arguments, less those that
// dracut has no word for.
type Flavour string

// The flavours.
const (
	Netroot Flavour = "netroot" // our own init
	Dracut  Flavour = "dracut"  // the image's dracut, with our module in it
)

// Flavours lists them, the usual one first.
func Flavours() []Flavour { return []Flavour{Netroot, Dracut} }

// FormatDracut renders b as arguments for an initramfs that dracut made: its own modules bring up
// the network and attach the root, and ours reads the rest. dracut.cmdline(7) of dracut 059 is the
// reference, with what its scripts do where that page is silent.
//
// ip=dhcp with BOOTIF= is right for network-legacy and NetworkManager. ip=BOOTIF:dhcp is not:
// network-legacy waits for an interface of that name (net-genrules.sh). For systemd-networkd, whose
// versions differ, our module does what is missing (netroot-generator.sh).
func (b Boot) FormatDracut() ([]string, error) {
	root, err := b.Root.dracut()
	if err != nil {
		return nil, err
	}
	// There is no disk of its own that a node would have to put together first.
	args := append(root, "rd.neednet=1", "rd.luks=0", "rd.md=0", "rd.dm=0", "rd.lvm=0")
	shell := b.Shell || b.Debug
	if !shell {
		// A shell on a console that nobody looks at is a machine that hangs. One that starts again
		// asks again.
		args = append(args, "rd.shell=0", "rd.emergency=reboot")
	}
	b.Shell = shell
	return append(args, b.rest()...), nil
}

// dracut renders r as root= and what goes with it. dracut takes one server: the first.
func (r Root) dracut() ([]string, error) {
	if len(r.Servers) > 1 && (r.Transport == NBD || r.Transport == ISCSI) {
		r.Servers = r.Servers[:1]
	}
	switch r.Transport {
	case NBD:
		return append([]string{"root=" + r.dracutNBD()}, r.fsArguments()...), nil
	case ISCSI:
		return r.dracutISCSI()
	case NVMe:
		return append([]string{"root=" + r.String()}, r.fsArguments()...), nil
	}
	return r.arguments(), nil
}

// dracutNBD is nbd:SERVER:PORT-or-EXPORT:FSTYPE:OPTIONS:CLIENT-OPTIONS. dracut asks for an export
// by its name or a port; with both, the name is an option of nbd-client(8).
func (r Root) dracutNBD() string {
	options := strings.Join(append([]string{"ro"}, readOnly(r.MountOptions)...), ",")
	fields := []string{"nbd", bracket(r.Servers[0]), strconv.Itoa(int(r.port())), r.FSType, options}
	switch {
	case r.Name == "":
	case r.port() == DefaultNBDPort && !numeric(r.Name):
		fields[2] = r.Name
	default:
		fields = append(fields, "-N,"+r.Name)
	}
	return strings.Join(fields, ":")
}

// dracutISCSI names the target for dracut's iscsi module, and the disk for systemd by the link that
// udev makes for it. Both go by the server's address: dracut looks a target up by the address that
// the server's discovery names.
func (r Root) dracutISCSI() ([]string, error) {
	addr, err := netip.ParseAddr(r.Servers[0])
	if err != nil {
		return nil, fmt.Errorf("dracut finds an iSCSI target by its server's address, and %q is a name: have the machine reach the server by address", r.Servers[0])
	}
	disk := fmt.Sprintf("/dev/disk/by-path/ip-%s:%d-iscsi-%s-lun-%d", addr, r.port(), r.Name, r.LUN)
	return append([]string{"root=" + disk, "netroot=" + r.String()}, r.fsArguments()...), nil
}

// fsArguments are the file system's type and mount options, for those who read no more of root=
// than where it is.
func (r Root) fsArguments() []string {
	var args []string
	if r.FSType != "" {
		args = append(args, "rootfstype="+r.FSType)
	}
	if options := readOnly(r.MountOptions); len(options) > 0 {
		args = append(args, "rootflags="+strings.Join(options, ","))
	}
	return args
}

// readOnly are mount options without what a packed root is in any case.
func readOnly(options []string) []string {
	var out []string
	for _, o := range options {
		if o != "ro" && o != "rw" {
			out = append(out, o)
		}
	}
	return out
}

// ParseDracut reads the command line of a machine that dracut brought up. Any root will do there -
// dracut has mounted it, and it need not be one of ours - so Boot.Root is empty where Parse would
// complain of it.
func ParseDracut(cmdline string) (Boot, error) {
	b, p, err := parseArguments(cmdline)
	if err != nil {
		return Boot{}, err
	}
	if root, err := p.rootArgument(); err == nil {
		b.Root = root
	}
	return b, nil
}

// clientExport is the export that options for nbd-client name: "-N,EXPORT" or "-name,EXPORT".
func clientExport(options []string) (name string, ok bool) {
	for i, o := range options[:max(0, len(options)-1)] {
		if o == "-N" || o == "-name" {
			return options[i+1], true
		}
	}
	return "", false
}
