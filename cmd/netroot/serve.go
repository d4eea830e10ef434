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
	"netroot/internal/site"
	"netroot/internal/store"
	"netroot/internal/systemd"
)

// serveFlags are the flags of "netroot serve".
type serveFlags struct {
	http           string
	roots          map[handoff.Transport]*string // addresses
	image, run     string
	nfsAnyPort     bool
	portmap        string
	health, socket string
	tls            tlsFlags
}

func serveCmd(e *env) *cobra.Command {
	f := serveFlags{roots: map[handoff.Transport]*string{handoff.NVMe: new(string), handoff.NBD: new(string), handoff.ISCSI: new(string), handoff.NFS: new(string)}}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve boot scripts, kernels and roots to machines",
		Long:  serveHelp,
		Example: `  netroot serve
  netroot serve --http 10.0.0.1:8010 --nvme 10.0.0.1:4420 --nbd '' --iscsi ''
  netroot serve --image debian12        # for NBD clients that name no export
  netroot serve --image debian12 --run 'nbdcopy "$NETROOT_NBD" root.squashfs'`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !cmd.Flags().Changed("nfs") && os.Geteuid() != 0 {
				*f.roots[handoff.NFS] = "" // handles of files are for root (open_by_handle_at(2))
			}
			if f.run != "" {
				f.captive(cmd.Flags().Changed)
				return e.serveOne(cmd.Context(), f)
			}
			return e.serve(cmd.Context(), f)
		},
	}
	f.register(cmd.Flags())
	return cmd
}

func (f *serveFlags) register(fl *pflag.FlagSet) {
	fl.StringVar(&f.http, "http", ":8010", "`address` of the HTTP server")
	fl.StringVar(f.roots[handoff.NVMe], "nvme", ":4420", "`address` of the NVMe/TCP server")
	fl.StringVar(f.roots[handoff.NBD], "nbd", ":10809", "`address` of the NBD server")
	fl.StringVar(f.roots[handoff.ISCSI], "iscsi", ":3260", "`address` of the iSCSI server")
	fl.StringVar(f.roots[handoff.NFS], "nfs", ":2049", "`address` of the NFS server, which requires root")
	fl.BoolVar(&f.nfsAnyPort, "nfs-any-port", false, "export trees also to ports above 1023, which any user of a machine may open: for machines behind an address translation")
	fl.StringVar(&f.portmap, "portmap", "", "`address` of a portmapper for NFS clients that ask one, such as :111 (default: none; nodes need none)")
	fl.StringVar(&f.image, "image", "", "`image` for NBD clients that name none, and for --run: LABEL or LABEL@ID")
	fl.StringVar(&f.run, "run", "", "serve for as long as this shell `command` runs, on ports of its own")
	fl.StringVar(&f.health, "health", "", "`address` of an HTTP server that tells the daemon's health (default: none)")
	fl.StringVar(&f.socket, "socket", ownSocket, "`file` of the Unix socket for commands; '' is none")
	f.tls.register(fl)
}

// config is what a server serves in any case.
func (f serveFlags) config(cfg *site.Site, log *slog.Logger) (serve.Config, error) {
	sc := serve.Config{Store: store.At(cfg.Images()), Site: cfg, Default: imageName(cfg, f.image), Log: log, NFS: serve.NFS{AnyPort: f.nfsAnyPort}}
	var err error
	if sc.TLS, sc.RequireTLS, err = f.tls.load(); err != nil {
		return sc, usage(err)
	}
	if f.portmap != "" && *f.roots[handoff.NFS] == "" {
		return sc, usage(errors.New("--portmap tells where the NFS server is, and there is none: run this as root, or give --nfs"))
	}
	return sc, nil
}

// serveOne serves one image for as long as a command runs.
func (e *env) serveOne(ctx context.Context, f serveFlags) error {
	cfg, err := e.config()
	if err != nil {
		return err
	}
	sc, err := f.config(cfg, e.logger(slog.LevelWarn))
	if err != nil {
		return err
	}
	var im *store.Image
	if f.image != "" {
		if _, im, err = openImage(cfg, f.image); err != nil {
			return err
		}
	}
	if *f.roots[handoff.NFS] != "" {
		if sc.NFS.Key, err = serve.NFSKey(cfg.State); err != nil {
			return err
		}
	}
	l, err := f.listen(systemd.Sockets{})
	if err != nil {
		return err // the process ends, and with it the listeners
	}
	sc.NFS.Portmap = l.portmap
	sc.Layers = e.layerFolder(cfg, sc.Log)
	return e.serveCaptive(ctx, f.run, sc, im, l.http, l.roots)
}

// listeners are the sockets of a server.
type listeners struct {
	http    net.Listener
	roots   map[handoff.Transport]net.Listener
	portmap *serve.Portmap
}

// String says where which server listens.
func (l listeners) String() string {
	said := []string{"HTTP on " + l.http.Addr().String()}
	for _, t := range handoff.Transports() {
		if root := l.roots[t]; root != nil {
			said = append(said, string(t)+" on "+root.Addr().String())
		}
	}
	return strings.Join(said, ", ")
}

// listen opens a listener for every address, where systemd has not.
func (f serveFlags) listen(given systemd.Sockets) (l listeners, err error) {
	stream := func(name, address string) (net.Listener, error) {
		if s := given.Stream(name); s != nil {
			return s, nil
		}
		if address == "" {
			return nil, nil
		}
		return serve.Listen("--"+name, address)
	}
	if l.http, err = stream("http", f.http); err != nil {
		return l, err
	}
	if l.http == nil {
		return l, usage(errors.New("--http: machines need the HTTP server: give it an address"))
	}
	l.roots = map[handoff.Transport]net.Listener{}
	for t, address := range f.roots {
		root, err := stream(string(t), *address)
		if err != nil {
			return l, err
		}
		if root != nil {
			l.roots[t] = root
		}
	}
	if l.roots[handoff.NFS] == nil {
		return l, nil
	}
	tcp, udp := given.Stream("portmap"), given.Packet("portmap")
	switch {
	case tcp != nil && udp != nil:
		l.portmap = &serve.Portmap{TCP: tcp, UDP: udp}
	case tcp != nil || udp != nil:
		return l, errors.New("systemd: a portmapper needs a stream and a datagram socket, both called portmap")
	case f.portmap != "":
		l.portmap, err = serve.ListenPortmap("--portmap", f.portmap)
	}
	return l, err
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
		return nil, false, errors.New("TLS requires a certificate and its key: give both --tls-cert and --tls-key")
	}
	pair, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return nil, false, fmt.Errorf("certificate %s with key %s: %w", f.cert, f.key, err)
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}}, f.require, nil
}
