// Package trial starts the servers from which one machine of package vm boots an image: netroot's
// own, or for the root a kind that sites have (nbd-server, tgt, a kernel's NFS server).
//
// The machine is told what "netroot serve" tells it, with other ports and with a layer that brings
// an ssh key. The package neither builds the image nor starts the machine.
package trial

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"

	"netroot/internal/boot"
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

// Servers are ready for a machine. Run serves it.
type Servers struct {
	*serve.Server
	Script  string // URL of the machine's boot script
	foreign *foreignServer
}

// Close ends a server of a kind that sites have.
func (s *Servers) Close() {
	if s.foreign != nil {
		s.foreign.Close()
	}
}

// Start makes the servers. It fails if the machine could not have a plan. The caller closes them.
func Start(ctx context.Context, o Options) (*Servers, error) {
	out := new(Servers)
	sc := serve.Config{Store: o.Store, Site: o.Site, Layers: o.Layers, Default: o.Image.Name(), Log: o.Log}
	if o.Server == KernelServer {
		var err error
		if out.foreign, err = o.startForeign(ctx); err != nil {
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
	roots := map[handoff.Transport]net.Listener{}
	switch o.Server {
	case KernelServer: // runs already
	case "":
		roots, err = listen(overNFS)
	default:
		sc.Ports, err = ports(o.Server, set.Transport)
	}
	if err != nil {
		return err
	}
	http, err := serve.Listen("the HTTP server", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if overNFS {
		if sc.NFS, err = exports(o, set.RW); err != nil {
			return err
		}
	}
	if s.Server, err = serve.New(sc, http, roots); err != nil {
		return err
	}
	at := net.JoinHostPort(vm.GuestHost, strconv.Itoa(http.Addr().(*net.TCPAddr).Port))
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

// exports exports the label's tree to this host, from which the machine's connections come.
func exports(o Options, rw bool) (serve.NFS, error) {
	key, err := o.NFSKey()
	label := o.Request.Label
	return serve.NFS{
		Trees:    map[string]trees.Tree{label: {Dir: o.Site.Tree(label), RW: rw}},
		Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		AnyPort:  true,
		Key:      key,
	}, err
}

// listen makes a listener for the server of every transport.
func listen(nfs bool) (map[handoff.Transport]net.Listener, error) {
	if nfs && os.Geteuid() != 0 {
		return nil, errors.New("the NFS server requires root, because it opens files by their handles (open_by_handle_at(2)): run this command as root, or use another transport")
	}
	roots := map[handoff.Transport]net.Listener{}
	for t := range boot.StandardPorts() {
		if t == handoff.NFS && !nfs {
			continue
		}
		l, err := serve.Listen("the server of "+string(t), "127.0.0.1:0")
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

// Log is the file that keeps the serial console of a label's machine: beside the logs of builds, or
// a temporary file if that directory cannot be written to.
func Log(s *site.Site, label string) (path string, err error) {
	name := "vm-" + label + ".log"
	f, err := (*os.File)(nil), os.MkdirAll(s.Logs(), 0o755)
	if err == nil {
		f, err = os.Create(fmt.Sprintf("%s/%s", s.Logs(), name))
	}
	if err != nil {
		f, err = os.CreateTemp("", "netroot-*-"+name)
	}
	if err != nil {
		return "", err
	}
	return f.Name(), f.Close()
}
