package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"

	"netroot/internal/boot"
	"netroot/internal/handoff"
	"netroot/internal/serve"
	"netroot/internal/site"
	"netroot/internal/store"
	"netroot/internal/vm"
)

// vmServer makes the servers of one machine and the URL of its boot script. The machine gets its layers
// as they are whenever it boots, and over them the one that brings the key.
func (e *env) vmServer(sc serve.Config, im *store.Image, f vmFlags, key vm.Key, r site.Request) (*serve.Server, string, error) {
	sc.Log = slog.New(slog.DiscardHandler)
	if f.debug {
		sc.Log = e.logger(slog.LevelInfo)
	}
	sc.Layers = e.layerFolder(sc.Site, sc.Log)
	r.Layers = sc.Layers
	if err := e.tellLayers(sc.Site, sc.Layers, r); err != nil {
		return nil, "", err
	}
	set, err := sc.Site.Settings(r)
	if err != nil {
		return nil, "", noLayers(err)
	}
	archive, err := key.RunLayer()
	if err == nil {
		r.Add.RunLayer = sc.Layers.Add(archive)
		archive, err = key.Layer()
	}
	if err != nil {
		return nil, "", err
	}
	r.Add.TopLayer = sc.Layers.Add(archive)
	sc.Add = r.Add
	roots := map[handoff.Transport]net.Listener{}
	switch f.server {
	case kernelServer: // runs already
	case "":
		roots, err = listenForVM(byNFS(set))
	default:
		sc.Ports, err = f.ports(set)
	}
	if err != nil {
		return nil, "", err
	}
	http, err := serve.Listen("the HTTP server", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	if byNFS(set) {
		if sc.NFS, err = vmExports(sc.Site, im.Label, set.RW); err != nil {
			return nil, "", err
		}
	}
	server, err := serve.New(sc, http, roots)
	if err != nil {
		return nil, "", err
	}
	at := net.JoinHostPort(vm.GuestHost, strconv.Itoa(http.Addr().(*net.TCPAddr).Port))
	if _, err := server.Plan(boot.Machine{Server: at, Ref: im.Name()}); err != nil { // before a machine says it
		return nil, "", err
	}
	return server, boot.ScriptURL(at, im.Name(), true), nil
}

// vmExports exports the tree of one label to this host, where the machine's
// connections come from.
func vmExports(cfg *site.Site, label string, rw bool) (serve.NFS, error) {
	key, err := nfsKey(cfg.State)
	return serve.NFS{
		Trees:    map[string]serve.Tree{label: {Dir: cfg.Tree(label), RW: rw}},
		Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		AnyPort:  true,
		Key:      key,
	}, err
}

func byNFS(set boot.Settings) bool {
	return set.RW || set.Transport == handoff.NFS || set.Transport == handoff.NFSImage
}

// ports are those of the server that --server names; which one is meant, the port does not say.
func (f vmFlags) ports(set boot.Settings) (boot.Ports, error) {
	if set.Transport == handoff.HTTP {
		return nil, usage(errors.New("--server: a root by HTTP comes from the server of the boot script, which is this command itself; choose another transport"))
	}
	port, err := localPort(f.server)
	if set.Transport != "" {
		return boot.SamePort(port, set.Transport), err
	}
	return boot.SamePort(port, handoff.Transports()...), err
}

// listenForVM makes a listener for the server of every transport.
func listenForVM(nfs bool) (map[handoff.Transport]net.Listener, error) {
	if nfs && os.Geteuid() != 0 {
		return nil, errors.New("the NFS server wants root, for it opens files by their handles (open_by_handle_at(2)): run this as root, or take another transport")
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

// localPort is the port of an address of this host, which is all that a
// machine behind qemu's user network can be sent to.
func localPort(address string) (uint16, error) {
	host, port, err := net.SplitHostPort(address)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || n == 0 {
		return 0, usage(fmt.Errorf("--server %s: want HOST:PORT, such as 127.0.0.1:%d", address, handoff.DefaultNBDPort))
	}
	if ip := net.ParseIP(host); host != "localhost" && host != "" && (ip == nil || !ip.IsLoopback()) {
		return 0, usage(fmt.Errorf("--server %s: the machine reaches this host's loopback alone: want 127.0.0.1:%d", address, n))
	}
	return uint16(n), nil
}
