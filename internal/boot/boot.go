// Package boot decides what one machine is told when it boots: which kernel, which initial RAM file
// systems, which kernel arguments. Decide is a pure function of facts about the machine, the image
// and the label, its result is a Plan that can be printed, and the texts of boot loaders are
// renderings of a Plan.
//
// It reads nothing, serves nothing and opens no store: package serve gathers the facts and sends
// the texts. What the kernel arguments mean is package handoff's.
package boot

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"netroot/internal/handoff"
)

// Firmware is what started the machine's boot loader.
type Firmware string

// The firmwares that boot loaders tell apart. An empty Firmware is not known.
const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi"
)

// Firmwares are those that are known.
func Firmwares() []Firmware { return []Firmware{BIOS, UEFI} }

// Image is what Decide needs to know of an image.
type Image struct {
	Name          string // "label@id"; also the name of its NBD export, and what NQN and IQN are made of
	Arch          string // GOARCH name
	KernelRelease string
	RootFormat    string              // file system type of the packed root: "squashfs", "erofs"
	Root          File                // the packed root
	Transports    []handoff.Transport // that its kernel can take a root over
	Kernel        File                // its URL is filled in by Decide
	Initrds       []File              // the base first; only the base is needed by a Virtio machine

	Dracut           File                // the initramfs of the flavour dracut, for every machine; its digest is empty where there is none
	DracutTransports []handoff.Transport // that it can take a root over
}

// Bootable refuses an image that no machine can boot, whatever the settings.
func (im Image) Bootable() error {
	switch {
	case im.Kernel.Digest == "":
		return fmt.Errorf("image %s has no kernel, so no machine can boot it: install a kernel in its recipe, and build it without \"kernel: none\"", im.Name)
	case len(im.Initrds) == 0:
		return fmt.Errorf("image %s has no initramfs, so no machine can boot it: build it again", im.Name)
	}
	return nil
}

// File is one file that a boot loader fetches.
type File struct {
	Name   string         `json:"name"` // what the loader calls it: "vmlinuz", "initramfs"
	Digest handoff.Digest `json:"digest"`
	Size   int64          `json:"size"` // bytes
	URL    string         `json:"url"`
}

// Settings are what the configuration says about a label, and where the servers listen.
type Settings struct {
	Initramfs handoff.Flavour   // empty: handoff.Netroot
	Transport handoff.Transport // empty: the best that kernel, initramfs and server have
	Ports     Ports             // where the servers listen
	// Withheld has the transports that this server offers to other clients and not to nodes, and
	// why.
	Withheld  map[handoff.Transport]string
	Elsewhere Elsewhere       // what the server has in another place than ours; zero: nothing
	Servers   []string        // hosts that serve the same images on the same ports; the one asked may be among them
	Overlay   handoff.Overlay // writable memory over the root
	RW        bool            // the node writes to the root itself, which only NFS has
	Debug     bool
	// TreeLayers are names of configuration trees in the root (/etc/rootovl); the first wins.
	// Layers are digests of layers that the HTTP server has, in the order of application, and go
	// over those.
	TreeLayers []string
	Layers     []handoff.Digest
	RunLayers  []handoff.Digest // those that hold nothing but files below run/, which need no writable root
	Console    []string         // values of console=, "ttyS0,115200"; the last is /dev/console
	Cmdline    []string         // more kernel arguments, the last: they win
}

// Elsewhere is where a server that is not ours has what ours has in a place of its own.
type Elsewhere struct {
	LUN       uint16 // iSCSI: of the disk in its target
	Path      string // NFS: of the tree or the packed root; empty: as ours
	MountPort uint16 // NFS with a Path: what answers MOUNT; 0: its portmapper is asked
}

