package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"netroot/internal/boot"
	"netroot/internal/export"
	"netroot/internal/foreign"
	"netroot/internal/handoff"
	"netroot/internal/kernel"
	"netroot/internal/publish"
	"netroot/internal/site"
	"netroot/internal/store"
	"netroot/internal/vm"
)

// kernelServer is what --server takes instead of an address for the servers that
// sites have: nbd-server, tgtd, and a kernel's NFS server.
const kernelServer = "kernel"

// siteServer is a running server of a root that is not ours.
type siteServer struct {
	server interface {
		Close()
		Description() string
	}
	transport handoff.Transport
	port      uint16
	elsewhere boot.Elsewhere
}

// Close ends the server.
func (s *siteServer) Close() { s.server.Close() }

// startSite starts the site's server of the transport that the settings ask for,
// configured as "netroot export" does it.
func (e *env) startSite(ctx context.Context, cfg *site.Site, im *store.Image, r site.Request, accel vm.Accel) (*siteServer, error) {
	set, err := cfg.Settings(r)
	if err != nil {
		return nil, noLayers(err)
	}
	root, err := publish.Part(im, store.RoleRoot)
	if err != nil {
		return nil, err
	}
	s := &siteServer{transport: siteTransport(im, set)}
	switch d := (export.Disk{Image: im.Name(), Path: root}); s.transport {
	case handoff.NBD:
		err = s.disk(foreign.NBD(ctx, d))
	case handoff.ISCSI:
		s.elsewhere.LUN = export.TgtLUN
		err = s.disk(foreign.ISCSI(ctx, d))
	case handoff.NFS:
		fmt.Fprintln(e.stderr, "netroot: starting a machine for the kernel's NFS server")
		err = s.nfs(ctx, cfg, im, set, root, accel)
	default:
		err = usage(fmt.Errorf("--server kernel wants --transport nbd, iscsi or nfs, not %s: sites have nbd-server, tgtd and the kernel's NFS server for these", s.transport))
	}
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(e.stderr, "netroot: the root comes by %s from %s\n", s.transport, s.server.Description())
	return s, nil
}

func (s *siteServer) disk(server *foreign.Server, err error) error {
	if err == nil {
		s.server, s.port = server, server.Addr.Port()
	}
	return err
}

// nfs has the kernel's server export the packed root as the label's tree, to the
// address that qemu's user network gives to this host's machines.
func (s *siteServer) nfs(ctx context.Context, cfg *site.Site, im *store.Image, set boot.Settings, root string, accel vm.Accel) error {
	if set.RW {
		return usage(errors.New("--server kernel serves the image, to which nobody can write: leave out --rw, or --server to have the tree from netroot's own server"))
	}
	tree := cfg.Tree(im.Label)
	k, err := kernel.Find(tree, im.Config.KernelRelease)
	if err != nil {
		return fmt.Errorf("the machine of the NFS server takes its modules from the tree of %s: %w", im.Label, err)
	}
	image, err := publish.Part(im, store.RoleKernel)
	if err != nil {
		return err
	}
	server, err := foreign.NFS(ctx,
		foreign.Kernel{Image: image, ModuleDir: filepath.Join(tree, k.ModuleDir)},
		foreign.Packed{Path: root, FSType: im.Config.RootFormat},
		export.Tree{
			Label: im.Label, Path: tree, Insecure: true, NoSquash: true,
			Clients: []netip.Prefix{netip.MustParsePrefix(vm.GuestHost + "/32")},
		}, accel)
	if err != nil {
		return err
	}
	s.server, s.port = server, server.Addr.Port()
	s.elsewhere = boot.Elsewhere{Path: tree, MountPort: server.Mount.Port()}
	return nil
}

// siteTransport is the one that is asked for, or the first that the image's
// kernel and sites have.
func siteTransport(im *store.Image, set boot.Settings) handoff.Transport {
	switch {
	case set.Transport != "":
		return set.Transport
	case set.RW:
		return handoff.NFS
	case !slices.Contains(im.Config.Transports, handoff.NBD):
		return handoff.ISCSI
	}
	return handoff.NBD
}
