package trial

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"

	"netroot/internal/boot"
	"netroot/internal/export"
	"netroot/internal/foreign"
	"netroot/internal/gate"
	"netroot/internal/handoff"
	"netroot/internal/kernel"
	"netroot/internal/publish"
	"netroot/internal/store"
	"netroot/internal/vm"
)

// foreignServer is a running server of the root that is not netroot's.
type foreignServer struct {
	server interface {
		Close()
		Description() string
	}
	transport handoff.Transport
	port      uint16
	elsewhere boot.Elsewhere
	listeners []net.Listener
}

// Close ends the server, if it was started.
func (s *foreignServer) Close() {
	if s.server != nil {
		s.server.Close()
	}
	for _, l := range s.listeners {
		l.Close()
	}
}

// listen makes a listener for the process that is admitted.
func (s *foreignServer) listen(g *gate.Gate, n int) error {
	for range n {
		l, err := guarded(g, "the server of "+string(s.transport))
		if err != nil {
			return err
		}
		s.listeners = append(s.listeners, l)
	}
	s.port = uint16(s.listeners[0].Addr().(*net.TCPAddr).Port)
	return nil
}

// startForeign starts the kind of server that sites have for the transport, configured as "netroot
// export" does it. It serves the connections that the gate admits. The caller closes it, whatever
// the error is.
func (o Options) startForeign(ctx context.Context, g *gate.Gate) (*foreignServer, error) {
	s := new(foreignServer)
	set, err := o.Site.Settings(o.Request)
	if err != nil {
		return s, err
	}
	root, err := publish.Part(o.Image, store.RoleRoot)
	if err != nil {
		return s, err
	}
	s.transport = foreignTransport(o.Image, set)
	if err := s.listen(g, 2); err != nil {
		return s, err
	}
	switch d := (export.Disk{Image: o.Image.Name(), Path: root}); s.transport {
	case handoff.NBD:
		err = s.disk(foreign.NBD(ctx, s.listeners[0], d))
	case handoff.ISCSI:
		s.elsewhere.LUN = export.TgtLUN
		err = s.disk(foreign.ISCSI(ctx, s.listeners[0], d))
	case handoff.NFS:
		o.Say("starting a machine for the kernel's NFS server")
		err = s.nfs(ctx, o, set, root)
	default:
		err = publish.WrongOption("--server kernel requires --transport nbd, iscsi or nfs, not %s: these are served by nbd-server, tgtd and the kernel's NFS server", s.transport)
	}
	if err != nil {
		return s, err
	}
	o.Say(fmt.Sprintf("the root comes over %s from %s", s.transport, s.server.Description()))
	return s, nil
}

func (s *foreignServer) disk(server *foreign.Server, err error) error {
	if err == nil {
		s.server = server
	}
	return err
}

// nfs has a kernel's server export the packed root as the label's tree, to the address that qemu's
// user network gives to this host's machines.
func (s *foreignServer) nfs(ctx context.Context, o Options, set boot.Settings, root string) error {
	if set.RW {
		return publish.WrongOption("--server kernel serves the image, which no machine can write to: leave out --rw, or leave out --server to have netroot's own server export the tree")
	}
	tree := o.Site.Tree(o.Request.Label)
	k, err := kernel.Find(tree, o.Image.Config.KernelRelease)
	if err != nil {
		return fmt.Errorf("the machine of the NFS server takes its modules from the tree of %s: %w", o.Request.Label, err)
	}
	image, err := publish.Part(o.Image, store.RoleKernel)
	if err != nil {
		return err
	}
	server, err := foreign.NFS(ctx, s.listeners[0], s.listeners[1],
		foreign.Kernel{Image: image, ModuleDir: filepath.Join(tree, k.ModuleDir)},
		foreign.Packed{Path: root, FSType: o.Image.Config.RootFormat},
		export.Tree{
			Label: o.Request.Label, Path: tree, Insecure: true, NoSquash: true,
			Clients: []netip.Prefix{netip.MustParsePrefix(vm.GuestHost + "/32")},
		}, o.Accel)
	if err != nil {
		return err
	}
	s.server = server
	s.elsewhere = boot.Elsewhere{Path: tree, MountPort: server.Mount.Port()}
	return nil
}

// foreignTransport is the one that is asked for, or the first that both the image's kernel and
// sites have.
func foreignTransport(im *store.Image, set boot.Settings) handoff.Transport {
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
