package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"netroot/internal/boot"
	"netroot/internal/export"
	"netroot/internal/foreign"
	"netroot/internal/handoff"
	"netroot/internal/store"
)

// kernelServer is what --server takes instead of an address for the servers that
// sites have: nbd-server and tgtd.
const kernelServer = "kernel"

// site is a running server of a root that is not ours.
type site struct {
	*foreign.Server
	transport handoff.Transport
	elsewhere boot.Elsewhere
}

// startSite starts the site's server of the transport that the settings ask for,
// configured as "netroot export" does it.
func (e *env) startSite(ctx context.Context, im *store.Image, set boot.Settings) (*site, error) {
	blob, ok, err := im.Blob(store.RoleRoot)
	if err == nil && !ok {
		err = fmt.Errorf("image %s has no packed root", im.Name())
	}
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	path, err := filepath.Abs(blob.Path())
	if err != nil {
		return nil, err
	}
	d := export.Disk{Image: im.Name(), Path: path}
	s := &site{transport: siteTransport(im, set)}
	switch s.transport {
	case handoff.NBD:
		s.Server, err = foreign.NBD(ctx, d)
	case handoff.ISCSI:
		s.elsewhere.LUN = export.TgtLUN
		s.Server, err = foreign.ISCSI(ctx, d)
	default:
		return nil, usage(fmt.Errorf("--server kernel wants --transport nbd or iscsi, not %s: sites have nbd-server and tgtd for these", s.transport))
	}
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(e.stderr, "netroot: the root comes by %s from %s\n", s.transport, s.Description())
	return s, nil
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

// point points the settings at the server.
func (s *site) point(set *boot.Settings) {
	set.Transport, set.Elsewhere = s.transport, s.elsewhere
	set.Ports = map[handoff.Transport]uint16{s.transport: s.Addr.Port()}
}
