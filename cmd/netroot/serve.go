package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"netroot/internal/handoff"
	"netroot/internal/serve"
	"netroot/internal/store"
)

// serveFlags are the flags of "netroot serve".
type serveFlags struct {
	http       string
	roots      map[handoff.Transport]*string // addresses
	image, run string
	nfsAnyPort bool
	portmap    string
	tls        tlsFlags
}

func serveCmd(e *env) *cobra.Command {
	f := serveFlags{roots: map[handoff.Transport]*string{handoff.NVMe: new(string), handoff.NBD: new(string), handoff.ISCSI: new(string), handoff.NFS: new(string)}}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve boot scripts, kernels and roots to machines",
		Long: `Serve boots machines from the images of the store: over HTTP the iPXE script,
the kernel and the initramfs, over NVMe/TCP, NBD, iSCSI or NFS the packed root. A
label takes the transport that its configuration names, or the first of these
that its kernel has. An empty address leaves a server out.

By NFS there are also the trees of those labels whose configuration says
"transport: nfs" or "rw: true", to machines of the networks that it names. That
server wants root, and is left out without.

Point a machine's iPXE at http://SERVER:8010/boot/LABEL.ipxe: by the "filename"
that your DHCP server gives to iPXE clients, by a script embedded in iPXE, or by
hand with "chain". A machine gets the newest image of the label when it boots
and keeps that version for as long as it runs, whatever is built meanwhile.

Everything served is readable by everyone who reaches the ports.

With --run the servers are captive: they listen on free ports of 127.0.0.1, where
no address is given, a shell runs the command, and when it ends they end. Only
warnings are logged, and the exit status is the command's. Its environment names
the packed root of --image as foreign clients do:

    NETROOT_HTTP    URL, for curl and the like
    NETROOT_NBD     NBD URI, for libnbd and qemu
    NETROOT_ISCSI   iSCSI URL, for libiscsi and qemu
    NETROOT_NFS     NFS URL, for libnfs (root only)
    NETROOT_NVME    options of "nvme connect", to stand there without quotes

With --tls-cert the NBD server speaks TLS with clients that ask for it (STARTTLS),
such as libnbd by nbds://. Nodes do not: their kernel's client has no TLS.`,
		Example: `  netroot serve
  netroot serve --http 10.0.0.1:8010 --nvme 10.0.0.1:4420 --nbd '' --iscsi ''
  netroot serve --image debian12        # NBD clients that name no export get this one
  netroot serve --image debian12 --run 'nbdcopy "$NETROOT_NBD" root.squashfs'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("nfs") && os.Geteuid() != 0 {
				*f.roots[handoff.NFS] = "" // handles of files are for root (open_by_handle_at(2))
			}
			if f.run != "" {
				f.captive(cmd.Flags().Changed)
			}
			return e.serve(cmd.Context(), f)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.http, "http", ":8010", "`address` of the HTTP server")
	fl.StringVar(f.roots[handoff.NVMe], "nvme", ":4420", "`address` of the NVMe/TCP server")
	fl.StringVar(f.roots[handoff.NBD], "nbd", ":10809", "`address` of the NBD server")
	fl.StringVar(f.roots[handoff.ISCSI], "iscsi", ":3260", "`address` of the iSCSI server")
	fl.StringVar(f.roots[handoff.NFS], "nfs", ":2049", "`address` of the NFS server, which wants root")
	fl.BoolVar(&f.nfsAnyPort, "nfs-any-port", false, "export trees to ports above 1023, too, which any user of a machine may open: for machines behind an address translation")
	fl.StringVar(&f.portmap, "portmap", "", "`address` of a portmapper for NFS clients that ask one, such as :111 (default: none; nodes need none)")
	fl.StringVar(&f.image, "image", "", "`image` for NBD clients that name none, and for --run: LABEL or LABEL@ID")
	fl.StringVar(&f.run, "run", "", "serve for as long as this shell `command` runs, on ports of its own")
	f.tls.register(fl)
	return cmd
}

func (e *env) serve(ctx context.Context, f serveFlags) error {
	cfg, err := e.config()
	if err != nil {
		return err
	}
	s, err := store.Open(cfg.Images())
	if err != nil {
		return err
	}
	least := slog.LevelInfo
	if f.run != "" {
		least = slog.LevelWarn
	}
	log := e.logger(least)
	folder := e.layerFolder(cfg, log)
	sc := serve.Config{
		Store:   s,
		Site:    cfg,
		Layers:  folder,
		Default: f.image,
		Log:     log,
	}
	var im *store.Image
	if f.image != "" {
		if _, im, err = openImage(cfg, f.image); err != nil {
			return err
		}
	}
	if sc.TLS, sc.RequireTLS, err = f.tls.load(); err != nil {
		return usage(err)
	}
	if f.portmap != "" && *f.roots[handoff.NFS] == "" {
		return usage(errors.New("--portmap tells where the NFS server is, and there is none: run this as root, or give --nfs"))
	}
	if *f.roots[handoff.NFS] != "" {
		if sc.NFS, err = nfsExports(cfg); err != nil {
			return err
		}
		sc.NFS.AnyPort = f.nfsAnyPort
		if f.portmap != "" {
			if sc.NFS.Portmap, err = serve.ListenPortmap("--portmap", f.portmap); err != nil {
				return err
			}
		}
	}
	http, roots, err := f.listen()
	if err != nil {
		return err // the process ends, and with it the listeners
	}
	if f.run != "" {
		return e.serveCaptive(ctx, f.run, sc, im, http, roots)
	}
	renderLayers(cfg, folder, log)
	server, err := serve.New(sc, http, roots)
	if err != nil {
		return err
	}
	said := []string{"HTTP on " + http.Addr().String()}
	for _, t := range handoff.Transports() {
		if l := roots[t]; l != nil {
			said = append(said, string(t)+" on "+l.Addr().String())
		}
	}
	fmt.Fprintf(e.stderr, "netroot: serving %s: %s\n", s.Dir(), strings.Join(said, ", "))
	return server.Run(ctx)
}

// listen opens a listener for every address.
func (f serveFlags) listen() (http net.Listener, roots map[handoff.Transport]net.Listener, err error) {
	if http, err = serve.Listen("--http", f.http); err != nil {
		return nil, nil, err
	}
	roots = map[handoff.Transport]net.Listener{}
	for t, address := range f.roots {
		if *address == "" {
			continue
		}
		if roots[t], err = serve.Listen("--"+string(t), *address); err != nil {
			return nil, nil, err
		}
	}
	return http, roots, nil
}

// tlsFlags say how the NBD server speaks TLS.
type tlsFlags struct {
	cert, key string
	require   bool
}

func (f *tlsFlags) register(fl *pflag.FlagSet) {
	fl.StringVar(&f.cert, "tls-cert", "", "`file` with the certificate of the NBD server, and those between it and its authority, PEM")
	fl.StringVar(&f.key, "tls-key", "", "`file` with the private key of that certificate, PEM")
	fl.BoolVar(&f.require, "tls-require", false, "refuse NBD clients without TLS, which all nodes are")
}

func (f tlsFlags) load() (*tls.Config, bool, error) {
	switch {
	case f == tlsFlags{}:
		return nil, false, nil
	case f.cert == "" || f.key == "":
		return nil, false, errors.New("TLS wants a certificate and its key: give both --tls-cert and --tls-key")
	}
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, false, fmt.Errorf("certificate %s with key %s: %w", f.cert, f.key, err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}, f.require, nil
}
