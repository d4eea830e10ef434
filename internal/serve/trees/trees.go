// Package trees says which trees the NFS server exports, and which machines have them: trees of
// labels, whose writer is alone and which a build does not replace while they are in use, and the
// packed roots of all images.
//
// It is not the server: package nfs3 speaks the protocol, and asks this one.
package trees

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/boot"
	"netroot/internal/proto/nfs3"
)

// Tree is a label's tree, which machines have for their root over NFS.
type Tree struct {
	Dir string
	RW  bool // one machine at a time writes to it
}

// How long a machine without a connection counts as running. Linux closes an idle connection after
// five minutes (XPRT_IDLE_TIMEOUT, include/linux/sunrpc/xprt.h) and may not need another for long.
// A machine that was given a boot script has less time to mount the tree. Package build and
// docs/transports.md name these times.
const (
	readerLinger = time.Hour
	writerLinger = 10 * time.Minute
	planLinger   = 5 * time.Minute
)

// Exports are the trees and images that an NFS server exports, and their users. The exported fields
// are set before its use.
type Exports struct {
	// Current returns the trees that are exported now, by label, and the networks whose machines
	// may mount them; none: those that this host is on.
	Current func() (trees map[string]Tree, networks []netip.Prefix)
	// AnyPort admits connections from ports that any user of a machine may open.
	AnyPort bool
	Blobs   string // directory of the images' parts

	mu    sync.Mutex
	trees map[string]*heldTree // by label
}

// heldTree is a tree in use. Its directory has a lock (flock(2)), shared for readers and exclusive
// for a writer, so that a build does not replace the tree and another process does not give it to
// another writer.
type heldTree struct {
	Tree
	dir    *os.File
	writer netip.Addr  // the machine that may write; the zero value: none
	leaves bool        // it has unmounted: when its last user ends, the tree has no writer
	users  int         // exports that are open; of a tree that is written to, the writer's
	until  time.Time   // when it is let go of, if it has no users then
	end    *time.Timer // that lets go of it; stopped while there are users
}

// imagesName is what the export of the packed roots is called.
var imagesName = strings.Trim(boot.ImagesPath, "/")

// Lookup opens the export that a path lies in, whose first part names it: a label, or the images.
func (x *Exports) Lookup(_ context.Context, path string, peer netip.AddrPort) (*nfs3.Export, string, error) {
	name, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	e, err := x.open(name, peer)
	return e, rest, err
}

func (x *Exports) open(name string, peer netip.AddrPort) (*nfs3.Export, error) {
	if name == imagesName {
		return x.openImages()
	}
	return x.openTree(name, peer)
}

// Find opens the export that a handle names. A client that has a handle has mounted the export
// before, from this process or an earlier one.
func (x *Exports) Find(_ context.Context, id nfs3.ID, peer netip.AddrPort) (*nfs3.Export, error) {
	if id == nfs3.IDOf(imagesName) {
		return x.openImages()
	}
	trees, _ := x.Current()
	for name := range trees {
		if id == nfs3.IDOf(name) {
			return x.openTree(name, peer)
		}
	}
	return x.openLeft(id, peer)
}

// openLeft exports a tree that is exported no more to those machines that have it still.
func (x *Exports) openLeft(id nfs3.ID, peer netip.AddrPort) (*nfs3.Export, error) {
	networks, err := x.networks()
	if err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for label, held := range x.trees {
		if id != nfs3.IDOf(label) {
			continue
		}
		e := x.export(label, held.Tree, networks)
		if err := e.Admits(peer); err != nil {
			return nil, err
		}
		if err := held.admit(peer.Addr(), label); err != nil {
			return nil, err
		}
		x.use(held, e)
		return e, nil
	}
	return nil, nfs3.ErrUnknown
}

// use has an export be that of a tree. The caller holds the mutex.
func (x *Exports) use(held *heldTree, e *nfs3.Export) {
	held.users++
	held.end.Stop()
	e.Dir, e.Release = held.dir, func() { x.release(held) }
}

// openImages exports the parts of all images to everyone, as all other servers do.
func (x *Exports) openImages() (*nfs3.Export, error) {
	dir, err := os.Open(x.Blobs)
	if err != nil {
		return nil, err
	}
	everyone := []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	return &nfs3.Export{
		Name: "/" + imagesName, ID: nfs3.IDOf(imagesName), Dir: dir, ReadOnly: true, Clients: everyone, AnyPort: true,
		Release: func() { dir.Close() },
	}, nil
}

