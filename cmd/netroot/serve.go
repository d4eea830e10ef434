package main

import (
	"context"
	"fmt"
	"net"
	"strings"

	"github.com/spf13/cobra"

	"netroot/internal/boot"
	"netroot/internal/handoff"
	"netroot/internal/serve"
	"netroot/internal/store"
)

func serveCmd(e *env) *cobra.Command {
	var httpAddr, image string
	roots := map[handoff.Transport]*string{handoff.NVMe: new(string), handoff.NBD: new(string), handoff.ISCSI: new(string)}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve boot scripts, kernels and roots to machines",
		Long: `Serve boots machines from the images of the store: over HTTP the iPXE script,
the kernel and the initramfs, over NVMe/TCP, NBD or iSCSI the packed root. A
label takes the transport that its configuration names, or the first of these
that its kernel has. An empty address leaves a server out.

Point a machine's iPXE at http://SERVER:8010/boot/LABEL.ipxe: by the "filename"
that your DHCP server gives to iPXE clients, by a script embedded in iPXE, or by
hand with "chain". A machine gets the newest image of the label when it boots
and keeps that version for as long as it runs, whatever is built meanwhile.

Everything served is readable by everyone who reaches the ports.`,
		Example: `  netroot serve
  netroot serve --http 10.0.0.1:8010 --nvme 10.0.0.1:4420 --nbd '' --iscsi ''
  netroot serve --image debian12        # NBD clients that name no export get this one`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.serve(cmd.Context(), httpAddr, image, roots)
		},
	}
	cmd.Flags().StringVar(&httpAddr, "http", ":8010", "`address` of the HTTP server")
	cmd.Flags().StringVar(roots[handoff.NVMe], "nvme", ":4420", "`address` of the NVMe/TCP server")
	cmd.Flags().StringVar(roots[handoff.NBD], "nbd", ":10809", "`address` of the NBD server")
	cmd.Flags().StringVar(roots[handoff.ISCSI], "iscsi", ":3260", "`address` of the iSCSI server")
	cmd.Flags().StringVar(&image, "image", "", "`image` for NBD clients that name none: LABEL or LABEL@ID")
	return cmd
}

func (e *env) serve(ctx context.Context, httpAddr, image string, roots map[handoff.Transport]*string) error {
	cfg, err := e.config()
	if err != nil {
		return err
	}
	s, err := store.Open(cfg.Images())
	if err != nil {
		return err
	}
	if image != "" {
		if _, _, err := openImage(cfg, image); err != nil {
			return err
		}
	}
	httpListener, err := serve.Listen("--http", httpAddr)
	if err != nil {
		return err
	}
	listeners := map[handoff.Transport]net.Listener{}
	said := []string{"HTTP on " + httpListener.Addr().String()}
	for _, t := range handoff.Transports() {
		if roots[t] == nil || *roots[t] == "" {
			continue
		}
		if listeners[t], err = serve.Listen("--"+string(t), *roots[t]); err != nil {
			return err // the process ends, and with it the listeners
		}
		said = append(said, string(t)+" on "+listeners[t].Addr().String())
	}
	server, err := serve.New(serve.Config{
		Store:    s,
		Settings: func(name string) (boot.Settings, error) { return settings(cfg, name) },
		Default:  image,
		Log:      e.logger(),
	}, httpListener, listeners)
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stderr, "netroot: serving %s: %s\n", s.Dir(), strings.Join(said, ", "))
	return server.Run(ctx)
}
