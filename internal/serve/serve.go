// Package serve answers booting machines: over HTTP the boot script, the kernel, the initial RAM file systems and layers,
// and over NBD, NVMe/TCP, iSCSI and NFS the root. All of it comes from one image store.
//
// It builds nothing and decides nothing: what a machine is told is package boot's decision, made anew for each request
// from the store and the configuration as they are then. Everything it sends is public on the boot network; it knows no
// secrets and no users.
package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"netroot/internal/boot"
	"netroot/internal/handoff"
	"netroot/internal/proto/accept"
	"netroot/internal/site"
	"netroot/internal/store"
)

// Config is what a Server serves.
type Config struct {
	Store *store.Store
	// Site says how machines of a label boot, and Add what is added to that for all of them. Nil: every label has its
	// defaults. What is wrong reaches the machine's console.
	Site *site.Site
	Add  site.Additions
	// Ports are those of other servers of roots, to which machines are sent for what has no listener here.
	Ports boot.Ports
	// Layers has the layers that are served. Nil: there are none.
	Layers *Layers
	// NFS says what the NFS server exports.
	NFS NFS
	// Default is the image that an NBD client gets who names no export, as store.Resolve takes it. Empty: none.
	Default string
	// TLS is what the NBD server offers to clients that ask for it, nil: nothing; RequireTLS has it refuse the others, and
	// with them every node, whose kernel has no TLS for NBD.
	TLS        *tls.Config
	RequireTLS bool
	// Log gets one line for each request and each NBD client. Nil discards.
	Log *slog.Logger
}

// Server is an HTTP server and servers of roots over one store.
type Server struct {
	cfg     Config
	catalog *catalog
	exports *exports
	http    net.Listener
	roots   map[handoff.Transport]net.Listener
}

// Listen opens a TCP listener for a Server. The option is what the user sets the address with, for the error that says
// what to do.
func Listen(option, address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return nil, fmt.Errorf("%s is in use; choose another with %s", address, option)
	case errors.Is(err, unix.EACCES):
		return nil, fmt.Errorf("%s is for root only; choose a port above 1023 with %s", address, option)
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s is not an address of this machine; choose another with %s", address, option)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", option, err)
	}
	return l, nil
}

// New makes a Server that will accept on the listeners: the roots' by transport. They queue clients from now on, so whoever
// has a Server may send machines to it before Run is under way. A transport without a listener is left to another server,
// whose port Settings name.
func New(cfg Config, httpListener net.Listener, roots map[handoff.Transport]net.Listener) (*Server, error) {
	for t, l := range roots {
		if _, ok := l.Addr().(*net.TCPAddr); !ok || serverOf[t] == nil {
			return nil, fmt.Errorf("%s listener %s: machines need a TCP port, and a transport that is served over one", t, l.Addr())
		}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Site == nil {
		cfg.Site = site.Empty()
	}
	if cfg.Layers == nil {
		cfg.Layers = NewLayers("", cfg.Log)
	}
	return &Server{cfg: cfg, catalog: newCatalog(cfg.Store, cfg.Log), exports: newExports(cfg), http: httpListener, roots: roots}, nil
}

// rootServer is a server of one protocol.
type rootServer interface {
	Serve(ctx context.Context, l net.Listener) error
}

// serverOf makes the server of each transport that has one of its own.
var serverOf = map[handoff.Transport]func(*Server) rootServer{
	handoff.NBD:   (*Server).nbdServer,
	handoff.NVMe:  (*Server).nvmeServer,
	handoff.ISCSI: (*Server).iscsiServer,
	handoff.NFS:   (*Server).nfsServer,
}

// Run serves until ctx ends or a listener fails, closes both listeners and ends all connections. Transfers that are under
// way get a moment to finish. It returns nil when it was ctx that ended it.
func (s *Server) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return s.runHTTP(ctx) })
	for t, l := range s.roots {
		group.Go(func() error { return serverOf[t](s).Serve(ctx, l) })
	}
	group.Go(func() error { return s.runPortmap(ctx) })
	defer s.exports.close()
	return group.Wait()
}

