package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"netroot/internal/boot"
	"netroot/internal/export"
	"netroot/internal/handoff"
	"netroot/internal/serve"
	"netroot/internal/site"
	"netroot/internal/store"
)

func exportCmd(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Write what a site's own servers need to boot a label",
		Long: `Export writes, for sites that keep servers of their own, the configuration that
has them boot a label: the kernel's NFS server, nbd-server, tgt or LIO for the root;
a TFTP directory with pxelinux; and what DHCP servers tell machines. Each prints
what to do with it, and the kernel arguments by which a node boots from it.

Without -o the text goes to standard output and nothing is written. With -o DIR
the files go there, and so does, under a name that has the image's id, the packed
root that they name: a link to the store's, or a copy. It never changes, whatever
is built later; a new image is exported again, beside the old one.

Everything is read-only, but a tree whose label says rw.`,
		Args: cobra.NoArgs,
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

func (f *exportFlags) register(cmd *cobra.Command, clients bool) {
	cmd.Flags().StringVar(&f.server, "server", "", "`address` by which nodes reach the server (default: the first of the label's servers)")
	cmd.Flags().StringVarP(&f.out, "output", "o", "-", "`directory` to write to, \"-\" for standard output")
	if clients {
		cmd.Flags().StringSliceVar(&f.clients, "clients", nil, "`addresses` and networks that may connect, such as 10.0.0.0/24")
	}
}

// exported is one image on its way to a site's servers.
type exported struct {
	f     exportFlags
	cfg   *site.Site
	im    *store.Image
	ref   string
	label *site.Label // nil when the configuration does not name it
	r     site.Request
}

// exported finds the image, and the server that nodes will be sent to.
func (e *env) exported(ref string, f exportFlags) (*exported, error) {
	cfg, err := e.config()
	if err != nil {
		return nil, err
	}
	_, im, err := openImage(cfg, ref)
	if err != nil {
		return nil, err
	}
	x := &exported{f: f, cfg: cfg, im: im, ref: ref, label: cfg.Labels[im.Label]}
	if f.server == "" && len(known(cfg, im.Label).Servers) > 0 {
		f.server = known(cfg, im.Label).Servers[0]
		if strings.Contains(f.server, ":") {
			f.server = "[" + f.server + "]"
		}
	}
	if f.server == "" {
		return nil, usage(fmt.Errorf("nodes must be told where the server is: --server ADDRESS, or servers: [ADDRESS] for the label %s", im.Label))
	}
	if f.out != "-" {
		if f.out, err = filepath.Abs(f.out); err != nil {
			return nil, err
		}
	}
	x.f = f
	x.r = site.Request{
		Machine: boot.Machine{Server: x.httpServer(), Ref: ref}, Image: serve.Facts(im), Label: im.Label,
		Listen: boot.StandardPorts(), Layers: e.layerFolder(cfg, slog.New(slog.DiscardHandler)),
	}
	return x, nil
}

// plan is what a node is told that boots from a site's own server by the transport. A label that is rw
// has a tree that nodes write to over NFS only: by any other transport they get the image.
func (x *exported) plan(t handoff.Transport, elsewhere boot.Elsewhere) (boot.Plan, error) {
	r := x.r
	r.Add.Transport, r.Add.ReadOnly, r.Add.Elsewhere = t, t != handoff.NFS, elsewhere
	return x.cfg.Plan(r)
}

// httpServer is the server with a port, as for a URL.
func (x *exported) httpServer() string {
	if _, _, err := net.SplitHostPort(x.f.server); err == nil {
		return x.f.server
	}
	return x.f.server + ":8010"
}

// packedName is the file name of a packed root beside others.
func packedName(im *store.Image) string { return im.Name() + "." + im.Config.RootFormat }

// root is the path by which servers will know the packed root: a name of its own in the output directory, or the store's.
func (x *exported) root() (string, error) {
	blob, err := partPath(x.im, store.RoleRoot)
	if err != nil || x.f.out == "-" {
		return blob, err
	}
	path := filepath.Join(x.f.out, packedName(x.im))
	return path, linkOrCopy(path, blob)
}

// linkOrCopy gives the file src the name dst as well, or, on another file system, copies it.
func linkOrCopy(dst, src string) error {
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return err
	}
	err := os.Link(src, dst)
	if err == nil {
		return nil
	}
	if errors.Is(err, fs.ErrExist) {
		same, serr := sameSize(dst, src)
		switch {
		case serr != nil:
			return serr
		case !same:
			return fmt.Errorf("%s is there and is something else: remove it and export again", dst)
		}
		return nil
	}
	if !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EMLINK) {
		return err
	}
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := renameio.NewPendingFile(dst, renameio.WithTempDir(filepath.Dir(dst)), renameio.WithStaticPermissions(0o644))
	if err != nil {
		return err
	}
	defer out.Cleanup()
	if _, err := out.ReadFrom(in); err != nil {
		return err
	}
	return out.CloseAtomicallyReplace()
}

