package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"netroot/internal/export"
	"netroot/internal/publish"
	"netroot/internal/pxetree"
)

// optionUsage marks an error of options as the caller's mistake.
func optionUsage(err error) error {
	if wrong := (*publish.OptionError)(nil); errors.As(err, &wrong) {
		return usage(err)
	}
	return err
}

func exportPxelinuxCmd(e *env) *cobra.Command {
	var f exportFlags
	var o publish.PxelinuxOptions
	var transport string
	var isDefault bool
	cmd := &cobra.Command{
		Use:   "pxelinux LABEL[@ID]",
		Short: "Write a TFTP directory from which pxelinux boots a label",
		Long: `Pxelinux puts pxelinux, the kernel and the initramfs files of an image into a
directory for a TFTP server, and an entry into its pxelinux.cfg/default. Several
labels can share a directory. Machines boot the entry that was exported last, unless
the file has a DEFAULT that netroot did not write; --default replaces that one.

In pxelinux.cfg/default only the text between netroot's marks is changed. The
directory of an image's files has the image's id in its name. It is removed when no
entry names it.

The root comes from "netroot serve" on the server or, with --site, from the site's
own server for the transport, as "netroot export" configures it.`,
		Example: `  netroot export pxelinux debian12 --server 10.0.0.1 -o /srv/tftp
  netroot export pxelinux debian12 --server 10.0.0.1 --site -o /srv/tftp \
    --transport nfs
  netroot export pxelinux debian12 --server 10.0.0.1 -o /srv/tftp \
    --http http://10.0.0.1/tftp`,
	}
	exportVerb(e, &f, cmd, func(x *exported) (err error) {
		if transport != "" {
			if o.Transport, err = transportOf(transport); err != nil {
				return err
			}
		}
		if cmd.Flags().Changed("default") {
			o.Default = export.DefaultNo
			if isDefault {
				o.Default = export.DefaultYes
			}
		}
		made, err := x.Pxelinux(o)
		switch {
		case err != nil:
			return err
		case x.Dir == "":
			_, err = fmt.Fprint(e.stdout, made.Menu)
			return err
		}
		e.tellPxelinux(x, made, o.HTTP != "")
		return nil
	})
	fl := cmd.Flags()
	fl.StringVar(&transport, "transport", "", "nvme, nbd, iscsi, nfs-image, nfs or http (default: the label's `transport`)")
	fl.BoolVar(&o.OwnServer, "site", false, "the root comes from the site's own server: nbd-server, tgt or the kernel's NFS server")
	fl.StringVar(&o.Packed, "packed", "", "with --site --transport nfs-image, the `directory` of packed roots on the NFS server")
	fl.Uint16Var(&o.LUN, "lun", export.TgtLUN, "with --site, the disk's `number` in its iSCSI target: 1 for tgt, 0 for LIO")
	fl.Uint16Var(&o.Port, "port", 0, "`port` of the root's server (default: the transport's own)")
	fl.StringVar(&o.HTTP, "http", "", "have lpxelinux fetch kernel and initramfs from this `URL` of the directory")
	fl.BoolVar(&o.Virtio, "virtio", false, "for virtual machines, which need no drivers of real hardware")
	fl.StringSliceVar(&o.Console, "console", nil, "`values` of console=, such as tty0,ttyS0")
	fl.BoolVar(&isDefault, "default", true, "have machines boot this entry; if given, also in place of a DEFAULT that netroot did not write")
	return cmd
}

func (e *env) tellPxelinux(x *exported, made publish.Pxelinux, http bool) {
	name := made.Entry.Name
	say := func(format string, args ...any) { e.print(fmt.Sprintf(format+"\n", args...)) }
	say("%s boots %s as its entry %s; DHCP must name %s on this TFTP server (netroot export dhcp --loader pxelinux)", x.Dir, x.Image.Image.Name(), name, pxetree.Loader(http))
	if made.Layers {
		say("its layers come from \"netroot serve\" on %s, as they are now: export again when one has changed", x.Request.Machine.Server)
	}
	for _, image := range made.Change.Removed {
		say("removed the files of %s, which no entry names", image)
	}
	if made.Change.Foreign != "" {
		say("machines still boot DEFAULT %s, which netroot did not write; --default makes it %s", made.Change.Foreign, name)
	}
}

func exportDHCPCmd(e *env) *cobra.Command {
	var f exportFlags
	var loader, tftp string
	cmd := exportVerb(e, &f, &cobra.Command{
		Use:   "dhcp LABEL[@ID]",
		Short: "Write what dnsmasq, ISC dhcpd or Kea need for network boot",
		Long: `Dhcp writes a snippet for the configuration of dnsmasq, ISC dhcpd or Kea. With it,
machines that boot from the network with BIOS or UEFI get iPXE from your TFTP
server, and iPXE gets the boot script of "netroot serve" on the server. With
--loader pxelinux, machines with BIOS get pxelinux from the directory that
"netroot export pxelinux" writes.`,
		Example: `  netroot export dhcp debian12 --server 10.0.0.1
  netroot export dhcp debian12 --server 10.0.0.1 --tftp 10.0.0.2 -o /srv/boot
  netroot export dhcp debian12 --server 10.0.0.1 --loader pxelinux`,
	}, func(x *exported) error {
		known, err := oneOf("loader", loader, export.Loaders())
		if err != nil {
			return err
		}
		set, err := x.DHCP(known, tftp)
		return e.put(x, set, err)
	})
	cmd.Flags().StringVar(&loader, "loader", string(export.IPXE), "`ipxe` or pxelinux")
	cmd.Flags().StringVar(&tftp, "tftp", "", "`address` of the TFTP server (default: the server's)")
	return cmd
}
