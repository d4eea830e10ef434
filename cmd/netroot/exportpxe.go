package main

import (
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"netroot/internal/boot"
	"netroot/internal/export"
	"netroot/internal/handoff"
	"netroot/internal/pxetree"
	"netroot/internal/store"
)

// exportPxelinuxFlags are the flags of "netroot export pxelinux".
type exportPxelinuxFlags struct {
	exportFlags
	transport, http string
	packed          string
	lun, port       uint16
	site, virtio    bool
	isDefault       bool
	console         []string
}

func exportPxelinuxCmd(e *env) *cobra.Command {
	var f exportPxelinuxFlags
	cmd := &cobra.Command{
		Use:   "pxelinux LABEL[@ID]",
		Short: "TFTP directory from which pxelinux boots a label",
		Long: `Puts pxelinux, the kernel and the initramfs files of an image into a directory for a
TFTP server, and an entry into its pxelinux.cfg/default. Several labels go into
one directory. The entry exported last is what machines boot by themselves, unless
somebody else's DEFAULT is there, which --default overrides.

Of pxelinux.cfg/default only what stands between marks of netroot is touched. The
image's files have its id in their path, and are removed when no entry names them.

The root comes from "netroot serve" on the server, or with --site from the site's
own server of the transport, as "netroot export" configures it.`,
		Example: `  netroot export pxelinux debian12 --server 10.0.0.1 -o /srv/tftp
  netroot export pxelinux debian12 --server 10.0.0.1 --transport nfs --site -o /srv/tftp
  netroot export pxelinux debian12 --server 10.0.0.1 --http http://10.0.0.1/tftp -o /srv/tftp`,
		Args:              oneArg("label"),
		ValidArgsFunction: e.completeLabels,
		RunE: func(cmd *cobra.Command, args []string) error {
			d := export.DefaultUnlessForeign
			if cmd.Flags().Changed("default") {
				d = export.DefaultNo
				if f.isDefault {
					d = export.DefaultYes
				}
			}
			return e.exportPxelinux(args[0], f, d)
		},
	}
	f.register(cmd, false)
	fl := cmd.Flags()
	fl.StringVar(&f.transport, "transport", "", "nvme, nbd, iscsi, nfs-image, nfs or http (default: the label's `transport`)")
	fl.BoolVar(&f.site, "site", false, "the root's server is the site's own: nbd-server, tgt or the kernel's NFS server")
	fl.StringVar(&f.packed, "packed", "", "with --site --transport nfs-image, the `directory` of packed roots on the NFS server")
	fl.Uint16Var(&f.lun, "lun", export.TgtLUN, "with --site, the disk's `number` in its iSCSI target: 1 of tgt, 0 of LIO")
	fl.Uint16Var(&f.port, "port", 0, "`port` of the root's server (default: the transport's own)")
	fl.StringVar(&f.http, "http", "", "have lpxelinux fetch kernel and initramfs from this `URL` of the directory")
	fl.BoolVar(&f.virtio, "virtio", false, "for virtual machines, which need no drivers of real hardware")
	fl.StringSliceVar(&f.console, "console", nil, "`values` of console=, such as tty0,ttyS0")
	fl.BoolVar(&f.isDefault, "default", true, "have machines boot this entry by themselves; given, also in place of a DEFAULT that somebody else wrote")
	return cmd
}

func (e *env) exportPxelinux(ref string, f exportPxelinuxFlags, d export.Default) error {
	x, err := e.exported(ref, f.exportFlags)
	if err != nil {
		return err
	}
	plan, err := f.plan(x)
	if err != nil {
		return err
	}
	im := pxetree.Image{Name: plan.Image}
	base := ""
	if f.http != "" {
		base = strings.TrimSuffix(f.http, "/") + "/"
	}
	entry := export.Entry{Name: x.ref, Title: entryTitle(x.im), Kernel: base + pxetree.FileName(plan.Image, plan.Kernel.Name), Cmdline: plan.Cmdline}
	if im.Kernel, err = partOf(x.im, plan.Kernel); err != nil {
		return err
	}
	for _, file := range plan.Initrds {
		part, err := partOf(x.im, file)
		if err != nil {
			return err
		}
		im.Initrds = append(im.Initrds, part)
		entry.Initrds = append(entry.Initrds, base+pxetree.FileName(plan.Image, file.Name))
	}
	if x.f.out == "-" {
		m, err := export.ParseMenu("", "")
		if err == nil {
			_, err = m.Put(entry, d)
		}
		if err == nil {
			_, err = fmt.Fprint(e.stdout, m.Text())
		}
		return err
	}
	change, err := pxetree.Write(x.f.out, "/", im, entry, d, f.http != "")
	if err != nil {
		return err
	}
	e.tellPxelinux(x, change, entry, f.http != "")
	return nil
}

