package nfs3

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"netroot/internal/proto/accept"
	"netroot/internal/testlog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what must happen.
const patience = 20 * time.Second

// needRoot skips a test that exports something: open_by_handle_at, open_tree and setfsuid require
// root.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("an NFS server needs root")
	}
}

var everywhere = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}

// host is a server of some directories, by the first element of their export's path.
type host struct {
	*Server
	exports map[string]Export // without Dir
	dirs    map[string]string
	addr    string
	log     *testlog.Buffer
	mu      sync.Mutex
	held    int // exports that were not released
}

func (h *host) open(name string) (*Export, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e, ok := h.exports[name]
	if !ok {
		return nil, fmt.Errorf("%w: no export %q", ErrUnknown, name)
	}
	dir, err := os.Open(h.dirs[name])
	if err != nil {
		return nil, err
	}
	e.Name, e.ID, e.Dir = name, IDOf(name), dir
	h.held++
	e.Release = func() {
		h.mu.Lock()
		h.held--
		h.mu.Unlock()
		dir.Close()
	}
	return &e, nil
}

func (h *host) export(name, dir string, e Export) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.exports[name], h.dirs[name] = e, dir
}

// newHost makes the server of host; start runs it.
func newHost() *host {
	h := &host{exports: map[string]Export{}, dirs: map[string]string{}, log: &testlog.Buffer{}}
	h.Server = &Server{
		Options: accept.Options{Log: slog.New(slog.NewTextHandler(h.log, nil))},
		Lookup: func(_ context.Context, path string, _ netip.AddrPort) (*Export, string, error) {
			name, rest, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
			e, err := h.open(name)
			return e, rest, err
		},
		Find: func(_ context.Context, id ID, _ netip.AddrPort) (*Export, error) {
			h.mu.Lock()
			var name string
			for n := range h.exports {
				if IDOf(n) == id {
					name = n
				}
			}
			h.mu.Unlock()
			return h.open(name)
		},
	}
	return h
}

// start serves until the test ends; what it returns ends it before.
func (h *host) start(t testing.TB) (stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.Serve(ctx, l) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.held != 0 {
			t.Errorf("%d exports not released", h.held)
		}
		if n := len(h.trees); n != 0 {
			t.Errorf("%d trees not closed", n)
		}
	})
	t.Cleanup(stop)
	return stop
}

// serveDir serves dir as "root", to be written, by whom root is trusted, unless e says otherwise.
func serveDir(t testing.TB, dir string, e Export) *host {
	t.Helper()
	needRoot(t)
	h := newHost()
	if e.Clients == nil {
		e.Clients = everywhere
	}
	e.AnyPort = true
	h.export("root", dir, e)
	h.start(t)
	return h
}

// client speaks to a server over one connection. Its methods fail the test where the protocol is
// broken.
type client struct {
	t    testing.TB
	nc   net.Conn
	r    *bufio.Reader
	xid  uint32
	uid  uint32
	gid  uint32
	gids []uint32
}

func (h *host) dial(t testing.TB) *client {
	t.Helper()
	nc, err := net.Dial("tcp", h.addr)
	if err != nil {
		t.Fatal(err)
	}
	nc.SetDeadline(time.Now().Add(3 * patience))
	t.Cleanup(func() { nc.Close() })
	return &client{t: t, nc: nc, r: bufio.NewReader(nc)}
}

// as returns the client with other credentials.
func (c *client) as(uid, gid uint32, gids ...uint32) *client {
	o := *c
	o.uid, o.gid, o.gids = uid, gid, gids
	return &o
}

// request returns the record of a call.
func (c *client) request(prog, vers, proc uint32, body []byte) []byte {
	b := appendU32(nil, 0)
	for _, v := range []uint32{c.xid, msgCall, rpcVersion, prog, vers, proc, authSys} {
		b = appendU32(b, v)
	}
	cred := appendU32(nil, 0)
	cred = appendOpaque(cred, "test")
	cred = appendU32(cred, c.uid)
	cred = appendU32(cred, c.gid)
	cred = appendU32(cred, uint32(len(c.gids)))
	for _, g := range c.gids {
		cred = appendU32(cred, g)
	}
	b = appendOpaque(b, cred)
	b = appendU64(b, 0) // verifier
	return end(append(b, body...), 0)
}

// reply reads one record.
func (c *client) reply() (xid uint32, a args, err error) {
	var mark [4]byte
	if _, err := io.ReadFull(c.r, mark[:]); err != nil {
		return 0, a, err
	}
	n := be.Uint32(mark[:])
	if n&lastFragment == 0 {
		return 0, a, errors.New("a reply in fragments")
	}
	a.b = make([]byte, n&^lastFragment)
	if _, err := io.ReadFull(c.r, a.b); err != nil {
		return 0, a, err
	}
	xid = a.u32()
	if a.u32() != msgReply {
		return 0, a, errors.New("no reply")
	}
	return xid, a, nil
}

