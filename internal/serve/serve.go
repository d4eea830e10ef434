// Package serve answers booting machines: over HTTP the boot script, the kernel, the initial RAM
// file systems and layers, and over NBD, NVMe/TCP, iSCSI and NFS the root. All of it comes from one
// image store.
//
// It builds nothing and decides nothing: what a machine is told is package boot's decision, made
// for each request from the store and the View of that moment. A View is one configuration, whole;
// another takes its place when netroot.yaml or a layer changes, and connections stay. Everything
// that is sent is public on the boot network; there are no secrets and no users here.
//
// The parts of a Server are tasks (package task), in tasks.go in the order in which they start.
package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/boot"
	"netroot/internal/handoff"
	"netroot/internal/layer/folder"
	"netroot/internal/proto/accept"
	"netroot/internal/proto/nfs3"
	"netroot/internal/serve/trees"
	"netroot/internal/serve/whole"
	"netroot/internal/site"
	"netroot/internal/store"
	"netroot/internal/task"
)

// Config is what a Server serves.
type Config struct {
	// Store has the images. It need not exist yet: what is not there is not served.
	Store *store.Store
	// Site says how machines of a label boot, and Add what is added to that for all of them. Nil:
	// every label has its defaults. What is wrong reaches the machine's console.
	Site *site.Site
	Add  site.Additions
	// Load reads the Site again: on Reload, and when something changes in the directories that
	// Watch names. Nil: the Site stays.
	Load  func() (*site.Site, error)
	Watch func() []string
	// Check, when set, says what is wrong with a Site that can be read, for the log.
	Check func(*site.Site) []error
	// Ports are those of other servers of roots, to which machines are sent for what has no
	// listener here.
	Ports boot.Ports
	// Withheld has the reasons why a transport has no listener, for machines whose label names the
	// transport.
	Withheld map[handoff.Transport]string
	// Layers has the layers that are served. Nil: there are none. The Server closes it.
	Layers *folder.Folder
	// NFS says what the NFS server exports.
	NFS NFS
	// Default is the image that an NBD client gets that names no export, as store.Resolve takes it.
	// Empty: none.
	Default string
	// TLS is what the NBD server offers to clients that ask for it, nil: nothing; RequireTLS has it
	// refuse the others, and with them every node: the kernel's NBD client has no TLS.
	TLS        *tls.Config
	RequireTLS bool
	// Observe, when set, is told when a client of any root server attaches, leaves or has an error.
	Observe accept.Observer
	// Log gets one line for each request, and for each client that attaches or leaves. Nil
	// discards.
	Log *slog.Logger
}

// Server is an HTTP server and servers of roots over one store.
type Server struct {
	cfg     Config
	catalog *catalog
	exports *trees.Exports
	http    net.Listener
	roots   map[handoff.Transport]net.Listener
	servers map[handoff.Transport]rootServer
	ports   boot.Ports // where nodes find the servers of roots

	view     atomic.Pointer[View]
	failure  atomic.Pointer[Failure]
	renewing sync.Mutex       // held while the next View is made
	refusals *accept.Refusals // of the HTTP server
	reloaded chan struct{}
	started  chan struct{}
	group    atomic.Pointer[task.Group] // nil before Run
}

// Listen opens a TCP listener for a Server. The option is what the user sets the address with, for
// the error that says what to do.
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

// New returns a Server for these listeners; roots has those of the root servers by transport. The
// kernel queues clients on them, so machines may be sent to the Server before Run. A transport
// without a listener is served by another server, whose port is in cfg.Ports.
func New(cfg Config, httpListener net.Listener, roots map[handoff.Transport]net.Listener) (*Server, error) {
	if err := checkListeners(roots); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Site == nil {
		cfg.Site = site.Empty()
	}
	if cfg.Layers == nil {
		cfg.Layers = folder.New("", "", cfg.Log)
	}
	cfg.Withheld = withheld(cfg, roots)
	s := &Server{
		cfg: cfg, ports: portsOf(cfg, roots), catalog: newCatalog(cfg.Store, cfg.Log), refusals: accept.NewRefusals(cfg.Log, "http"), http: httpListener, roots: roots,
		servers: make(map[handoff.Transport]rootServer), started: make(chan struct{}), reloaded: make(chan struct{}, 1),
	}
	s.exports = &trees.Exports{Current: s.exported, AnyPort: cfg.NFS.AnyPort, Blobs: filepath.Join(cfg.Store.Dir(), "blobs", "sha256")}
	s.view.Store(&View{Site: cfg.Site, Since: time.Now(), Layers: cfg.Layers.Render(s.layerNames(cfg.Site))})
	for t := range roots {
		s.servers[t] = serverOf[t](s)
	}
	return s, nil
}

