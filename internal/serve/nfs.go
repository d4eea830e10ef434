package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"netroot/internal/handoff"
	"netroot/internal/proto/nfs3"
	"netroot/internal/serve/trees"
	"netroot/internal/task"
)

// NFS says what is exported, and to whom. The packed roots of all images are, to everyone who may
// connect.
type NFS struct {
	// Trees are those that are exported, by label; nil: those of the labels that have them for
	// their root.
	Trees map[string]trees.Tree
	// Networks are those whose machines may mount; none: those of the configuration, or else those
	// that this host is on.
	Networks []netip.Prefix
	// AnyPort admits connections from ports that any user of a machine may open: for machines
	// behind an address translation, such as qemu's user network.
	AnyPort bool
	// Key seals the handles of files. It is secret, and the same at every start.
	Key [32]byte
	// Portmap, where it is set, tells clients that were given no port where the server is.
	Portmap *Portmap
}

// Portmap has the sockets of a portmapper, whose standard port is 111 (RFC 1833).
type Portmap struct {
	TCP net.Listener
	UDP net.PacketConn
}

// ListenPortmap opens both sockets of a portmapper; see Listen.
func ListenPortmap(option, address string) (*Portmap, error) {
	l, err := Listen(option, address)
	if err != nil {
		return nil, err
	}
	u, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", option, err), l.Close())
	}
	return &Portmap{l, u}, nil
}

// exported returns the trees of the present View, and the networks whose machines may mount them. A
// tree is not an image: it may hold secrets that a build would refuse, so trees of other labels are
// not exported.
func (s *Server) exported() (exported map[string]trees.Tree, networks []netip.Prefix) {
	of := s.view.Load().Site
	if exported = s.cfg.NFS.Trees; exported == nil {
		exported = make(map[string]trees.Tree)
		for name, l := range of.Labels {
			if l.RW || l.Transport == handoff.NFS {
				exported[name] = trees.Tree{Dir: l.Tree, RW: l.RW}
			}
		}
	}
	if networks = s.cfg.NFS.Networks; networks == nil {
		networks = of.Networks
	}
	return exported, networks
}

func (s *Server) nfsServer() rootServer {
	return &nfs3.Server{
		Lookup: s.exports.Lookup, Find: s.exports.Find, List: s.exports.List, Unmounted: s.exports.Unmounted,
		Key: s.cfg.NFS.Key, Options: s.options("nfs"),
	}
}

// runPortmap answers for the NFS server.
func (s *Server) runPortmap(ctx context.Context, ready func()) error {
	p, l := s.cfg.NFS.Portmap, s.roots[handoff.NFS]
	accepts, receives := both(ready)
	server := nfs3.Portmap{Mappings: nfs3.Mappings(uint16(l.Addr().(*net.TCPAddr).Port)), Log: s.cfg.Log.With("server", "portmap")}
	return server.Serve(ctx, task.Accepting(p.TCP, accepts), task.Receiving(p.UDP, receives))
}