// Plan is everything that one machine is told.
type Plan struct {
	Machine Machine         `json:"machine"`
	Image   string          `json:"image"`
	Flavour handoff.Flavour `json:"initramfs,omitempty"` // of the initramfs; empty: handoff.Netroot
	Kernel  File            `json:"kernel"`
	Initrds []File          `json:"initrds"`
	Cmdline []string        `json:"cmdline"`
	// Script is the URL of this plan as an iPXE script; a machine that could not boot asks there
	// again.
	Script string `json:"script"`
}

// maxCmdline is the longest kernel command line in bytes: COMMAND_LINE_SIZE of x86 and arm64 less
// its NUL byte.
const maxCmdline = 2047

// Paths of the HTTP server, the part of the contract that a boot script depends on.
const (
	ScriptPath = "/boot/"      // see ScriptURL
	BlobPath   = "/v1/blobs/"  // + digest
	LayerPath  = "/v1/layers/" // + digest
)

// Decide makes the plan for machine m booting image im as s says. Its errors name what is wrong
// with the image or the settings; there is no error that a second try would mend.
func Decide(m Machine, im Image, s Settings) (Plan, error) {
	host, err := CheckServer(m.Server)
	if err != nil {
		return Plan{}, err
	}
	if m.Arch != "" && im.Arch != "" && m.Arch != im.Arch {
		return Plan{}, fmt.Errorf("image %s is for %s and this machine is %s: build the image for it", im.Name, im.Arch, m.Arch)
	}
	if err := im.Bootable(); err != nil {
		return Plan{}, err
	}
	if len(s.Layers)+len(s.TreeLayers) > 0 && !s.Overlay.Enabled {
		return Plan{}, fmt.Errorf("image %s: layers need a writable root: set overlay: true for the label", im.Name)
	}
	if s.RW && s.Overlay.Enabled {
		return Plan{}, fmt.Errorf("image %s: rw and overlay exclude each other: an overlay keeps what the node writes in memory, and rw writes it to the root", im.Name)
	}
	if m.MAC, err = ParseMAC(m.MAC); err != nil {
		return Plan{}, err
	}
	base := "http://" + m.Server
	p := Plan{
		Machine: m,
		Image:   im.Name,
		Kernel:  im.Kernel,
		Script:  ScriptURL(m.Server, cmp.Or(m.Ref, im.Name), m.Virtio),
	}
	if err := p.setInitrds(m, im, s); err != nil {
		return Plan{}, err
	}
	p.Kernel.URL = base + BlobPath + string(p.Kernel.Digest)
	for i := range p.Initrds {
		p.Initrds[i].URL = base + BlobPath + string(p.Initrds[i].Digest)
	}
	if p.Cmdline, err = cmdline(base, host, m, im, s); err != nil {
		return Plan{}, fmt.Errorf("image %s: %w", im.Name, err)
	}
	if n := len(strings.Join(p.arguments(), " ")); n > maxCmdline {
		return Plan{}, fmt.Errorf("image %s: the kernel command line has %d bytes and a kernel reads %d: shorten cmdline", im.Name, n, maxCmdline)
	}
	return p, nil
}

// setInitrds chooses the initial RAM file systems.
func (p *Plan) setInitrds(m Machine, im Image, s Settings) error {
	switch {
	case s.Initramfs == handoff.Dracut && im.Dracut.Digest == "":
		return fmt.Errorf("image %s has no initramfs of dracut: set initramfs: dracut for the label, or say build --initramfs dracut, and build it again", im.Name)
	case s.Initramfs == handoff.Dracut:
		p.Flavour, p.Initrds = handoff.Dracut, []File{im.Dracut}
	case m.Virtio:
		p.Initrds = []File{im.Initrds[0]}
	default:
		p.Initrds = slices.Clone(im.Initrds)
	}
	return nil
}

// ScriptURL is where a machine asks for its plan as an iPXE script. The server is HOST or
// HOST:PORT, ref names the image as a user does ("debian12"), and virtio says that drivers for
// virtio devices will do.
func ScriptURL(server, ref string, virtio bool) string {
	u := "http://" + server + ScriptPath + url.PathEscape(ref) + ".ipxe"
	if virtio {
		u += "?virtio=1"
	}
	return u
}

