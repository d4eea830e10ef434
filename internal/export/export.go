// Package export renders what a site's own servers need to boot an image: the configuration of nbd-server, tgt, LIO and
// the kernel's NFS server, entries of pxelinux, and what DHCP servers tell machines. Each is a pure function of a
// boot.Plan and of where the files are, and what it returns can be printed.
//
// It writes no file, copies no image and asks no server; package pxetree puts a TFTP directory together, and package
// foreign runs such servers with the same texts. Everything is read-only where the plan does not say otherwise.
package export

import (
	"fmt"
	"net/netip"
	"strings"
)

// Set is what goes to one kind of server.
type Set struct {
	Files []File
	Steps []string // what to do with them, in this order
	Boots []Boot   // how a node boots from them
}

// File is one file of a Set.
type File struct {
	Path string // below the directory that export writes to
	For  string // the path by which the server reads it, or the program
	Text string
}

// Boot is a way in which a node can find its root on a server.
type Boot struct {
	Server  string   // the program that serves it, where there are several
	Cmdline []string // kernel arguments
}

// Text renders the set for a terminal or a pipe: all that is not configuration is a comment.
func (s Set) Text() string {
	var b strings.Builder
	for _, f := range s.Files {
		fmt.Fprintf(&b, "# ---- %s\n%s\n", f.For, f.Text)
	}
	b.WriteString(s.Advice("# "))
	return b.String()
}

// Advice is what to do and how nodes boot, each line with the prefix.
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

// checkPath refuses a path that a server's configuration would take for more than a path: blanks, quotes, "%s", which
// nbd-server replaces, and the like.
func checkPath(path string) error {
	odd := strings.IndexFunc(path, func(r rune) bool {
		return r < 0x80 && !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-@+:=,", r))
	})
	switch {
	case odd >= 0:
		return fmt.Errorf("the path %q has %q, which servers' configurations take for their own: have it where the path has none", path, path[odd])
	case !strings.HasPrefix(path, "/"):
		return fmt.Errorf("the path %q is not absolute", path)
	}
	return nil
}

// Clients reads which machines may connect: addresses and networks, "10.0.0.7" or "10.0.0.0/24".
func Clients(texts []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range texts {
		p, err := netip.ParsePrefix(s)
		if addr, aerr := netip.ParseAddr(s); err != nil && aerr == nil && addr.Zone() == "" {
			p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil {
			return nil, fmt.Errorf("clients %q: want an address or a network, such as 10.0.0.0/24", s)
		}
		if p != p.Masked() {
			return nil, fmt.Errorf("clients %q: has bits of a host; the network is %s", s, p.Masked())
		}
		out = append(out, p)
	}
	return out, nil
}

// network is the prefix as servers write it: an address without its length.
func network(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}
