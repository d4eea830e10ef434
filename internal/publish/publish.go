// Package publish puts what a site's own servers need to boot an image where they find it: the
// packed root under a name of its own, configuration files, and the directory of a TFTP server.
//
// What the files say is decided by package export, and what a machine is told by package site. This
// package finds the parts of the image and of the tree, and writes. It starts no server, and
// changes nothing but the directory that it is given.
package publish

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"

	"netroot/internal/boot"
	"netroot/internal/export"
	"netroot/internal/handoff"
	"netroot/internal/site"
	"netroot/internal/store"
)

// Image is one image on its way to a site's servers.
type Image struct {
	Site    *site.Site
	Image   *store.Image
	Request site.Request // of the machines that boot it; its Server is that of "netroot serve"
	Dir     string       // absolute directory of what is written; empty: nothing is
}

// OptionError says that options do not fit the image or each other.
type OptionError struct{ err error }

func (e *OptionError) Error() string { return e.err.Error() }
func (e *OptionError) Unwrap() error { return e.err }

// WrongOption makes an OptionError.
func WrongOption(format string, args ...any) error { return &OptionError{fmt.Errorf(format, args...)} }

// HTTPPort is the port of "netroot serve" for boot scripts.
const HTTPPort = "8010"

// Server is the host of a server with a port, as a URL has it. The host may have one already; an
// IPv6 address without brackets gets them.
func Server(host string) string {
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	if addr, err := netip.ParseAddr(host); err == nil && addr.Is6() {
		host = "[" + host + "]"
	}
	return host + ":" + HTTPPort
}

// PackedName is the file name of an image's packed root in a directory of them.
func PackedName(im *store.Image) string { return im.Name() + "." + im.Config.RootFormat }

// label is the label that the configuration has; nil: it has none of that name.
func (p Image) label() *site.Label { return p.Site.Labels[p.Request.Label] }

// plan is what a machine is told that boots from a site's own server over t. Only over NFS can
// machines write to the tree of a label with rw: over the others they get the image.
func (p Image) plan(t handoff.Transport, elsewhere boot.Elsewhere) (boot.Plan, error) {
	r := p.Request
	r.Add.Transport, r.Add.ReadOnly, r.Add.Elsewhere = t, t != handoff.NFS, elsewhere
	return p.Site.Plan(r)
}

// packed is the path by which servers will know the packed root: a name of its own in the
// directory, or the store's.
func (p Image) packed() (string, error) {
	blob, err := Part(p.Image, store.RoleRoot)
	if err != nil || p.Dir == "" {
		return blob, err
	}
	path := filepath.Join(p.Dir, PackedName(p.Image))
	return path, linkOrCopy(path, blob)
}

// disk is the packed root as a disk for nodes.
func (p Image) disk(t handoff.Transport, elsewhere boot.Elsewhere, clients []netip.Prefix) (export.Disk, error) {
	plan, err := p.plan(t, elsewhere)
	if err != nil {
		return export.Disk{}, err
	}
	path, err := p.packed()
	return export.Disk{Image: p.Image.Name(), Path: path, Clients: clients, Cmdline: plan.Cmdline}, err
}

// NBD is for nbd-server.
func (p Image) NBD(clients []netip.Prefix) (export.Set, error) {
	d, err := p.disk(handoff.NBD, boot.Elsewhere{}, clients)
	if err != nil {
		return export.Set{}, err
	}
	return export.NBD(d)
}

// ISCSI is for tgt and for LIO.
func (p Image) ISCSI(clients []netip.Prefix) (export.Set, error) {
	d, err := p.disk(handoff.ISCSI, boot.Elsewhere{LUN: export.TgtLUN}, clients)
	if err != nil {
		return export.Set{}, err
	}
	lio, err := p.plan(handoff.ISCSI, boot.Elsewhere{})
	if err != nil {
		return export.Set{}, err
	}
	return export.ISCSI(d, lio.Cmdline)
}

// NFSOptions say what the kernel's NFS server exports, and how.
type NFSOptions struct {
	Clients  []netip.Prefix
	Packed   bool // the packed root as a file, in place of the label's tree
	NoSquash bool // a node's root reads what only root can read
	AnyPort  bool // nodes may come from ports above 1023
}

// NFS is for the kernel's NFS server.
func (p Image) NFS(o NFSOptions) (export.Set, error) {
	t := export.Tree{Label: p.Request.Label, Clients: o.Clients, NoSquash: o.NoSquash, Insecure: o.AnyPort}
	transport, elsewhere := handoff.NFS, boot.Elsewhere{}
	l := p.label()
	var err error
	switch {
	case o.Packed:
		if elsewhere.Path, err = p.packed(); err != nil {
			return export.Set{}, err
		}
		t.Label, t.Path, transport = "images", filepath.Dir(elsewhere.Path), handoff.NFSImage
	case l == nil:
		return export.Set{}, p.noTree("--packed exports the image instead")
	default:
		t.Path, t.RW = l.Tree, l.RW
		if t.Private, err = privatePaths(t.Path); err != nil {
			return export.Set{}, fmt.Errorf("the tree of %s: %w", l.Name, err)
		}
		elsewhere.Path = t.Path
	}
	plan, err := p.plan(transport, elsewhere)
	if err != nil {
		return export.Set{}, err
	}
	t.Cmdline = plan.Cmdline
	set, err := export.NFS(t)
	if err != nil {
		err = &OptionError{err}
	}
	return set, err
}

func (p Image) noTree(instead string) error {
	return WrongOption("no configuration has the label %s, so its tree is not known: %s", p.Request.Label, instead)
}

// DHCP is for DHCP servers. The TFTP server is an IPv4 address; empty: that of the Request's
// server.
func (p Image) DHCP(loader export.Loader, tftp string) (export.Set, error) {
	m := p.Request.Machine
	// A plan that machines would be refused is refused here. This also checks the server's name.
	if _, err := p.Site.Plan(p.Request); err != nil {
		return export.Set{}, err
	}
	if tftp == "" {
		tftp, _, _ = net.SplitHostPort(m.Server)
	}
	addr, err := netip.ParseAddr(tftp)
	if err != nil || !addr.Is4() {
		return export.Set{}, WrongOption("the TFTP server %s: DHCP names it by its IPv4 address: give that with --tftp", tftp)
	}
	return export.Snippets(export.DHCP{
		TFTP: addr, Script: boot.ScriptURL(m.Server, m.Ref, false), Loader: loader, Arch: p.Request.Image.Arch,
	})
}
