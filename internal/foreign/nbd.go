package foreign

import (
	"context"
	"net"
	"net/netip"
	"path/filepath"

	"netroot/internal/export"
	"netroot/internal/proto/nbd"
)

// NBD starts nbd-server with the disk for the connections of l, and returns when it serves the
// disk. The server closes l when it ends; after an error the caller does.
func NBD(ctx context.Context, l net.Listener, d export.Disk) (*Server, error) {
	s, err := prepare(l, "nbd-server.conf", func(listen netip.AddrPort) (string, error) { return export.NBDServer(d, listen) })
	if err != nil {
		return nil, err
	}
	// nbd-server runs in the background; only newer versions have an option against this.
	if err := s.start(ctx, nil, "nbd-server", "-C", filepath.Join(s.dir, "nbd-server.conf"), "-p", "/dev/null"); err != nil {
		return nil, err
	}
	err = s.ready(ctx, func(ctx context.Context) error {
		conn, err := enter(s.control, s.Addr.String())
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = nbd.Handshake(ctx, conn, d.Image)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}
