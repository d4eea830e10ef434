package nfs3

import (
	"errors"
	"fmt"
	"net/netip"
	"path"
	"sync"

	"golang.org/x/sys/unix"
)

// The MOUNT protocol, version 3 (RFC 1813, appendix I): how a client gets the handle of an export's
// directory.

var mountProcedures = []procedure{
	0: {run: null},
	1: {run: mount, beside: true},
	2: {run: mountDump},
	3: {run: unmount},
	4: {run: unmountAll},
	5: {run: mountExports, beside: true},
}

const (
	maxMountPath = 1024     // MNTPATHLEN
	maxOpens     = 1000     // of one path, while the machine renames
	maxMountName = 255      // MNTNAMLEN
	maxMounts    = 8192     // that are remembered for DUMP
	maxMountList = 64 << 10 // bytes of a list in a reply; longer ones are cut
)

// mount answers MNT.
func mount(c *conn, q *call, out []byte) []byte {
	asked := string(q.args.opaque(maxMountPath))
	if q.args.bad {
		return out
	}
	name, handle, err := c.mount(asked)
	if err != nil {
		c.refused("mount of "+asked, err)
		return appendU32(out, uint32(mountStatus(err)))
	}
	c.srv.loop.Log.Info("nfs3: mounted", "peer", c.PeerName(), "export", name, "path", asked)
	c.srv.mounts.add(c.Peer.Addr(), asked)
	out = appendU32(out, uint32(statusOK))
	out = appendOpaque(out, handle)
	out = appendU32(out, 1)
	return appendU32(out, authSys)
}

// mountStatus is a mountstat3; its numbers are those of the nfsstat3 of the same names, but few.
func mountStatus(err error) status {
	switch {
	case errors.Is(err, ErrUnknown):
		return statusNoEnt
	case errors.Is(err, ErrDenied):
		return statusAcces
	}
	switch s := statusOf(err); s {
	case statusPerm, statusNoEnt, statusIO, statusAcces, statusNotDir, statusInval, statusNameTooLong, statusNotSupp:
		return s
	case statusXDev: // a path that leads out of the export
		return statusAcces
	}
	return statusServerFault
}

// mount returns the export's name and the handle of the directory that is asked for.
func (c *conn) mount(asked string) (name, handle string, err error) {
	if !path.IsAbs(asked) {
		return "", "", fmt.Errorf("%w: a path begins with a slash", ErrUnknown)
	}
	e, rest, err := c.srv.Lookup(c.ctx, path.Clean(asked), c.Peer)
	if err != nil {
		return "", "", err
	}
	defer e.release()
	if err := e.Admits(c.Peer); err != nil {
		return "", "", err
	}
	t, err := c.srv.tree(e)
	if err != nil {
		return "", "", err
	}
	defer c.srv.leave(t)
	fd, err := t.within(rest)
	if err != nil {
		return "", "", fmt.Errorf("%s in export %s: %w", rest, e.Name, err)
	}
	defer unix.Close(fd)
	fh, err := kernelHandle(fd)
	if err != nil {
		return "", "", err
	}
	return e.Name, string(c.srv.seals.make(e.ID, fh)), nil
}

// within opens a directory of the tree by its path. Links inside are followed, nothing leads
// outside (openat2(2), Linux 5.6).
func (t *tree) within(rest string) (int, error) {
	rest = path.Clean("./" + rest)
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(t.fd, rest, &how)
		// EAGAIN: something was renamed or mounted, anywhere on this machine, while the kernel
		// followed a "..".
		if err != unix.EINTR && (err != unix.EAGAIN || try == maxOpens) {
			return fd, err
		}
	}
}

func unmount(c *conn, q *call, out []byte) []byte {
	asked := string(q.args.opaque(maxMountPath))
	if !q.args.bad {
		c.unmount(asked, asked)
	}
	return out
}

func unmountAll(c *conn, _ *call, out []byte) []byte {
	c.unmount("", "all")
	return out
}

// unmount believes a client that it has unmounted path. Neither UMNT nor UMNTALL has a status by
// which to say no.
func (c *conn) unmount(path, called string) {
	if c.srv.Unmounted != nil {
		if err := c.srv.Unmounted(path, c.Peer); err != nil {
			c.refused("unmount of "+called, err)
			return
		}
	}
	c.srv.mounts.remove(c.Peer.Addr(), path)
	c.srv.loop.Log.Info("nfs3: unmounted", "peer", c.PeerName(), "path", called)
}

// mountTable is what clients said that they have mounted. It is for people (showmount -a); nothing
// is decided by it.
type mountTable struct {
	mu  sync.Mutex
	all map[mounted]struct{}
}

type mounted struct {
	peer netip.Addr
	path string
}

func (m *mountTable) add(peer netip.Addr, path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all == nil {
		m.all = make(map[mounted]struct{})
	}
	if len(m.all) < maxMounts {
		m.all[mounted{peer, path}] = struct{}{}
	}
}

// remove forgets one mount, or all of a client when path is empty.
func (m *mountTable) remove(peer netip.Addr, path string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if path != "" {
		delete(m.all, mounted{peer, path})
		return
	}
	for k := range m.all {
		if k.peer == peer {
			delete(m.all, k)
		}
	}
}

// mountDump answers DUMP with the clients and the paths that they mounted.
func mountDump(c *conn, _ *call, out []byte) []byte {
	m := &c.srv.mounts
	m.mu.Lock()
	defer m.mu.Unlock()
	start := len(out)
	for k := range m.all {
		if len(out)-start > maxMountList-maxMountPath-maxMountName-64 {
			break
		}
		out = appendU32(out, 1)
		out = appendOpaque(out, k.peer.String())
		out = appendOpaque(out, k.path)
	}
	return appendU32(out, 0)
}

// mountExports answers EXPORT with the exports, and for each the networks that may use it.
func mountExports(c *conn, _ *call, out []byte) []byte {
	var all []Listed
	if c.srv.List != nil {
		var err error
		if all, err = c.srv.List(c.ctx); err != nil {
			c.srv.loop.Log.Error("nfs3: cannot list the exports", "why", err)
		}
	}
	start := len(out)
	for _, e := range all {
		one := appendU32(nil, 1)
		one = appendOpaque(one, e.Path)
		for _, p := range e.Clients {
			one = appendU32(one, 1)
			one = appendOpaque(one, p.String())
		}
		one = appendU32(one, 0)
		if len(out)-start+len(one) > maxMountList-4 {
			break
		}
		out = append(out, one...)
	}
	return appendU32(out, 0)
}