// call makes a call and returns its result; it must be accepted.
func (c *client) call(prog, vers, proc uint32, body []byte) args {
	c.t.Helper()
	c.xid++
	if _, err := c.nc.Write(c.request(prog, vers, proc, body)); err != nil {
		c.t.Fatal(err)
	}
	xid, a, err := c.reply()
	if err != nil || xid != c.xid {
		c.t.Fatalf("call %d of %d: reply %d, %v", proc, prog, xid, err)
	}
	for i, want := range []uint32{replyAccepted, authNone, 0, acceptSuccess} {
		if got := a.u32(); got != want {
			c.t.Fatalf("call %d of %d: word %d of the reply is %d", proc, prog, i, got)
		}
	}
	return a
}

// ended checks that a is all read.
func (c *client) ended(a args, what string) {
	c.t.Helper()
	if a.bad || len(a.b) != 0 {
		c.t.Fatalf("%s: result is bad: %v, %d bytes more", what, a.bad, len(a.b))
	}
}

// tryMount returns a status and the handle of a path.
func (c *client) tryMount(path string) (status, []byte) {
	c.t.Helper()
	a := c.call(programMount, mountVersion, 1, appendOpaque(nil, path))
	s := status(a.u32())
	if s != statusOK {
		c.ended(a, "MNT")
		return s, nil
	}
	h := a.opaque(maxHandle)
	if n, f := a.u32(), a.u32(); n != 1 || f != authSys {
		c.t.Fatalf("MNT: flavors %d, %d", n, f)
	}
	c.ended(a, "MNT")
	return s, h
}

func (c *client) mount(path string) []byte {
	c.t.Helper()
	s, h := c.tryMount(path)
	if s != statusOK {
		c.t.Fatalf("mount of %s: status %d", path, s)
	}
	return h
}

func (c *client) nfs(proc uint32, body []byte) args {
	c.t.Helper()
	return c.call(programNFS, nfsVersion, proc, body)
}

// attr is an fattr3.
type attr struct {
	kind, mode, nlink, uid, gid uint32
	size, used                  uint64
	major, minor                uint32
	fsid, fileid                uint64
	atime, mtime, ctime         unix.Timespec
}

func (a *args) attr() (v attr) {
	v.kind, v.mode, v.nlink, v.uid, v.gid = a.u32(), a.u32(), a.u32(), a.u32(), a.u32()
	v.size, v.used, v.major, v.minor = a.u64(), a.u64(), a.u32(), a.u32()
	v.fsid, v.fileid = a.u64(), a.u64()
	for _, t := range []*unix.Timespec{&v.atime, &v.mtime, &v.ctime} {
		t.Sec, t.Nsec = int64(a.u32()), int64(a.u32())
	}
	return v
}

// post reads a post_op_attr; nil is none.
func (a *args) post() *attr {
	if !a.flag() {
		return nil
	}
	v := a.attr()
	return &v
}

func (c *client) getattr(h []byte) (status, attr) {
	c.t.Helper()
	a := c.nfs(procGetattr, appendOpaque(nil, h))
	s := status(a.u32())
	var v attr
	if s == statusOK {
		v = a.attr()
	}
	c.ended(a, "GETATTR")
	return s, v
}

func (c *client) lookup(dir []byte, name string) (status, []byte, *attr) {
	c.t.Helper()
	a := c.nfs(procLookup, appendOpaque(appendOpaque(nil, dir), name))
	s := status(a.u32())
	if s != statusOK {
		a.post()
		c.ended(a, "LOOKUP")
		return s, nil, nil
	}
	h := a.opaque(maxHandle)
	v := a.post()
	a.post()
	c.ended(a, "LOOKUP")
	return s, h, v
}

// walk returns the handle of a path below dir.
func (c *client) walk(dir []byte, path string) []byte {
	c.t.Helper()
	for name := range strings.SplitSeq(path, "/") {
		s, h, _ := c.lookup(dir, name)
		if s != statusOK {
			c.t.Fatalf("LOOKUP of %s in %s: status %d", name, path, s)
		}
		dir = h
	}
	return dir
}

func (c *client) access(h []byte, bits uint32) (status, uint32) {
	c.t.Helper()
	a := c.nfs(procAccess, appendU32(appendOpaque(nil, h), bits))
	s := status(a.u32())
	a.post()
	var got uint32
	if s == statusOK {
		got = a.u32()
	}
	c.ended(a, "ACCESS")
	return s, got
}

func (c *client) read(h []byte, off uint64, n uint32) (s status, data []byte, eof bool) {
	c.t.Helper()
	b := appendU64(appendOpaque(nil, h), off)
	a := c.nfs(procRead, appendU32(b, n))
	s = status(a.u32())
	a.post()
	if s == statusOK {
		count := a.u32()
		eof = a.flag()
		data = a.opaque(maxData)
		if uint32(len(data)) != count {
			c.t.Fatalf("READ: count %d, %d bytes", count, len(data))
		}
	}
	c.ended(a, "READ")
	return s, data, eof
}

func (c *client) readlink(h []byte) (status, string) {
	c.t.Helper()
	a := c.nfs(procReadlink, appendOpaque(nil, h))
	s := status(a.u32())
	a.post()
	var text string
	if s == statusOK {
		text = string(a.opaque(maxPath))
	}
	c.ended(a, "READLINK")
	return s, text
}

func write(t testing.TB, name string, data []byte, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, mode.Perm()); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil { // past the umask
		t.Fatal(err)
	}
}