// Time limits of HTTP. The write limit is generous, for it bounds a whole transfer over whatever link a machine has.
const (
	headerTimeout = 10 * time.Second
	writeTimeout  = time.Hour
	idleTimeout   = 2 * time.Minute
	closeGrace    = time.Second
)

// maxHTTPConns bounds the connections of the HTTP server, as the other servers' are.
const maxHTTPConns = 16384

// atMost follows the connections of an HTTP server, and tells those above the limit so.
func atMost(limit int64, log *slog.Logger) func(net.Conn, http.ConnState) {
	var open atomic.Int64
	return func(nc net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			accept.Tune(nc)
			if open.Add(1) > limit {
				log.Warn("http: refused", "peer", nc.RemoteAddr().String(), "why", fmt.Sprintf("more than %d connections", limit))
				// Nobody has asked yet, but the answer is the same to everything. It fits into the socket's buffer.
				io.WriteString(nc, "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 10\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				nc.Close()
			}
		case http.StateClosed, http.StateHijacked:
			open.Add(-1)
		}
	}
}

func (s *Server) runHTTP(ctx context.Context) error {
	server := http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout, // requests have no bodies
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    16 << 10,
		ConnState:         atMost(maxHTTPConns, s.cfg.Log),
		ErrorLog:          slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelWarn),
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(s.http) }()
	select {
	case err := <-failed:
		return fmt.Errorf("HTTP on %s: %w", s.http.Addr(), err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeGrace)
	defer cancel()
	if server.Shutdown(grace) != nil {
		server.Close()
	}
	<-failed
	return nil
}

// Plan decides what machine m is told when it asks for the image m.Ref.
func (s *Server) Plan(m boot.Machine) (boot.Plan, error) {
	im, err := s.catalog.resolve(m.Ref)
	if err != nil {
		return boot.Plan{}, err
	}
	r := site.Request{Machine: m, Image: Facts(im), Label: im.Label, Layers: s.cfg.Layers, Add: s.cfg.Add}
	r.Listen, r.Withheld = s.ports()
	settings, err := s.cfg.Site.Settings(r)
	if err != nil {
		return boot.Plan{}, err
	}
	if s.roots[handoff.NFS] != nil && (settings.Transport == handoff.NFS || settings.RW) {
		if err := s.exports.ready(im.Label, m.Address); err != nil {
			return boot.Plan{}, err
		}
	}
	s.catalog.given(im)
	return boot.Decide(m, r.Image, settings)
}

// ports are where nodes find the servers of roots, and which of them are not for nodes.
func (s *Server) ports() (ports boot.Ports, withheld map[handoff.Transport]string) {
	ports = boot.Ports{}
	maps.Copy(ports, s.cfg.Ports)
	for t, l := range s.roots {
		ports[t] = uint16(l.Addr().(*net.TCPAddr).Port)
	}
	if s.cfg.RequireTLS && s.roots[handoff.NBD] != nil {
		withheld = map[handoff.Transport]string{
			handoff.NBD: "it requires TLS (--tls-require), which no node speaks: choose another transport, or start it without",
		}
	}
	return ports, withheld
}

// Facts are what package boot needs to know of an image.
func Facts(im *store.Image) boot.Image {
	out := boot.Image{
		Name: im.Name(), Arch: im.Config.Architecture, KernelRelease: im.Config.KernelRelease, RootFormat: im.Config.RootFormat,
	}
	file := func(role store.Role, name string) (boot.File, bool) {
		for _, l := range im.Manifest.Layers {
			if l.Annotations[store.AnnotationRole] == string(role) {
				return boot.File{Name: name, Digest: handoff.Digest(l.Digest), Size: l.Size}, true
			}
		}
		return boot.File{}, false
	}
	out.Kernel, _ = file(store.RoleKernel, "vmlinuz")
	out.Root, _ = file(store.RoleRoot, "root")
	out.Transports, out.DracutTransports = im.Config.Transports, im.Config.DracutTransports
	out.Dracut, _ = file(store.RoleInitramfsDracut, string(store.RoleInitramfsDracut))
	for _, role := range []store.Role{store.RoleInitramfs, store.RoleInitramfsHardware, store.RoleInitramfsFirmware} {
		if f, ok := file(role, string(role)); ok {
			out.Initrds = append(out.Initrds, f)
		}
	}
	return out
}
