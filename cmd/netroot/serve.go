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
		Long: `Serve boots machines from the images of the store: over HTTP the iPXE script,
the kernel and the initramfs, over NVMe/TCP, NBD, iSCSI or NFS the packed root. A
label takes the transport that its configuration names, or the first of these
that its kernel has. An empty address leaves a server out.

Over NFS there are also the trees of those labels whose configuration says
"transport: nfs" or "rw: true", to machines of the networks that it names. The NFS
server requires root; without root it is not started.

Point a machine's iPXE at http://SERVER:8010/boot/LABEL.ipxe: by the "filename"
that your DHCP server gives to iPXE clients, by a script embedded in iPXE, or by
hand with "chain". A machine gets the newest image of the label when it boots
and keeps that version for as long as it runs, whatever is built meanwhile.

Everything served is readable by everyone who reaches the ports.

CONFIGURATION

Netroot.yaml is read again when it changes, and on SIGHUP; clients stay connected.
The log says what has changed. A file with an error changes nothing: the log names
file and line, and the revision that stays in force. Layers are rendered again
within a second of the last change. "state" and the flags need a restart.

There need not be a configuration, a store or an image yet: the log says what is
not served, and an image is served when its build is done.

Without "rw" or "transport: nfs" a label's tree is not given to further machines;
machines that have it keep it until they leave.

DAEMON

"netroot plan" asks the running daemon through the socket of --socket, by default
/run/netroot/netroot.sock for root and $XDG_RUNTIME_DIR/netroot/netroot.sock for
others; with another state directory than /var/lib/netroot the name has a digest
of that directory. The daemon's health is GET /healthz there and at the address of
--health: JSON, status 200 when every task is ready and 503 when one is not. The
HTTP server for machines tells the status alone.

Under systemd, serve reports readiness (Type=notify-reload) and takes sockets whose
FileDescriptorName= is http, nvme, nbd, iscsi, nfs, portmap, health or api.

When its ports are open, a process of root drops all capabilities but these:

    all tasks    dac_read_search
    nfs          chown dac_override fowner fsetid mknod setgid setuid, and while
                 it opens a tree sys_admin (open_tree(2))

With SIGTERM or SIGINT the tasks end in order; the exit status is 143 or 130.

ONE COMMAND

With --run the servers are captive: they listen on free ports of 127.0.0.1, where
no address is given, a shell runs the command, and when it ends they end. Only
warnings are logged, and the exit status is the command's. Its environment names
the packed root of --image as foreign clients do:

    NETROOT_HTTP    URL, for curl and the like
    NETROOT_NBD     NBD URI, for libnbd and qemu
    NETROOT_ISCSI   iSCSI URL, for libiscsi and qemu
    NETROOT_NFS     NFS URL, for libnfs (root only)
    NETROOT_NVME    options of "nvme connect", to be used without quotes

With --tls-cert the NBD server speaks TLS with clients that ask for it (STARTTLS),
such as libnbd with nbds://. Nodes do not: their kernel's client has no TLS.`,
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
	fl := cmd.Flags()
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
	return cmd
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
		if sc.NFS.Key, err = nfsKey(cfg.State); err != nil {
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