// plan is that of a machine that pxelinux starts. A label that is rw has its root by NFS.
func (f exportPxelinuxFlags) plan(x *exported) (boot.Plan, error) {
	l := known(x.cfg, x.im.Label)
	t := l.Transport
	if f.transport != "" {
		var err error
		if t, err = transportOf(f.transport); err != nil {
			return boot.Plan{}, err
		}
	}
	if t == "" && l.RW {
		t = handoff.NFS
	}
	var elsewhere boot.Elsewhere
	if f.site {
		switch t {
		case handoff.NBD:
		case handoff.ISCSI:
			elsewhere.LUN = f.lun
		case handoff.NFS:
			if x.label == nil {
				return boot.Plan{}, usage(fmt.Errorf("no configuration names the label %s, and with it its tree", x.im.Label))
			}
			elsewhere.Path = x.label.Tree
		case handoff.NFSImage:
			if !filepath.IsAbs(f.packed) {
				return boot.Plan{}, usage(fmt.Errorf("--site --transport nfs-image wants --packed DIR, the absolute directory of packed roots that \"netroot export nfs --packed -o DIR\" exports"))
			}
			elsewhere.Path = filepath.Join(f.packed, packedName(x.im))
		default:
			return boot.Plan{}, usage(fmt.Errorf("--site wants --transport nbd, iscsi, nfs or nfs-image, for which \"netroot export\" writes a site's servers"))
		}
	}
	if f.port != 0 {
		x.r.Listen = boot.SamePort(f.port, handoff.Transports()...)
	}
	x.r.Add.Console = f.console
	x.r.Machine.Virtio = f.virtio
	return x.plan(t, elsewhere)
}

// partOf finds the file of the store that a plan names by its digest.
func partOf(im *store.Image, f boot.File) (pxetree.File, error) {
	for _, l := range im.Manifest.Layers {
		if l.Digest.String() != f.Digest {
			continue
		}
		blob, ok, err := im.Blob(store.Role(l.Annotations[store.AnnotationRole]))
		if err != nil || !ok {
			return pxetree.File{}, err
		}
		defer blob.Close()
		return pxetree.File{Name: f.Name, Path: blob.Path()}, nil
	}
	return pxetree.File{}, fmt.Errorf("image %s has no part %s", im.Name(), f.Digest)
}

func entryTitle(im *store.Image) string {
	words := []string{im.Label}
	for _, s := range []string{im.Config.System, im.Config.KernelRelease} {
		if s != "" {
			words = append(words, s)
		}
	}
	return strings.Join(words, ", ") + " (" + im.ID() + ")"
}

func (e *env) tellPxelinux(x *exported, c pxetree.Change, entry export.Entry, http bool) {
	name := entry.Name
	say := func(format string, args ...any) { fmt.Fprintf(e.stdout, format+"\n", args...) }
	say("%s boots %s as its entry %s; DHCP names %s of this TFTP server (netroot export dhcp --loader pxelinux)", x.f.out, x.im.Name(), name, pxetree.Loader(http))
	if slices.ContainsFunc(entry.Cmdline, func(a string) bool { return strings.HasPrefix(a, "netroot.layer=") }) {
		say("its layers come from \"netroot serve\" on %s, and are those of now: export again when one has changed", x.httpServer())
	}
	for _, image := range c.Removed {
		say("removed the files of %s, which no entry names", image)
	}
	if c.Foreign != "" {
		say("DEFAULT %s, which is not netroot's, stays what machines boot by themselves; --default makes it %s", c.Foreign, name)
	}
}

func exportDHCPCmd(e *env) *cobra.Command {
	var f exportFlags
	var loader, tftp string
	cmd := &cobra.Command{
		Use:   "dhcp LABEL[@ID]",
		Short: "What dnsmasq, ISC dhcpd and Kea tell machines that boot from the network",
		Long: `Writes what to add to the configuration of dnsmasq, ISC dhcpd or Kea, so that machines
which boot from the network, by BIOS or UEFI, get iPXE from your TFTP server, and by
it the boot script of "netroot serve" on the server; or, with --loader pxelinux and
on BIOS, pxelinux from the directory that "netroot export pxelinux" writes.`,
		Example: `  netroot export dhcp debian12 --server 10.0.0.1
  netroot export dhcp debian12 --server 10.0.0.1:8010 --tftp 10.0.0.2 -o /srv/netroot
  netroot export dhcp debian12 --server 10.0.0.1 --loader pxelinux`,
		Args:              oneArg("label"),
		ValidArgsFunction: e.completeLabels,
		RunE: func(_ *cobra.Command, args []string) error {
			x, err := e.exported(args[0], f)
			if err != nil {
				return err
			}
			return e.exportDHCP(x, export.Loader(loader), tftp)
		},
	}
	f.register(cmd, false)
	cmd.Flags().StringVar(&loader, "loader", string(export.IPXE), "`ipxe` or pxelinux")
	cmd.Flags().StringVar(&tftp, "tftp", "", "`address` of the TFTP server (default: the server's)")
	return cmd
}

func (e *env) exportDHCP(x *exported, loader export.Loader, tftp string) error {
	if loader != export.IPXE && loader != export.Pxelinux {
		return usage(fmt.Errorf("--loader %s: there are ipxe and pxelinux", loader))
	}
	// What a machine would be refused later is better said now; it also has the server's name checked.
	if _, err := x.cfg.Plan(x.r); err != nil {
		return err
	}
	if tftp == "" {
		tftp, _, _ = net.SplitHostPort(x.httpServer())
	}
	addr, err := netip.ParseAddr(tftp)
	if err != nil || !addr.Is4() {
		return usage(fmt.Errorf("the TFTP server %s: DHCP tells it as an IPv4 address: name that with --tftp", tftp))
	}
	set, err := export.Snippets(export.DHCP{
		TFTP: addr, Script: boot.ScriptURL(x.httpServer(), x.ref, false), Loader: loader, Arch: x.im.Config.Architecture,
	})
	if err != nil {
		return err
	}
	return e.put(x.f, set)
}
