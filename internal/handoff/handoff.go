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
	"fmt"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
)

// DefaultNBDPort is the port IANA registers for NBD.
const DefaultNBDPort = 10809

// Transport is how the root reaches the node.
type Transport string

// NBD takes the root from a network block device.
const NBD Transport = "nbd"

// Transports lists the transports that a root= argument can name.
func Transports() []string { return []string{string(NBD)} }

// Boot is everything the kernel command line tells the initramfs.
type Boot struct {
	Root        Root
	Overlay     Overlay
	Layers      []Layer      // netroot.layer=, applied in this order over the root
	Interfaces  []Interface  // ip=
	BootMAC     string       // BOOTIF=, "52:54:00:12:34:56"; empty: any interface
	Nameservers []netip.Addr // nameserver=
	Shell       bool         // rd.shell: a shell where the boot failed
	Debug       bool         // rd.debug: say everything, and rd.shell
	Break       bool         // rd.break: a shell before the root is switched to
	Init        string       // init=; empty: the distribution's
}

// Root says where the root filesystem is.
type Root struct {
	Transport    Transport
	Server       string   // host name or address
	Port         uint16   // 0: the transport's own
	Export       string   // NBD export name; empty: the server's default export
	FSType       string   // file system type; empty: probe
	MountOptions []string // mount options of the packed root, "ro" implied
}

// Overlay says whether, and how large, a writable memory layer lies over the root.
type Overlay struct {
	Enabled bool
	Size    string // as tmpfs's size= takes it ("2G", "50%"); empty: half of the memory
}

// Layer is an archive put over the root before it is switched to.
type Layer struct {
	URL    string // ends in the digest, "sha256:" and 64 hexadecimal digits
	Digest string // the same digest, split off
}

// Interface configures one network interface; see ip= in dracut.cmdline(7).
type Interface struct {
	Name     string       // empty: the boot interface
	Method   string       // "dhcp" or "static"
	Address  netip.Prefix // static only
	Gateway  netip.Addr
	Peer     netip.Addr // the boot server
	Hostname string
	MTU      int // bytes; 0: the driver's
	DNS      []netip.Addr
}

// Format renders b as kernel arguments, in a fixed order. Parse reads them back.
func (b Boot) Format() []string {
	args := []string{"root=" + b.Root.String()}
	for _, i := range b.Interfaces {
		args = append(args, "ip="+i.String())
	}
	if b.BootMAC != "" {
		args = append(args, "BOOTIF=01-"+strings.ReplaceAll(b.BootMAC, ":", "-"))
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
	if b.Init != "" {
		args = append(args, "init="+b.Init)
	}
	return args
}

// String renders r as the value of root=, in dracut's form
// nbd:SERVER:PORT-or-EXPORT:FSTYPE:OPTIONS. dracut takes a port or an export
// name, never both; where both are needed they are written PORT/EXPORT, which
// only netroot's own initramfs reads.
func (r Root) String() string {
	server := r.Server
	if strings.Contains(server, ":") {
		server = "[" + server + "]"
	}
	where := r.Export
	if r.Port != 0 && r.Port != DefaultNBDPort || r.Export == "" || numeric(r.Export) {
		where = strconv.Itoa(int(r.port()))
		if r.Export != "" {
			where += "/" + r.Export
		}
	}
	fields := []string{string(r.Transport), server, where, r.FSType, strings.Join(r.MountOptions, ",")}
	return strings.TrimRight(strings.Join(fields, ":"), ":")
}

func (r Root) port() uint16 {
	if r.Port == 0 {
		return DefaultNBDPort
	}
	return r.Port
}

// Address is the server's host and port, for dialling.
func (r Root) Address() string {
	server := r.Server
	if strings.Contains(server, ":") {
		server = "[" + server + "]"
	}
	return server + ":" + strconv.Itoa(int(r.port()))
}

// ParseLayer splits the digest off a layer's URL.
func ParseLayer(raw string) (Layer, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return Layer{}, fmt.Errorf("layer %q: want http://HOST/.../sha256:DIGEST", raw)
	}
	digest := path.Base(u.Path)
	hex, ok := strings.CutPrefix(digest, "sha256:")
	if !ok || len(hex) != 64 || strings.Trim(hex, "0123456789abcdef") != "" {
		return Layer{}, fmt.Errorf("layer %q: its path must end in sha256: and 64 hexadecimal digits", raw)
	}
	return Layer{URL: raw, Digest: digest}, nil
}

func numeric(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
