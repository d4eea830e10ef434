// Package export renders the configuration that a site's own servers require to boot an image: for
// nbd-server, tgt, LIO, the kernel's NFS server, pxelinux and DHCP servers. Each renderer is a pure
// function of a boot.Plan and of the places of the files, and its result can be printed.
//
// The package writes no file, copies no image and contacts no server. Package pxetree makes a TFTP
// directory, and package foreign runs such servers with the same texts. All exports are read-only
// unless the plan says otherwise.
package export

import (
	"fmt"
	"net/netip"
	"strings"
)

// Set is the configuration for one kind of server.
type Set struct {
	Files []File
	Steps []string // what to do with the files, in this order
	Boots []Boot   // kernel arguments of nodes that boot from the server
}

// File is one file of a Set.
type File struct {
	Path string // path below the output directory of export
	For  string // path from which the server reads the file, or the program that reads it
	Text string
}

// Boot describes how a node boots from a server.
type Boot struct {
	Server  string   // name of the server, if the set is for several
	Cmdline []string // kernel arguments
}

// Text renders the set for a terminal or a pipe: everything that is not configuration is a comment.
func (s Set) Text() string {
	var b strings.Builder
	for _, f := range s.Files {
		fmt.Fprintf(&b, "# ---- %s\n%s\n", f.For, f.Text)
	}
	b.WriteString(s.Advice("# "))
	return b.String()
}

// Advice returns the steps and the kernel arguments of nodes. Each line begins with prefix.
func (s Set) Advice(prefix string) string {
	var b strings.Builder
	for i, step := range s.Steps {
		fmt.Fprintf(&b, "%s%d. %s\n", prefix, i+1, strings.ReplaceAll(step, "\n", "\n"+prefix+"   "))
	}
	for _, boot := range s.Boots {
		by := ""
		if boot.Server != "" {
			by = " from " + boot.Server
		}
		fmt.Fprintf(&b, "%sA node boots%s with: %s\n", prefix, by, strings.Join(boot.Cmdline, " "))
	}
	return b.String()
}

// checkPath refuses a path with characters that have a meaning in the configuration of a server:
// blanks, quotes, "%s", which nbd-server replaces, and others.
func checkPath(path string) error {
	odd := strings.IndexFunc(path, func(r rune) bool {
		return r < 0x80 && !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-@+:=,", r))
	})
	switch {
	case odd >= 0:
		return fmt.Errorf("the path %q contains %q, which has a meaning in the configuration of servers: move the file to a path without it", path, path[odd])
	case !strings.HasPrefix(path, "/"):
		return fmt.Errorf("the path %q is not absolute", path)
	}
	return nil
}

// Clients parses the machines that may connect: addresses and networks, "10.0.0.7" or
// "10.0.0.0/24".
func Clients(texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range texts {
		p, err := netip.ParsePrefix(s)
		if addr, aerr := netip.ParseAddr(s); err != nil && aerr == nil && addr.Zone() == "" {
			p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil {
			return nil, fmt.Errorf("clients %q: not an address or a network such as 10.0.0.0/24", s)
		}
		if p != p.Masked() {
			return nil, fmt.Errorf("clients %q: the address has host bits; the network is %s", s, p.Masked())
		}
		out = append(out, p)
	}
	return out, nil
}

// network returns the prefix as servers expect it: an address without its length.
func network(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
