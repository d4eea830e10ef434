// Package trial starts the servers from which one machine of package vm boots an image: netroot's
// own, or for the root a kind that sites have (nbd-server, tgt, a kernel's NFS server).
//
// The machine is told what "netroot serve" tells it, with other ports and with a layer that brings
// an ssh key. The package neither builds the image nor starts the machine.
package trial

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"

	"netroot/internal/boot"
	"netroot/internal/gate"
	"netroot/internal/handoff"
	"netroot/internal/layer/folder"
	"netroot/internal/publish"
	"netroot/internal/serve"
	"netroot/internal/serve/trees"
	"netroot/internal/site"
	"netroot/internal/store"
	"netroot/internal/vm"
)

// KernelServer is a value of Options.Server: the root comes from a kind of server that sites have.
const KernelServer = "kernel"

// Options say what is served to the machine.
type Options struct {
	Site    *site.Site
	Store   *store.Store
	Image   *store.Image
	Request site.Request // of the machine: Image, Label, Layers and Add
	Layers  *folder.Folder
	Key     vm.Key // who may log in as root
	// Server is where the root comes from: empty for servers of its own, KernelServer, or HOST:PORT
	// on this host's loopback.
	Server string
	Accel  vm.Accel                 // of the machine that runs a kernel's NFS server
	NFSKey func() ([32]byte, error) // seals handles of the NFS server; called if there is one
	Log    *slog.Logger
	Say    func(text string) // tells the user what is started
}

// Servers are ready for a machine. Run serves it, after Admit. They listen on this host's loopback,
// which all users of the host reach, and some serve as root what only root may read: so they serve
// the process of the machine alone.
type Servers struct {
	*serve.Server
	Script  string // URL of the machine's boot script
	foreign *foreignServer
	gate    gate.Gate // before all servers
	http    net.Listener
	roots   map[handoff.Transport]net.Listener
}

// Admit has the servers serve connections of the process that owns says has a socket, and no
// others. Connections wait until it is called; see gate.Open.
func (s *Servers) Admit(owns func(inode uint64) bool) { s.gate.Open(owns) }

// Close ends a server of a kind that sites have.
func (s *Servers) Close() {
	if s.foreign != nil {
		s.foreign.Close()
	}
}

// Start makes the servers. It fails if the machine could not have a plan. The caller closes them.
func Start(ctx context.Context, o Options) (*Servers, error) {
	out := new(Servers)
	out.gate.Refused = func(why error) { o.Say(why.Error() + "; further refusals are not told") }
	sc := serve.Config{Store: o.Store, Site: o.Site, Layers: o.Layers, Default: o.Image.Name(), Log: o.Log}
	if o.Server == KernelServer {
		var err error
		if out.foreign, err = o.startForeign(ctx, &out.gate); err != nil {
			out.Close()
			return nil, err
		}
		o.Request.Add.Transport, o.Request.Add.Elsewhere = out.foreign.transport, out.foreign.elsewhere
		sc.Ports = boot.SamePort(out.foreign.port, out.foreign.transport)
	}
	err := out.own(o, sc)
	if err != nil {
		out.Close()
		return nil, err
	}
	return out, nil
}

// own makes netroot's own servers. The machine gets its layers as they are whenever it boots, and
// over them the one that brings the key.
func (s *Servers) own(o Options, sc serve.Config) error {
	set, err := o.Site.Settings(o.Request)
	if err != nil {
		return err
	}
	if err := addKey(&o); err != nil {
		return err
	}
	sc.Add = o.Request.Add
	overNFS := set.RW || boot.ServerOf(set.Transport) == handoff.NFS
	switch o.Server {
	case KernelServer: // runs already
	case "":
		s.roots, err = s.listen(overNFS)
	default:
		sc.Ports, err = ports(o.Server, set.Transport)
	}
	if err != nil {
		return err
	}
	if s.http, err = guarded(&s.gate, "the HTTP server"); err != nil {
		return err
	}
	if overNFS {
		if sc.NFS, err = exports(o, set); err != nil {
			return err
		}
	}
	if s.Server, err = serve.New(sc, s.http, s.roots); err != nil {
		return err
	}
	at := net.JoinHostPort(vm.GuestHost, strconv.Itoa(s.http.Addr().(*net.TCPAddr).Port))
	if _, err := s.Plan(boot.Machine{Server: at, Ref: o.Image.Name()}); err != nil {
		return err
	}
	s.Script = boot.ScriptURL(at, o.Image.Name(), true)
	return nil
}

