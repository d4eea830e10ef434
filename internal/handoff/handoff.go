// Package handoff is the contract between the server and a booting node: the
// kernel arguments that say where the root is, how the network comes up and
// what is laid over the root. The server formats them, the node parses them,
// and both do it here. Names and syntax are those of dracut.cmdline(7) wherever
// dracut has one, so that an image's own dracut initramfs understands the same
// line; the rest is named netroot.*.
//
// It is pure: it reads no file, resolves no name and knows no transport's wire.
package handoff

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"time"
	"unicode"
)

// Boot is everything the kernel command line tells the initramfs.
type Boot struct {
	Root        Root
	Overlay     Overlay
	TreeLayers  []string     // rootovlcfg=, configuration trees below /etc/rootovl of the root; the first named wins
	Layers      []Layer      // netroot.layer=, applied in this order over the root, after the trees
	Interfaces  []Interface  // ip=
	BootMAC     string       // BOOTIF=, "52:54:00:12:34:56", or 8 or 20 bytes of InfiniBand; empty: any interface
	BootDevice  string       // bootdev=, the interface of the root where there are several ip=
	Nameservers []netip.Addr // nameserver=
	Shell       bool         // rd.shell: a shell where the boot failed
	Debug       bool         // rd.debug: say everything, and rd.shell
	Break       bool         // rd.break: a shell before the root is switched to
	// Retry is rd.retry=SECONDS: how long the root may be unavailable before the machine restarts
	// for a new plan; 0: the init's default.
	Retry time.Duration
	Init  string // init=; empty: the distribution's
	// PassedOver are arguments that the initramfs has a use for and that were not understood, with
	// the reason, "ip=x: expected ..."; the boot continues without them. Not formatted.
	PassedOver []string
}

// Overlay says whether, and how large, a writable memory layer lies over the root.
type Overlay struct {
	Enabled bool
	Size    string // as tmpfs's size= takes it ("2G", "50%"); empty: half of the memory
}

// Layer is an archive put over the root before it is switched to.
type Layer struct {
	URL    string // ends in the digest, "sha256:" and 64 hexadecimal digits
	Digest Digest // the same digest, split off
}

// Interface configures one network interface; see ip= in dracut.cmdline(7).
type Interface struct {
	Name     string       // as somebody calls it, or its MAC address with colons; empty: the boot interface
	Method   string       // "dhcp" or "static"
	Address  netip.Prefix // static only
	Gateway  netip.Addr
	Peer     netip.Addr // the boot server
	Hostname string
	MTU      int // bytes; 0: the driver's
	DNS      []netip.Addr
}

// Format renders b as kernel arguments, in a fixed order. Parse reads them back.
func (b Boot) Format() []string { return append(b.Root.arguments(), b.rest()...) }

// rest renders all but the root.
func (b Boot) rest() []string {
	var args []string
	for _, i := range b.Interfaces {
		args = append(args, "ip="+i.String())
	}
	if b.BootMAC != "" {
		args = append(args, formatBootIF(b.BootMAC))
	}
	if b.BootDevice != "" {
		args = append(args, "bootdev="+formatName(b.BootDevice))
	}
	for _, ns := range b.Nameservers {
		args = append(args, "nameserver="+ns.String())
	}
	if b.Overlay.Enabled {
		arg := "rootovl"
		if b.Overlay.Size != "" {
			arg += "=" + b.Overlay.Size
		}
		args = append(args, arg)
	}
	if len(b.TreeLayers) > 0 {
		args = append(args, "rootovlcfg="+strings.Join(b.TreeLayers, ","))
	}
	for _, l := range b.Layers {
		args = append(args, "netroot.layer="+l.URL)
	}
	for _, f := range []struct {
		on  bool
		arg string
	}{{b.Shell, "rd.shell"}, {b.Debug, "rd.debug"}, {b.Break, "rd.break"}} {
		if f.on {
			args = append(args, f.arg)
		}
	}
	if b.Retry > 0 {
		args = append(args, fmt.Sprintf("rd.retry=%d", b.Retry/time.Second))
	}
	if b.Init != "" {
		args = append(args, "init="+b.Init)
	}
	return args
}

// ParseLayer splits the digest off a layer's URL.
func ParseLayer(raw string) (Layer, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return Layer{}, fmt.Errorf("layer %q: expected http://HOST/.../sha256:DIGEST", raw)
	}
	digest, err := ParseDigest(path.Base(u.Path))
	if err != nil {
		return Layer{}, fmt.Errorf("layer %q: its path must end in a digest: %w", raw, err)
	}
	return Layer{URL: raw, Digest: digest}, nil
}

// maxLabel is the longest name of a label, in bytes. An OCI tag is not longer either.
const maxLabel = 128

// ValidLabel reports whether a label can have that name: lower-case letters and digits, with single
// dots, hyphens and underscores between them, 128 bytes at most. An OCI reference name allows that
// without slashes (image-spec, annotations.md), so a label can be a tag in an image layout.
func ValidLabel(name string) bool {
	separated := true // at the start, and after a separator
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
			separated = false
		case separated || c != '.' && c != '-' && c != '_':
			return false
		default:
			separated = true
		}
	}
	return !separated && len(name) <= maxLabel
}

// CheckLayerName refuses what cannot be the name of a configuration layer: it is the name of one
// directory and one word of a kernel command line, which boot loaders and shells get to see.
func CheckLayerName(name string) error {
	switch odd := strings.IndexFunc(name, func(r rune) bool {
		return r == unicode.ReplacementChar || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("._-+@:=%~", r)
	}); {
	case name == "":
		return errors.New("a layer's name is empty")
	case name == "." || name == "..":
		return fmt.Errorf("%q is not the name of a layer but a directory above it", name)
	case strings.Contains(name, "/"):
		return fmt.Errorf("%q has a slash: a layer is named by one word, not by a path", name)
	case odd >= 0:
		return fmt.Errorf("%q cannot name a layer: use letters, digits and . _ - + @ : = %% ~", name)
	case len(name) > 255:
		return fmt.Errorf("the name of a layer has %d bytes, and no file name has more than 255", len(name))
	}
	return nil
}
