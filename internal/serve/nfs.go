package serve

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/boot"
	"netroot/internal/handoff"
	"netroot/internal/proto/accept"
	"netroot/internal/proto/nfs3"
)

// Tree is a label's tree as machines may have it for their root, by NFS.
type Tree struct {
	Dir string
	RW  bool // one machine at a time writes to it
}

// NFS says what is exported, and to whom. The packed roots of all images are, to everyone who may connect.
type NFS struct {
	// Trees are those that are exported, by label.
	Trees map[string]Tree
	// Networks are those whose machines may mount; none: those that this host is on.
	Networks []netip.Prefix
	// AnyPort admits connections from ports that any user of a machine may open: for machines behind an address
	// translation, such as qemu's user network.
	AnyPort bool
	// Key seals the handles of files. It is secret, and the same at every start.
	Key [32]byte
	// Portmap, where it is set, tells clients that were given no port where the server is.
	Portmap *Portmap
}

// Portmap is where a portmapper listens: port 111 of both, by rights (RFC 1833).
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

// How long a machine that has no connection counts as running. An idle one closes its connection after five minutes
// (XPRT_IDLE_TIMEOUT, include/linux/sunrpc/xprt.h) and may have nothing to ask for long. What was only told to mount a tree
// is somebody who read the boot script if it has not done so soon. Package build and docs/transports.md tell these times.
const (
	readerLinger = time.Hour
	writerLinger = 10 * time.Minute
	planLinger   = 5 * time.Minute
)

// exports are the trees and images that the NFS server exports, and who uses them.
type exports struct {
	NFS
	blobs string // directory of the images' parts

	mu    sync.Mutex
	trees map[string]*heldTree // by label
}

// heldTree is a tree in use. Its directory is locked (flock(2)), shared by readers and alone by a writer, which keeps
// builds from replacing it and other processes from handing it to another writer.
type heldTree struct {
	Tree
	dir    *os.File
	writer netip.Addr  // who may write, if anybody
	leaves bool        // it has unmounted: with its last user, it is no writer any more
	users  int         // exports that are open; of a tree that is written to, the writer's
	until  time.Time   // when it is let go of, if it has no users then
	end    *time.Timer // that lets go of it; stopped while there are users
}

func newExports(cfg Config) *exports {
	return &exports{NFS: cfg.NFS, blobs: filepath.Join(cfg.Store.Dir(), "blobs", "sha256"), trees: map[string]*heldTree{}}
}

func (s *Server) nfsServer() rootServer {
	return &nfs3.Server{
		Lookup: s.exports.lookup, Find: s.exports.find, List: s.exports.list, Unmounted: s.exports.unmounted,
		Key: s.exports.Key, Options: accept.Options{Log: s.cfg.Log.With("server", "nfs")},
	}
}

// runPortmap answers for the NFS server, when it is to and there is one.
func (s *Server) runPortmap(ctx context.Context) error {
	p, l := s.cfg.NFS.Portmap, s.roots[handoff.NFS]
	if p == nil || l == nil {
		return nil
	}
	server := nfs3.Portmap{Mappings: nfs3.Mappings(uint16(l.Addr().(*net.TCPAddr).Port)), Log: s.cfg.Log.With("server", "portmap")}
	return server.Serve(ctx, p.TCP, p.UDP)
}

// imagesName is what the export of the packed roots is called.
var imagesName = strings.Trim(boot.ImagesPath, "/")

// lookup opens the export that a path lies in, whose first part names it: a label, or the images.
func (x *exports) lookup(_ context.Context, path string, peer netip.AddrPort) (*nfs3.Export, string, error) {
	name, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	e, err := x.open(name, peer)
	return e, rest, err
}

func (x *exports) open(name string, peer netip.AddrPort) (*nfs3.Export, error) {
	if name == imagesName {
		return x.openImages()
	}
	return x.openTree(name, peer)
}

// find opens the export that a handle names. Those who have handles have mounted before, at this server or at the one
// that ran here before it.
func (x *exports) find(_ context.Context, id nfs3.ID, peer netip.AddrPort) (*nfs3.Export, error) {
	if id == nfs3.IDOf(imagesName) {
		return x.openImages()
	}
	for name := range x.Trees {
		if id == nfs3.IDOf(name) {
			return x.openTree(name, peer)
		}
	}
	return nil, nfs3.ErrUnknown
}

// openImages exports the parts of all images to everyone, as all other servers do.
func (x *exports) openImages() (*nfs3.Export, error) {
	dir, err := os.Open(x.blobs)
	if err != nil {
		return nil, err
	}
	everyone := []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	return &nfs3.Export{
		Name: "/" + imagesName, ID: nfs3.IDOf(imagesName), Dir: dir, ReadOnly: true, Clients: everyone, AnyPort: true,
		Release: func() { dir.Close() },
	}, nil
}

// openTree exports a label's tree. A node's root is nothing without what only root may read, so its root is root here.
// Who may not have it leaves no trace: it is neither held for them nor theirs to write to.
func (x *exports) openTree(label string, peer netip.AddrPort) (*nfs3.Export, error) {
	t, err := x.tree(label)
	if err != nil {
		return nil, err
	}
	networks, err := x.networks()
	if err != nil {
		return nil, err
	}
	e := x.export(label, t, networks)
	if err := e.Admits(peer); err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	held, err := x.hold(label)
	if err == nil {
		err = held.admit(peer.Addr(), label)
	}
	if err != nil {
		return nil, err
	}
	held.users++
	held.end.Stop()
	e.Dir, e.Release = held.dir, func() { x.release(held) }
	return e, nil
}