// rootServer is a server of one protocol.
type rootServer interface {
	Serve(ctx context.Context, l net.Listener) error
	Counters() accept.Counters
}

// options are what the servers of all protocols have in common.
func (s *Server) options(name string) accept.Options {
	return accept.Options{Log: s.cfg.Log.With("server", name), Observer: s.cfg.Observe}
}

// serverOf makes the server of each transport that has one of its own.
var serverOf = map[handoff.Transport]func(*Server) rootServer{
	handoff.NBD:   (*Server).nbdServer,
	handoff.NVMe:  (*Server).nvmeServer,
	handoff.ISCSI: (*Server).iscsiServer,
	handoff.NFS:   (*Server).nfsServer,
}

// Time limits of HTTP. The write limit is generous, for it bounds a whole transfer over whatever
// link a machine has.
const (
	headerTimeout = 10 * time.Second
	writeTimeout  = time.Hour
	idleTimeout   = 2 * time.Minute
)

func (s *Server) runHTTP(ctx context.Context, ready func()) error {
	server := http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       headerTimeout, // requests have no bodies
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    16 << 10,
		ConnState:         newConnections(maxHTTPConns, s.httpRefused).state,
		ErrorLog:          slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelWarn),
	}
	defer s.refusals.Flush()
	return task.HTTP(ctx, &server, s.http, ready)
}

// httpRefused logs a connection that the HTTP server does not serve.
func (s *Server) httpRefused(peer string, why error) {
	s.refusals.Log(slog.LevelWarn, "http: refused", "peer", peer, "why", why)
}

// Plan decides what machine m is told when it asks for the image m.Ref, and makes the image or tree
// ready for it.
func (s *Server) Plan(m boot.Machine) (boot.Plan, error) {
	v := s.view.Load()
	im, r, settings, err := s.settings(v, m)
	if err != nil {
		return boot.Plan{}, err
	}
	if err := s.catalog.whole(im, whole.BootRoles()...); err != nil {
		return boot.Plan{}, private{err}
	}
	if s.roots[handoff.NFS] != nil && (settings.Transport == handoff.NFS || settings.RW) {
		err := s.exports.Ready(im.Label, m.Address)
		switch {
		case errors.Is(err, nfs3.ErrDenied), errors.Is(err, nfs3.ErrUnknown):
			return boot.Plan{}, err
		case err != nil:
			return boot.Plan{}, private{err}
		}
	}
	s.catalog.given(im)
	return boot.Decide(m, r.Image, settings)
}

// Preview returns what Plan would tell machine m, and the View that decided, and makes nothing
// ready.
func (s *Server) Preview(m boot.Machine) (boot.Plan, *View, error) {
	v := s.view.Load()
	im, r, settings, err := s.settings(v, m)
	if err == nil {
		err = s.catalog.whole(im, whole.BootRoles()...)
	}
	if err != nil {
		return boot.Plan{}, v, err
	}
	p, err := boot.Decide(m, r.Image, settings)
	return p, v, err
}

// settings are those of a machine that asks for the image m.Ref.
func (s *Server) settings(v *View, m boot.Machine) (*store.Image, site.Request, boot.Settings, error) {
	im, err := s.catalog.resolve(m.Ref)
	if err != nil {
		return nil, site.Request{}, boot.Settings{}, private{err}
	}
	r := site.Request{
		Machine: m, Image: Facts(im), Label: im.Label, Listen: s.ports, Withheld: s.cfg.Withheld, Layers: v.Layers, Add: s.cfg.Add,
	}
	settings, err := v.Site.Settings(r)
	return im, r, settings, err
}

// portsOf are where nodes find the servers of roots.
func portsOf(cfg Config, roots map[handoff.Transport]net.Listener) boot.Ports {
	ports := boot.Ports{}
	maps.Copy(ports, cfg.Ports)
	for t, l := range roots {
		ports[t] = uint16(l.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// withheld says which servers are not for nodes.
func withheld(cfg Config, roots map[handoff.Transport]net.Listener) map[handoff.Transport]string {
	all := maps.Clone(cfg.Withheld)
	if cfg.RequireTLS && roots[handoff.NBD] != nil {
		if all == nil {
			all = make(map[handoff.Transport]string)
		}
		all[handoff.NBD] = "it requires TLS (--tls-require), which no node speaks: choose another transport, or start it without"
	}
	return all
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
