package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"

	"github.com/spf13/cobra"

	"netroot/internal/boot"
	"netroot/internal/export"
	"netroot/internal/publish"
	"netroot/internal/serve"
	"netroot/internal/site"
)

func exportCmd(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write the configuration of a site's own servers for a label",
		Long: `Export writes the configuration with which a site's own servers boot a label: the
kernel's NFS server, nbd-server, tgt or LIO for the root; a TFTP directory with
pxelinux; and the snippets for DHCP servers. Each prints what to do with it, and the
kernel arguments of a node that boots from it.

Without -o the text goes to standard output and no file is written. With -o DIR the
files go to that directory, and so does the packed root that they name: a link to
the file in the store, or a copy. Its name has the image's id, and it never changes.
Export a new image again; it is put beside the old one.

Everything is read-only, except the tree of a label with "rw: true".

Exit status: 0 done, 1 the work failed, 2 usage or configuration.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(exportNBDCmd(e), exportISCSICmd(e), exportNFSCmd(e), exportPxelinuxCmd(e), exportDHCPCmd(e))
	return cmd
}

// exportFlags are the flags that the kinds of export have in common.
type exportFlags struct {
	server, out string
	clients     []string
}

// exportVerb makes a command that exports one label. Its argument is completed from the images.
func exportVerb(e *env, f *exportFlags, cmd *cobra.Command, run func(*exported) error) *cobra.Command {
	cmd.Args = oneArg("label")
	cmd.ValidArgsFunction = e.images(1)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		x, err := e.exported(args[0], *f)
		if err == nil {
			err = run(x)
		}
		return optionUsage(err)
	}
	cmd.Flags().StringVar(&f.server, "server", "", "`address` by which nodes reach the server (default: the first of the label's servers)")
	cmd.Flags().StringVarP(&f.out, "output", "o", "-", "`directory` to write to, \"-\" for standard output")
	return cmd
}

func (f *exportFlags) registerClients(cmd *cobra.Command) {
	cmd.Flags().StringSliceVar(&f.clients, "clients", nil, "`addresses` and networks that may connect, such as 10.0.0.0/24 (default: the networks of the configuration)")
}

// exported is one image, the flags, and those that may connect.
type exported struct {
	publish.Image
	clients []netip.Prefix
}

// exported finds the image, and the server to which nodes will be sent.
func (e *env) exported(ref string, f exportFlags) (*exported, error) {
	cfg, err := e.config()
	if err != nil {
		return nil, err
	}
	_, im, err := openImage(cfg, ref)
	if err != nil {
		return nil, err
	}
	ref = imageName(cfg, ref)
	if servers := known(cfg, im.Label).Servers; f.server == "" && len(servers) > 0 {
		f.server = servers[0]
	}
	if f.server == "" {
		return nil, usage(fmt.Errorf("the address of the server is not known: give --server ADDRESS, or servers: [ADDRESS] for the label %s", im.Label))
	}
	if _, err := boot.CheckServer(publish.Server(f.server)); err != nil {
		return nil, usage(err)
	}
	x := &exported{Image: publish.Image{Site: cfg, Image: im, Request: site.Request{
		Machine: boot.Machine{Server: publish.Server(f.server), Ref: ref}, Image: serve.Facts(im), Label: im.Label,
		Listen: boot.StandardPorts(), Layers: e.layerFolder(cfg, slog.New(slog.DiscardHandler)),
	}}, clients: cfg.Networks}
	if f.out != "-" {
		if x.Dir, err = filepath.Abs(f.out); err != nil {
			return nil, err
		}
	}
	if len(f.clients) > 0 {
		x.clients, err = export.Clients(f.clients)
	}
	return x, usage(err)
}

// put writes the set to standard output or into the directory, and prints what to do with it.
func (e *env) put(x *exported, set export.Set, err error) error {
	if err != nil {
		return err
	}
	if x.Dir == "" {
		_, err := fmt.Fprint(e.stdout, set.Text())
		return err
	}
	paths, err := publish.Write(x.Dir, set)
	for i, path := range paths {
		verb := "goes to"
		if !filepath.IsAbs(set.Files[i].For) {
			verb = "is for"
		}
		e.print(fmt.Sprintf("%s %s %s\n", path, verb, set.Files[i].For))
	}
	if err == nil {
		err = e.print(set.Advice(""))
	}
	return err
}

func exportNBDCmd(e *env) *cobra.Command {
	var f exportFlags
	cmd := exportVerb(e, &f, &cobra.Command{
		Use:   "nbd LABEL[@ID]",
		Short: "Write the configuration of nbd-server for the packed root",
		Example: `  netroot export nbd debian12 --server 10.0.0.1
  netroot export nbd debian12 --server 10.0.0.1 --clients 10.0.0.0/24 -o /srv`,
	}, func(x *exported) error {
		set, err := x.NBD(x.clients)
		return e.put(x, set, err)
	})
	f.registerClients(cmd)
	return cmd
}

func exportISCSICmd(e *env) *cobra.Command {
	var f exportFlags
	cmd := exportVerb(e, &f, &cobra.Command{
		Use:   "iscsi LABEL[@ID]",
		Short: "Write the configuration of tgt and of LIO for the packed root",
		Long: `Iscsi writes a target for tgtd and commands for targetcli. Use one of them. The disk
is LUN 1 with tgt, whose controller is LUN 0, and LUN 0 with LIO. With both, every
initiator can read and none can write.`,
		Example: `  netroot export iscsi debian12 --server 10.0.0.1
  netroot export iscsi debian12 --server 10.0.0.1 -o /srv/netroot`,
	}, func(x *exported) error {
		set, err := x.ISCSI(x.clients)
		return e.put(x, set, err)
	})
	f.registerClients(cmd)
	return cmd
}

func exportNFSCmd(e *env) *cobra.Command {
	var f exportFlags
	var o publish.NFSOptions
	cmd := exportVerb(e, &f, &cobra.Command{
		Use:   "nfs LABEL",
		Short: "Write an entry of exports.d for a label's tree",
		Long: `Nfs writes an entry for the kernel's NFS server. It exports the label's tree
read-only to the networks of --clients or of the configuration. The tree of a label
with "rw: true" is exported to one node, which can write to it.

With root_squash, the default, the server treats a node's root as nobody. Nodes then
cannot read files that only root can read, such as /etc/shadow; the export lists
them. --no-root-squash gives access to them.

With --packed it exports the directory of packed roots, and nodes mount a packed
root as a file (transport nfs-image). The owners and modes in it are the node's own.`,
		Example: `  netroot export nfs debian12 --server 10.0.0.1 --clients 10.0.0.0/24
  netroot export nfs debian12 --server 10.0.0.1 --clients 10.0.0.0/24 -o /srv
  netroot export nfs debian12 --server 10.0.0.1 --packed -o /srv`,
	}, func(x *exported) error {
		o.Clients = x.clients
		set, err := x.NFS(o)
		return e.put(x, set, err)
	})
	f.registerClients(cmd)
	cmd.Flags().BoolVar(&o.Packed, "packed", false, "export the packed root as a file instead of the tree")
	cmd.Flags().BoolVar(&o.NoSquash, "no-root-squash", false, "let a node's root read files that only root can read")
	cmd.Flags().BoolVar(&o.AnyPort, "for-vm", false, "accept ports above 1023 (insecure), as machines behind qemu's user network use them")
	return cmd
}
