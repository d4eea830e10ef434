package nfs3

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"netroot/internal/proto/accept"
)

// Errors that Lookup and Find wrap.
var (
	ErrUnknown = errors.New("unknown export")
	ErrDenied  = errors.New("access denied")
)

// ID names an export in handles. It is the same at every start of the server.
type ID [8]byte

// IDOf returns the ID of an export that keeps its name.
func IDOf(name string) ID {
	sum := sha256.Sum256([]byte("netroot export " + name))
	return ID(sum[:])
}

// Export is a directory as it is exported to one client. The zero value admits nobody, and trusts
// nobody's root.
type Export struct {
	Name string   // for people and logs
	ID   ID       // in handles; not another export's
	Dir  *os.File // the directory, open; on a file system for which Check returns nil
	// ReadOnly refuses everything that would change something, with NFS3ERR_ROFS.
	ReadOnly bool
	// TrustRoot lets the client's root be root here. Without it, user and group 0 are nobody
	// (65534).
	TrustRoot bool
	// Clients are the networks and machines that may use the export.
	Clients []netip.Prefix
	// AnyPort admits connections from ports above 1023, which any user of a client may open, to
	// claim any user's id; a kernel connects from below. A machine behind an address translation,
	// as in qemu's user network, needs it.
	AnyPort bool
	// Release, when set, is called once when the server does not use this Export any more. Close
	// Dir here.
	Release func()
}

func (e *Export) release() {
	if e != nil && e.Release != nil {
		e.Release()
	}
}

// Admits says whether peer may use the export; the error wraps ErrDenied.
func (e *Export) Admits(peer netip.AddrPort) error {
	within := func(p netip.Prefix) bool { return p.Contains(peer.Addr()) }
	if !slices.ContainsFunc(e.Clients, within) {
		return fmt.Errorf("%w: %s is in none of the networks that may use %s", ErrDenied, peer.Addr(), e.Name)
	}
	if !e.AnyPort && peer.Port() >= 1024 {
		return fmt.Errorf("%w: port %d is one that any user of the client may use, and %s is for ports below 1024",
			ErrDenied, peer.Port(), e.Name)
	}
	return nil
}

// Listed is an export as MOUNT's EXPORT tells it.
type Listed struct {
	Path    string
	Clients []netip.Prefix
}

// attachment is an export in the use of one connection.
type attachment struct {
	conn    *conn
	export  *Export
	tree    *tree
	session *accept.Attachment
}

// refusal is an export that a connection may not use, for a while: a client asks on, many times a
// second.
type refusal struct {
	id    ID
	err   error
	until time.Time
}

const refusalTime = 5 * time.Second

// attach returns the export that handle h names, which the connection may use. Nobody is asked for
// one for the sake of a handle that was made up; of an export that is in use already, the handles
// are verified with their files.
func (c *conn) attach(h []byte) (*attachment, error) {
	id, err := handleExport(h)
	if err != nil {
		return nil, err
	}
	if a := c.last.Load(); a != nil && a.export.ID == id {
		return a, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.attached {
		if a.export.ID == id {
			c.last.Store(a)
			return a, nil
		}
	}
	if c.refusal.err != nil && c.refusal.id == id && time.Now().Before(c.refusal.until) {
		return nil, c.refusal.err
	}
	if _, err := c.srv.seals.verify(h); err != nil {
		return nil, err
	}
	a, err := c.open(id)
	if err != nil {
		c.refused(fmt.Sprintf("export %x", id), err)
		c.refusal = refusal{id, refusedStatus(err), time.Now().Add(refusalTime)}
		return nil, c.refusal.err
	}
	c.attached = append(c.attached, a)
	c.last.Store(a)
	return a, nil
}

// refusedStatus is what a client is told of an export that Find refused.
func refusedStatus(err error) status {
	switch {
	case errors.Is(err, ErrDenied):
		return statusAcces
	case errors.Is(err, ErrUnknown):
		return statusStale
	}
	return statusJukebox // it may pass: the client asks again later
}

func (c *conn) open(id ID) (*attachment, error) {
	before := c.srv.disconnects.Load()
	e, err := c.srv.Find(c.ctx, id, c.Peer)
	if err != nil {
		return nil, err
	}
	if e.ID != id {
		e.release()
		return nil, fmt.Errorf("%w: %x is not %x", ErrUnknown, e.ID, id)
	}
	if err := e.Admits(c.Peer); err != nil {
		e.release()
		return nil, err
	}
	t, err := c.srv.tree(e)
	if err != nil {
		e.release()
		return nil, err
	}
	a := &attachment{conn: c, export: e, tree: t, session: c.Attach(accept.Session{Export: e.Name})}
	a.session.Heard()
	c.srv.mu.Lock()
	c.srv.active[a] = struct{}{}
	c.srv.mu.Unlock()
	if c.srv.disconnects.Load() != before { // it may have missed what Find gave before it
		c.Fail(errDisconnected)
	}
	return a, nil
}

// detach lets go of the exports. Requests must be over.
func (c *conn) detach(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, a := range c.attached {
		c.srv.mu.Lock()
		delete(c.srv.active, a)
		c.srv.mu.Unlock()
		a.session.Detach(why)
		c.srv.leave(a.tree)
		a.export.release()
	}
	c.attached = nil
	c.last.Store(nil)
}