// addKey adds the layers with the ssh key: one for a root with an overlay, one for others.
func addKey(o *Options) error {
	run, err := o.Key.RunLayer()
	if err != nil {
		return err
	}
	top, err := o.Key.Layer()
	if err != nil {
		return err
	}
	o.Request.Add.RunLayer, o.Request.Add.TopLayer = o.Layers.Add(run), o.Layers.Add(top)
	return nil
}

// exports exports the label's tree, if it is the machine's root, to this host, from which the
// machine's connections come. Packed roots are exported in any case.
func exports(o Options, set boot.Settings) (serve.NFS, error) {
	key, err := o.NFSKey()
	exported := map[string]trees.Tree{}
	if set.RW || set.Transport == handoff.NFS {
		exported[o.Request.Label] = trees.Tree{Dir: o.Site.Tree(o.Request.Label), RW: set.RW}
	}
	return serve.NFS{
		Trees:    exported,
		Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		AnyPort:  true,
		Key:      key,
	}, err
}

// guarded makes a listener for the process that is admitted.
func guarded(g *gate.Gate, what string) (net.Listener, error) {
	l, err := serve.Listen(what, "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	return g.Guard(l), nil
}

// listen makes a listener for the server of every transport.
func (s *Servers) listen(nfs bool) (map[handoff.Transport]net.Listener, error) {
	if nfs && os.Geteuid() != 0 {
		return nil, errors.New("the NFS server requires root, because it opens files by their handles (open_by_handle_at(2)): run this command as root, or use another transport")
	}
	roots := map[handoff.Transport]net.Listener{}
	for t := range boot.StandardPorts() {
		if t == handoff.NFS && !nfs {
			continue
		}
		l, err := guarded(&s.gate, "the server of "+string(t))
		if err != nil {
			return nil, err
		}
		roots[t] = l
	}
	return roots, nil
}

// ports are those of a server that runs already. Its address does not say which transport it has.
func ports(address string, t handoff.Transport) (boot.Ports, error) {
	if t == handoff.HTTP {
		return nil, publish.WrongOption("--server: a root over HTTP comes from the server of the boot script, which is this command itself; choose another transport")
	}
	port, err := localPort(address)
	if t != "" {
		return boot.SamePort(port, t), err
	}
	return boot.SamePort(port, handoff.Transports()...), err
}

// localPort is the port of an address of this host's loopback, the only one that a machine behind
// qemu's user network can be sent to.
func localPort(address string) (uint16, error) {
	host, port, err := net.SplitHostPort(address)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || n == 0 {
		return 0, publish.WrongOption("--server %s: expected HOST:PORT, such as 127.0.0.1:%d", address, handoff.DefaultNBDPort)
	}
	if ip := net.ParseIP(host); host != "localhost" && host != "" && (ip == nil || !ip.IsLoopback()) {
		return 0, publish.WrongOption("--server %s: the machine reaches only the loopback addresses of this host: expected 127.0.0.1:%d", address, n)
	}
	return uint16(n), nil
}

// create makes a file for its owner alone, in the place of one that is there: somebody may type a
// password on a console.
func create(path string) (*os.File, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// Log is the file that keeps the serial console of a label's machine: beside the logs of builds, or
// a temporary file if that directory cannot be written to.
func Log(s *site.Site, label string) (path string, err error) {
	name := "vm-" + label + ".log"
	f, err := (*os.File)(nil), os.MkdirAll(s.Logs(), 0o755)
	if err == nil {
		f, err = create(filepath.Join(s.Logs(), name))
	}
	if err != nil {
		f, err = os.CreateTemp("", "netroot-*-"+name)
	}
	if err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}
