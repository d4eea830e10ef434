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

// vmServer makes the servers of one machine and the URL of its boot script.
func (e *env) vmServer(cfg *site.Site, s *store.Store, im *store.Image, f vmFlags, key vm.Key, set boot.Settings) (*serve.Server, string, error) {
	log := slog.New(slog.DiscardHandler)
	if f.debug {
		log = e.logger(slog.LevelInfo)
	}
	layers, current, err := e.vmLayers(cfg, im.Label, f, key, log, &set)
	if err != nil {
		return nil, "", err
	}
	roots, err := f.roots(&set)
	if err != nil {
		return nil, "", err
	}
	http, err := serve.Listen("the HTTP server", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	exported, err := vmExports(cfg, im.Label, set)
	if err != nil {
		return nil, "", err
	}
	server, err := serve.New(serve.Config{
		Store:    s,
		NFS:      exported,
		Settings: current,
		Layers:   layers.Archive,
		Default:  im.Name(),
		Log:      log,
	}, http, roots)
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
func vmExports(cfg *site.Site, label string, set boot.Settings) (serve.NFS, error) {
	if !byNFS(set) {
		return serve.NFS{}, nil
	}
	key, err := nfsKey(cfg.State)
	return serve.NFS{
		Trees:    map[string]serve.Tree{label: {Dir: cfg.Tree(label), RW: set.RW}},
		Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		AnyPort:  true,
		Key:      key,
	}, err
}

func byNFS(set boot.Settings) bool {
	return set.RW || set.Transport == handoff.NFS || set.Transport == handoff.NFSImage
}

// vmLayers has the machine take its layers, as they are whenever it boots, and
// over them the one that brings the key.
func (e *env) vmLayers(cfg *site.Site, label string, f vmFlags, key vm.Key, log *slog.Logger, set *boot.Settings) (*serve.Layers, func(string) (boot.Settings, error), error) {
	folder := e.layerFolder(cfg, log)
	stack, err := f.layers.stack(folder, cfg, label)
	if err != nil {
		return nil, nil, err
	}
	if err := stack.tell(e); err != nil {
		return nil, nil, err
	}
	archive, err := key.RunLayer()
	if set.Overlay.Enabled {
		archive, err = key.Layer()
	}
	if err != nil {
		return nil, nil, err
	}
	digest := folder.Add(archive)
	return folder, func(string) (boot.Settings, error) {
		now := *set
		err := stack.addTo(&now)
		if now.Overlay.Enabled {
			now.Layers = append(now.Layers, digest)
		} else {
			now.RunLayers = []string{digest}
		}
		return now, err
	}, nil
}

// roots makes a listener for every transport, or, with --server, points the
// settings at that server.
func (f vmFlags) roots(set *boot.Settings) (map[handoff.Transport]net.Listener, error) {
	roots := map[handoff.Transport]net.Listener{}
	if f.server == kernelServer {
		return roots, nil // they point there
	}
	if f.server != "" {
		if set.Transport == handoff.HTTP {
			return nil, usage(errors.New("--server: a root by HTTP comes from the server of the boot script, which is this command itself; choose another transport"))
		}
		port, err := localPort(f.server)
		if err != nil {
			return nil, err
		}
		set.Ports = map[handoff.Transport]uint16{}
		for _, t := range handoff.Transports() { // which one is meant, the port does not say
			if set.Transport == "" || t == set.Transport {
				set.Ports[t] = port
			}
		}
		return roots, nil
	}
	for _, t := range handoff.Transports() {
		if t == handoff.HTTP || t == handoff.NFSImage || t == handoff.NFS && !byNFS(*set) {
			continue
		}
		if t == handoff.NFS && os.Geteuid() != 0 {
			return nil, errors.New("the NFS server wants root, for it opens files by their handles (open_by_handle_at(2)): run this as root, or take another transport")
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