func cmdline(base, host string, m Machine, im Image, s Settings) ([]string, error) {
	r, err := root(base, host, im, s)
	if err != nil {
		return nil, err
	}
	b := handoff.Boot{
		Root:       r,
		Overlay:    s.Overlay,
		TreeLayers: s.TreeLayers,
		BootMAC:    m.MAC,
		Shell:      s.Debug,
		Debug:      s.Debug,
	}
	for _, name := range s.TreeLayers {
		if err := handoff.CheckLayerName(name); err != nil {
			return nil, err
		}
	}
	if !slices.ContainsFunc(s.Cmdline, func(a string) bool { return strings.HasPrefix(a, "ip=") }) {
		b.Interfaces = []handoff.Interface{{Method: "dhcp"}}
	}
	for _, digest := range slices.Concat(s.Layers, s.RunLayers) {
		l, err := handoff.ParseLayer(base + LayerPath + string(digest))
		if err != nil {
			return nil, err
		}
		b.Layers = append(b.Layers, l)
	}
	args := b.Format()
	if s.Initramfs == handoff.Dracut {
		if args, err = b.FormatDracut(); err != nil {
			return nil, err
		}
	}
	for _, c := range s.Console {
		args = append(args, "console="+c)
	}
	args = append(args, s.Cmdline...)
	for _, a := range args {
		if err := checkArgument(a); err != nil {
			return nil, err
		}
	}
	return args, nil
}

// checkArgument refuses what a boot loader would not hand on as it is. iPXE splits lines at blanks,
// knows no quotes, expands "${", and takes "||", "&&", ";" and a leading "#" for its own
// (core/exec.c).
func checkArgument(a string) error {
	bad := strings.ContainsFunc(a, func(r rune) bool { return r < ' ' || r == 0x7f })
	switch {
	case strings.TrimSpace(a) == "" || bad:
		return fmt.Errorf("the kernel argument %q is empty or has control characters", a)
	case strings.Contains(a, "${"):
		return fmt.Errorf("the kernel argument %q has \"${\", which boot loaders expand", a)
	}
	for word := range strings.FieldsSeq(a) {
		if word == "||" || word == "&&" || word == ";" || word[0] == '#' {
			return fmt.Errorf("the kernel argument %q has the word %q, at which boot loaders end the line", a, word)
		}
	}
	return nil
}

// CheckServer accepts a host name or address with an optional port, as in a URL or a Host header,
// and returns the host without port and brackets.
func CheckServer(server string) (host string, err error) {
	host = server
	if h, port, splitErr := net.SplitHostPort(server); splitErr == nil {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return "", fmt.Errorf("server %q: %q is not a port", server, port)
		}
		host = h
		if strings.Contains(host, ":") != strings.HasPrefix(server, "[") {
			return "", fmt.Errorf("server %q: only IPv6 addresses have brackets", server)
		}
	} else if h, ok := strings.CutPrefix(server, "["); ok {
		host = strings.TrimSuffix(h, "]")
		if !strings.Contains(host, ":") {
			return "", fmt.Errorf("server %q: only IPv6 addresses have brackets", server)
		}
	} else if strings.Contains(server, ":") {
		return "", fmt.Errorf("server %q is not HOST, HOST:PORT or [IPv6]:PORT", server)
	}
	if err := handoff.CheckHost(host); err != nil {
		return "", fmt.Errorf("server %q: %w", server, err)
	}
	return host, nil
}

// ParseMAC returns the address of an Ethernet interface in the form of Machine.MAC, from any form
// that net.ParseMAC takes. Nothing stays nothing.
func ParseMAC(mac string) (string, error) {
	if mac == "" {
		return "", nil
	}
	hw, err := net.ParseMAC(mac)
	if err != nil || len(hw) != 6 {
		return "", fmt.Errorf("%q is not a MAC address", mac)
	}
	return hw.String(), nil
}