// export returns the export of a label's tree, without its directory.
func (x *exports) export(label string, t Tree, networks []netip.Prefix) *nfs3.Export {
	return &nfs3.Export{
		Name: boot.TreePath(label), ID: nfs3.IDOf(label),
		ReadOnly: !t.RW, TrustRoot: true, Clients: networks, AnyPort: x.AnyPort,
	}
}

// tree returns the tree of a label, if it is exported.
func (x *exports) tree(label string) (Tree, error) {
	t, ok := x.Trees[label]
	if !ok {
		return t, fmt.Errorf("%w: the tree of %q is not exported here", nfs3.ErrUnknown, label)
	}
	return t, nil
}

// ready tells whether a machine could have the tree of a label now: one of that address, which may be unknown. A tree that
// is written to is not its own by that, but by a mount. What could have it has the time to mount it.
func (x *exports) ready(label string, machine netip.Addr) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	held, err := x.hold(label)
	if err == nil && machine.IsValid() {
		err = held.room(machine, label)
	}
	if err != nil {
		return err
	}
	held.keep(planLinger)
	return nil
}

// hold returns the tree of a label, locked. The caller holds the mutex.
func (x *exports) hold(label string) (*heldTree, error) {
	t, err := x.tree(label)
	if err != nil {
		return nil, err
	}
	held := x.trees[label]
	if held != nil && held.current() {
		return held, nil
	}
	if held != nil && held.users == 0 { // replaced by force
		x.drop(label, held)
	}
	return x.take(label, t)
}

// admit lets one machine write.
func (h *heldTree) admit(peer netip.Addr, label string) error {
	if err := h.room(peer, label); err != nil || !h.RW {
		return err
	}
	h.writer, h.leaves = peer, false
	return nil
}

// room says why a machine cannot have the tree beside the one that writes to it.
func (h *heldTree) room(peer netip.Addr, label string) error {
	if !h.RW || !h.writer.IsValid() || h.writer == peer {
		return nil
	}
	return fmt.Errorf("%w: %s writes to the tree of %s, and one machine at a time can", nfs3.ErrDenied, h.writer, label)
}

// take opens and locks a tree.
func (x *exports) take(label string, t Tree) (*heldTree, error) {
	dir, err := os.Open(t.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: label %s has no tree at %s: build it first", nfs3.ErrUnknown, label, t.Dir)
	}
	if err != nil {
		return nil, err
	}
	how := unix.LOCK_SH
	if t.RW {
		how = unix.LOCK_EX
	}
	if err := unix.Flock(int(dir.Fd()), how|unix.LOCK_NB); err != nil {
		dir.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: the tree of %s has machines of another server, and one that writes to it must be alone", nfs3.ErrDenied, label)
		}
		return nil, fmt.Errorf("lock %s: %w", t.Dir, err)
	}
	if err := nfs3.Check(dir); err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	held := &heldTree{Tree: t, dir: dir, until: time.Now().Add(planLinger)}
	held.end = time.AfterFunc(planLinger, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		if held.users == 0 && !time.Now().Before(held.until) { // else it was kept while this waited for the mutex
			x.drop(label, held)
		}
	})
	x.trees[label] = held
	return held, nil
}

// current tells whether the tree's place still has the directory that is held.
func (h *heldTree) current() bool {
	held, err := h.dir.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(h.Dir)
	return err == nil && os.SameFile(held, there)
}

// release is called when a connection has no more use of a tree. Its machine may come back.
func (x *exports) release(h *heldTree) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if h.users--; h.users > 0 {
		return
	}
	if h.leaves {
		h.leave()
	}
	h.keep(h.linger())
}

// keep has a tree held for that long from now if it has no users then, or for as long as it was to be held anyway. The
// caller holds the mutex.
func (h *heldTree) keep(d time.Duration) {
	if end := time.Now().Add(d); end.After(h.until) {
		h.until = end
	}
	if h.users == 0 {
		h.end.Reset(time.Until(h.until))
	}
}

func (h *heldTree) linger() time.Duration {
	if h.RW {
		return writerLinger
	}
	return readerLinger
}

// drop lets go of a tree. The caller holds the mutex.
func (x *exports) drop(label string, h *heldTree) {
	h.end.Stop()
	h.dir.Close()
	if x.trees[label] == h {
		delete(x.trees, label)
	}
}

// close lets go of all trees. No connection is left.
func (x *exports) close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for label, h := range x.trees {
		x.drop(label, h)
	}
}

// unmounted makes room for the next writer, once the connections of the one that says so have ended: for as long as one
// is there, it may write. Who could not mount from that port is not believed, for any program of the writer's could say it.
func (x *exports) unmounted(path string, peer netip.AddrPort) error {
	networks, err := x.networks()
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for label, h := range x.trees {
		if h.writer != peer.Addr() || path != "" && path != boot.TreePath(label) {
			continue
		}
		if err := x.export(label, h.Tree, networks).Admits(peer); err != nil {
			return err
		}
		h.leaves = true
		if h.users == 0 {
			h.leave()
		}
	}
	return nil
}

// leave makes the writer none. The caller holds the mutex.
func (h *heldTree) leave() { h.writer, h.leaves = netip.Addr{}, false }

// list names the exports for showmount(8).
func (x *exports) list(context.Context) ([]nfs3.Listed, error) {
	networks, err := x.networks()
	if err != nil {
		return nil, err
	}
	out := []nfs3.Listed{{Path: strings.TrimSuffix(boot.ImagesPath, "/")}}
	for _, label := range slices.Sorted(maps.Keys(x.Trees)) {
		out = append(out, nfs3.Listed{Path: boot.TreePath(label), Clients: networks})
	}
	return out, nil
}

// networks are those whose machines may have trees.
func (x *exports) networks() ([]netip.Prefix, error) {
	if len(x.Networks) > 0 {
		return x.Networks, nil
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, a := range addresses {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out, nil
}