func sameSize(a, b string) (bool, error) {
	x, err := os.Stat(a)
	if err != nil {
		return false, err
	}
	y, err := os.Stat(b)
	return err == nil && x.Size() == y.Size(), err
}

// put writes the set to where it was asked for, and says what to do with it.
func (e *env) put(f exportFlags, set export.Set) error {
	if f.out == "-" {
		_, err := fmt.Fprint(e.stdout, set.Text())
		return err
	}
	for _, file := range set.Files {
		path := filepath.Join(f.out, file.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := renameio.WriteFile(path, []byte(file.Text), 0o644, renameio.WithTempDir(filepath.Dir(path)), renameio.WithStaticPermissions(0o644)); err != nil {
			return err
		}
		verb := "goes to"
		if !filepath.IsAbs(file.For) {
			verb = "is for"
		}
		fmt.Fprintf(e.stdout, "%s %s %s\n", path, verb, file.For)
	}
	_, err := fmt.Fprint(e.stdout, set.Advice(""))
	return err
}

// clientsOf are those that may connect: the flag's, or else the configuration's networks.
func (x *exported) clientsOf() ([]netip.Prefix, error) {
	if len(x.f.clients) == 0 {
		return x.cfg.Networks, nil
	}
	clients, err := export.Clients(x.f.clients)
	return clients, usage(err)
}

// disk is the packed root as a disk for nodes.
func (x *exported) disk(t handoff.Transport, elsewhere boot.Elsewhere) (export.Disk, error) {
	plan, err := x.plan(t, elsewhere)
	if err != nil {
		return export.Disk{}, err
	}
	clients, err := x.clientsOf()
	if err != nil {
		return export.Disk{}, err
	}
	path, err := x.root()
	return export.Disk{Image: x.im.Name(), Path: path, Clients: clients, Cmdline: plan.Cmdline}, err
}

func exportNBDCmd(e *env) *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{
		Use:   "nbd LABEL[@ID]",
		Short: "Configuration of nbd-server for the packed root",
		Example: `  netroot export nbd debian12 --server 10.0.0.1
  netroot export nbd debian12 --server 10.0.0.1 --clients 10.0.0.0/24 -o /srv/netroot`,
		Args:              oneArg("label"),
		ValidArgsFunction: e.completeLabels,
		RunE: func(_ *cobra.Command, args []string) error {
			x, err := e.exported(args[0], f)
			if err != nil {
				return err
			}
			d, err := x.disk(handoff.NBD, boot.Elsewhere{})
			if err != nil {
				return err
			}
			set, err := export.NBD(d)
			if err != nil {
				return err
			}
			return e.put(x.f, set)
		},
	}
	f.register(cmd, true)
	return cmd
}

func exportISCSICmd(e *env) *cobra.Command {
	var f exportFlags
	cmd := &cobra.Command{
		Use:   "iscsi LABEL[@ID]",
		Short: "Configuration of tgt, and of LIO, for the packed root",
		Long: `Writes a target for tgtd and commands for targetcli, one of which you take. The disk
is LUN 1 with tgt, which keeps LUN 0 for its controller, and LUN 0 with LIO. In
both every initiator may read and none may write.`,
		Example: `  netroot export iscsi debian12 --server 10.0.0.1
  netroot export iscsi debian12 --server 10.0.0.1 -o /srv/netroot`,
		Args:              oneArg("label"),
		ValidArgsFunction: e.completeLabels,
		RunE: func(_ *cobra.Command, args []string) error {
			x, err := e.exported(args[0], f)
			if err != nil {
				return err
			}
			d, err := x.disk(handoff.ISCSI, boot.Elsewhere{LUN: export.TgtLUN})
			if err != nil {
				return err
			}
			lio, err := x.plan(handoff.ISCSI, boot.Elsewhere{})
			if err != nil {
				return err
			}
			set, err := export.ISCSI(d, lio.Cmdline)
			if err != nil {
				return err
			}
			return e.put(x.f, set)
		},
	}
	f.register(cmd, true)
	return cmd
}
