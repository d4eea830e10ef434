package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"netroot/internal/boot"
	"netroot/internal/serve"
	"netroot/internal/store"
)

func serveCmd(e *env) *cobra.Command {
	var httpAddr, nbdAddr, image string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve boot scripts, kernels and roots to machines",
		Long: `Serve boots machines from the images of the store: over HTTP the iPXE script,
the kernel and the initramfs, over NBD the packed root.

Point a machine's iPXE at http://SERVER:8010/boot/LABEL.ipxe: by the "filename"
that your DHCP server gives to iPXE clients, by a script embedded in iPXE, or by
hand with "chain". A machine gets the newest image of the label when it boots
and keeps that version for as long as it runs, whatever is built meanwhile.

Everything served is readable by everyone who reaches the two ports.`,
		Example: `  netroot serve
  netroot serve --http 10.0.0.1:8010 --nbd 10.0.0.1:10809
  netroot serve --image debian12        # NBD clients that name no export get this one`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.serve(cmd.Context(), httpAddr, nbdAddr, image)
		},
	}
	cmd.Flags().StringVar(&httpAddr, "http", ":8010", "`address` of the HTTP server")
	cmd.Flags().StringVar(&nbdAddr, "nbd", ":10809", "`address` of the NBD server")
	cmd.Flags().StringVar(&image, "image", "", "`image` for NBD clients that name none: LABEL or LABEL@ID")
	return cmd
}

func (e *env) serve(ctx context.Context, httpAddr, nbdAddr, image string) error {
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
	nbdListener, err := serve.Listen("--nbd", nbdAddr)
	if err != nil {
		httpListener.Close()
		return err
	}
	server, err := serve.New(serve.Config{
		Store:    s,
		Settings: func(name string) (boot.Settings, error) { return settings(cfg, name) },
		Default:  image,
		Log:      e.logger(),
	}, httpListener, nbdListener)
	if err != nil {
		return err
	}
	fmt.Fprintf(e.stderr, "netroot: serving %s: HTTP on %s, NBD on %s\n", s.Dir(), httpListener.Addr(), nbdListener.Addr())
	return server.Run(ctx)
}