// openTree exports a label's tree. A node needs files of its root that only root may read, so the
// node's root is root here. For a machine that may not mount the tree nothing changes: the tree is
// not held, and the machine does not become its writer.
func (x *Exports) openTree(label string, peer netip.AddrPort) (*nfs3.Export, error) {
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
	x.use(held, e)
	return e, nil
}

// export returns the export of a label's tree, without its directory.
func (x *Exports) export(label string, t Tree, networks []netip.Prefix) *nfs3.Export {
	return &nfs3.Export{
		Name: boot.TreePath(label), ID: nfs3.IDOf(label),
		ReadOnly: !t.RW, TrustRoot: true, Clients: networks, AnyPort: x.AnyPort,
	}
}

// tree returns the tree of a label, if it is exported.
func (x *Exports) tree(label string) (Tree, error) {
	trees, _ := x.Current()
	t, ok := trees[label]
	if !ok {
		return t, fmt.Errorf("%w: the tree of %q is not exported here", nfs3.ErrUnknown, label)
	}
	return t, nil
}

// Ready tells whether the machine of an address, which may be unknown, could mount the tree of a
// label now, and holds the tree until the machine has had time to mount it. The machine becomes the
// writer of a tree only by a mount. The tree is not held for a machine that could not mount it from
// that address.
func (x *Exports) Ready(label string, machine netip.Addr) error {
	networks, err := x.networks()
	if err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if machine.IsValid() && !slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(machine) }) {
		_, err := x.tree(label)
		return err
	}
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

// hold returns the tree of a label with its lock. The caller holds the mutex.
func (x *Exports) hold(label string) (*heldTree, error) {
	t, err := x.tree(label)
	if err != nil {
		return nil, err
	}
	held := x.trees[label]
	switch {
	case held == nil:
	case held.Tree == t && held.current():
		return held, nil
	case held.users == 0: // replaced by force, or configured in another way since
		x.drop(label, held)
	case held.Dir == t.Dir && held.RW != t.RW && held.current():
		return nil, fmt.Errorf("%w: rw was changed for label %s, and machines have its tree as it was before", nfs3.ErrDenied, label)
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

// room returns an error when another machine writes to the tree.
func (h *heldTree) room(peer netip.Addr, label string) error {
	if !h.RW || !h.writer.IsValid() || h.writer == peer {
		return nil
	}
	return fmt.Errorf("%w: %s writes to the tree of %s, and one machine at a time can", nfs3.ErrDenied, h.writer, label)
}

// take opens and locks a tree.
func (x *Exports) take(label string, t Tree) (*heldTree, error) {
	dir, err := os.Open(t.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w: label %s has no tree: build it first", nfs3.ErrUnknown, label)
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
	if x.trees == nil {
		x.trees = make(map[string]*heldTree)
	}
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
func (x *Exports) release(h *heldTree) {
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

// keep has a tree held for that long from now if it has no users then, or for as long as it was to
// be held anyway. The caller holds the mutex.
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
func (x *Exports) drop(label string, h *heldTree) {
	h.end.Stop()
	h.dir.Close()
	if x.trees[label] == h {
		delete(x.trees, label)
	}
}

// Close lets go of all trees. No connection is left.
func (x *Exports) Close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for label, h := range x.trees {
		x.drop(label, h)
	}
}

// Unmounted makes room for the next writer. The present one may write until its last connection has
// ended. A request from a port from which the machine could not mount is refused, since any program
// on the machine could send it.
func (x *Exports) Unmounted(path string, peer netip.AddrPort) error {
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

// leave forgets the writer. The caller holds the mutex.
func (h *heldTree) leave() { h.writer, h.leaves = netip.Addr{}, false }

// List names the exports for showmount(8).
func (x *Exports) List(context.Context) ([]nfs3.Listed, error) {
	networks, err := x.networks()
	if err != nil {
		return nil, err
	}
	out := []nfs3.Listed{{Path: strings.TrimSuffix(boot.ImagesPath, "/")}}
	trees, _ := x.Current()
	for _, label := range slices.Sorted(maps.Keys(trees)) {
		out = append(out, nfs3.Listed{Path: boot.TreePath(label), Clients: networks})
	}
	return out, nil
}

// networks are those whose machines may have trees.
func (x *Exports) networks() ([]netip.Prefix, error) {
	if _, networks := x.Current(); len(networks) > 0 {
		return networks, nil
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
