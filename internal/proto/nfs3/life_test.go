package nfs3

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/proto/accept"
	"netroot/internal/prototest"
)

func sinceTime(ts unix.Timespec) time.Duration { return time.Since(time.Unix(ts.Unix())) }

// TestHandlesLast: a handle is good after a restart, without a mount, and after a rename; with
// another key it is stale.
func TestHandlesLast(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "sub/file"), []byte("data"), 0o644)
	begin := func(key byte) (*host, func()) {
		h := newHost()
		h.Key[0] = key
		h.export("root", dir, Export{Clients: everywhere, AnyPort: true, TrustRoot: true})
		return h, h.start(t)
	}
	h, stop := begin(1)
	c := h.dial(t)
	root := c.mount("/root")
	fh := c.walk(root, "sub/file")
	_, v := c.getattr(fh)
	stop()
	must(t, os.Rename(filepath.Join(dir, "sub"), filepath.Join(dir, "moved")))
	h, stop = begin(1)
	c = h.dial(t)
	if s, again := c.getattr(fh); s != statusOK || again.fileid != v.fileid || again.fsid != v.fsid {
		t.Errorf("after a restart: status %d, %+v, was %+v", s, again, v)
	}
	if s, data, _ := c.read(fh, 0, 9); s != statusOK || string(data) != "data" {
		t.Errorf("after a restart: status %d, %q", s, data)
	}
	if !bytes.Equal(c.walk(root, "moved/file"), fh) {
		t.Error("the handle is another after a restart")
	}
	stop()
	h, _ = begin(2)
	c = h.dial(t)
	s, _ := c.getattr(fh)
	ok(t, "with another key", s, statusStale)
}

// TestForgedHandles: whatever is not what the server gave out is refused, and nothing is opened for
// it.
func TestForgedHandles(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "in/file"), nil, 0o644)
	write(t, filepath.Join(dir, "out"), []byte("secret"), 0o644)
	h := serveDir(t, filepath.Join(dir, "in"), Export{TrustRoot: true})
	h.export("other", dir, Export{Clients: everywhere, AnyPort: true})
	c := h.dial(t)
	root := c.mount("/root")
	outside := c.walk(c.mount("/other"), "out")
	fh := c.walk(root, "file")
	for i := range fh {
		forged := bytes.Clone(fh)
		forged[i] ^= 1
		if s, _ := c.getattr(forged); s != statusStale && s != statusBadHandle {
			t.Errorf("byte %d changed: status %d", i, s)
		}
	}
	for n := range fh {
		if s, _ := c.getattr(fh[:n]); s != statusStale && s != statusBadHandle {
			t.Errorf("cut to %d: status %d", n, s)
		}
	}
	// What is outside of one export, by the seal of another's.
	forged := append(bytes.Clone(fh[:handleType]), outside[handleType:]...)
	s, _ := c.getattr(forged)
	ok(t, "another file under this file's seal", s, statusStale)
	forged = bytes.Clone(outside)
	copy(forged[handleID:handleSeal], fh[handleID:])
	s, _ = c.getattr(forged)
	ok(t, "another export's file", s, statusStale)
	s, _ = c.getattr(append(bytes.Clone(fh), make([]byte, maxHandle-len(fh))...))
	ok(t, "a longer one", s, statusStale)
}

// TestForgedHandlesOpenNothing: no export is looked up, and no observer told of its use, for a
// handle that was made up. The same connection's good handles are as good as ever.
func TestForgedHandlesOpenNothing(t *testing.T) {
	needRoot(t)
	h := newHost()
	h.export("root", t.TempDir(), Export{Clients: everywhere, AnyPort: true})
	find := h.Find
	var asked atomic.Int32
	h.Find = func(ctx context.Context, id ID, peer netip.AddrPort) (*Export, error) {
		asked.Add(1)
		return find(ctx, id, peer)
	}
	h.start(t)
	c := h.dial(t)
	root := c.mount("/root")
	forged := bytes.Clone(root)
	forged[handleSeal] ^= 1
	s, _ := c.getattr(forged)
	ok(t, "GETATTR", s, statusStale)
	if n := asked.Load(); n != 0 || len(h.Active()) != 0 {
		t.Errorf("a forged handle opened the export: %d times, active %+v", n, h.Active())
	}
	s, _ = c.getattr(root)
	ok(t, "GETATTR", s, statusOK)
	if n := asked.Load(); n != 1 {
		t.Errorf("a good handle opened the export %d times", n)
	}
}

// TestMountWhileOthersRename: a path with ".." is found whatever goes on elsewhere on the machine.
func TestMountWhileOthersRename(t *testing.T) {
	needRoot(t)
	dir, elsewhere := t.TempDir(), t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o755))
	must(t, os.Symlink("../a/b", filepath.Join(dir, "a/link")))
	h := serveDir(t, dir, Export{TrustRoot: true})
	c := h.dial(t)
	write(t, filepath.Join(elsewhere, "0"), nil, 0o644)
	var stop atomic.Bool
	var renaming sync.WaitGroup
	renaming.Go(func() {
		for i := 0; !stop.Load(); i ^= 1 {
			must(t, os.Rename(filepath.Join(elsewhere, strconv.Itoa(i)), filepath.Join(elsewhere, strconv.Itoa(i^1))))
		}
	})
	defer renaming.Wait()
	defer stop.Store(true)
	for range 3000 {
		if s, _ := c.tryMount("/root/a/link"); s != statusOK {
			t.Fatalf("MNT: status %d", s)
		}
	}
}

// TestInside: no path and no ".." leads out of an export, whatever happens on this side.
func TestInside(t *testing.T) {
	needRoot(t)
	top := t.TempDir()
	dir := filepath.Join(top, "in")
	write(t, filepath.Join(top, "secret"), nil, 0o644)
	write(t, filepath.Join(dir, "sub/deep/file"), []byte("data"), 0o644)
	must(t, os.Symlink("../..", filepath.Join(dir, "sub/up")))
	must(t, os.Symlink("/etc", filepath.Join(dir, "etc")))
	must(t, os.Symlink("sub/deep", filepath.Join(dir, "good")))
	h := serveDir(t, dir, Export{TrustRoot: true})
	c := h.dial(t)
	root := c.mount("/root")
	sub, deep := c.walk(root, "sub"), c.walk(root, "sub/deep")
	for path, want := range map[string]status{
		"/root/../..": statusNoEnt, "/root/..": statusNoEnt, "root": statusNoEnt, "": statusNoEnt, "/": statusNoEnt, "/nothing": statusNoEnt,
		"/root/sub/up": statusAcces, "/root/etc": statusAcces, "/root/sub/up/secret": statusAcces, "/root/gone": statusNoEnt,
		"/root/sub/deep/file": statusNotDir, "/root/sub/../sub/deep/": statusOK, "//root/good": statusOK,
	} {
		s, fh := c.tryMount(path)
		ok(t, "MNT of "+path, s, want)
		if s == statusOK && !bytes.Equal(fh, deep) {
			t.Errorf("MNT of %s is another directory", path)
		}
	}
	for _, p := range []struct {
		from  []byte
		name  string
		to    []byte
		where string
	}{{root, "..", root, "above the root"}, {root, ".", root, "the root"}, {deep, "..", sub, "above"}, {sub, "..", root, "above"}} {
		if s, fh, _ := c.lookup(p.from, p.name); s != statusOK || !bytes.Equal(fh, p.to) {
			t.Errorf("LOOKUP of %s %s: status %d", p.name, p.where, s)
		}
	}
	must(t, os.Rename(filepath.Join(dir, "sub"), filepath.Join(top, "sub"))) // to outside
	for _, from := range [][]byte{sub, deep} {
		s, _, _ := c.lookup(from, "..")
		ok(t, "LOOKUP of .. in what was moved to outside", s, statusNoEnt)
	}
	if s, data, _ := c.read(c.walk(deep, "file"), 0, 9); s != statusOK || string(data) != "data" {
		t.Errorf("what was in use before: status %d, %q", s, data)
	}
}

// TestMountPoints: what is mounted inside of an export does not show.
func TestMountPoints(t *testing.T) {
	needRoot(t)
	here, err := os.Open("/")
	must(t, err)
	defer here.Close()
	if err := Check(here); err != nil {
		t.Skip(err)
	}
	h := serveDir(t, "/", Export{ReadOnly: true})
	c := h.dial(t)
	proc := c.walk(c.mount("/root"), "proc")
	for _, e := range c.list(proc, true, 4096) {
		if e.name == "self" {
			t.Error("/proc is exported")
		}
	}
	s, _, _ := c.lookup(proc, "self")
	ok(t, "LOOKUP in /proc", s, statusNoEnt)
	s, _ = c.tryMount("/root/proc/self")
	ok(t, "MNT of /proc/self", s, statusNoEnt)
}

// TestNoHandles: a file system whose files cannot be found again says so before it is exported.
func TestNoHandles(t *testing.T) {
	needRoot(t)
	dir, err := os.Open("/proc/self")
	must(t, err)
	defer dir.Close()
	if err := Check(dir); err == nil || !strings.Contains(err.Error(), "cannot export /proc/self: its file system proc has no file handles") {
		t.Errorf("%v", err)
	}
}

// TestWhoMayMount: an address, a port or a decision of Lookup and Find keeps a client out, of
// mounts and of handles.
func TestWhoMayMount(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	h := newHost()
	h.export("root", dir, Export{Clients: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, AnyPort: true})
	h.export("low", dir, Export{Clients: everywhere})
	holder := netip.MustParseAddr("127.0.0.1")
	lookup, find := h.Lookup, h.Find
	deny := func(e *Export, peer netip.Addr) (*Export, error) {
		if e != nil && e.Name == "held" && peer != holder {
			e.release()
			return nil, fmt.Errorf("%w: %s writes to it", ErrDenied, holder)
		}
		return e, nil
	}
	h.export("held", dir, Export{Clients: everywhere, AnyPort: true})
	h.Lookup = func(ctx context.Context, path string, peer netip.AddrPort) (*Export, string, error) {
		e, rest, err := lookup(ctx, path, peer)
		if err == nil {
			e, err = deny(e, peer.Addr())
		}
		return e, rest, err
	}
	h.Find = func(ctx context.Context, id ID, peer netip.AddrPort) (*Export, error) {
		e, err := find(ctx, id, peer)
		if err == nil {
			e, err = deny(e, peer.Addr())
		}
		return e, err
	}
	h.start(t)
	from := func(addr string, first, last uint16) *client {
		for port := first; ; port++ { // the first that is free
			d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), port))}
			nc, err := d.Dial("tcp", h.addr)
			if err != nil && port < last {
				continue
			}
			must(t, err)
			t.Cleanup(func() { nc.Close() })
			return &client{t: t, nc: nc, r: bufio.NewReader(nc)}
		}
	}
	good, bad := from("127.0.0.1", 0, 0), from("127.0.0.2", 0, 0)
	for _, name := range []string{"root", "held"} {
		fh := good.mount("/" + name)
		s, _ := bad.tryMount("/" + name)
		ok(t, "MNT by another", s, statusAcces)
		s, _ = good.getattr(fh)
		ok(t, "GETATTR", s, statusOK)
		s, _ = bad.getattr(fh)
		ok(t, "GETATTR by another", s, statusAcces)
	}
	s, _ := good.tryMount("/low")
	ok(t, "MNT from a high port", s, statusAcces)
	low := from("127.0.0.1", 700, 1023)
	s, _ = low.getattr(low.mount("/low"))
	ok(t, "GETATTR from a low port", s, statusOK)
	for _, want := range []string{
		`why="access denied: 127.0.0.2 is in none of the networks that may use root"`, `why="access denied: 127.0.0.1 writes to it"`,
		"and low is for ports below 1024", "nfs3: mounted"} {
		if !strings.Contains(h.log.String(), want) {
			t.Errorf("no %s in\n%s", want, h.log)
		}
	}
}

// TestRepeated: a request that comes again after its connection broke gets the same answer, and is
// not done again.
func TestRepeated(t *testing.T) {
	dir, h, c, root := writable(t)
	write(t, filepath.Join(dir, "file"), nil, 0o644)
	body := appendOpaque(appendOpaque(nil, root), "file")
	again := h.dial(t)
	again.xid = c.xid
	for i, k := range []*client{c, again, again} {
		a := k.nfs(procRemove, body)
		want := statusOK
		if i == 2 { // another number: another request
			want = statusNoEnt
		}
		ok(t, "REMOVE", status(a.u32()), want)
	}
}

// TestManyClients reads and writes from many connections with many requests under way. The race
// detector has most to say here.
func TestManyClients(t *testing.T) {
	dir, h, c, root := writable(t)
	noise := make([]byte, 4<<20)
	rand.NewChaCha8([32]byte{2}).Read(noise)
	write(t, filepath.Join(dir, "big"), noise, 0o644)
	big := c.walk(root, "big")
	for i := range h.files.shards {
		h.files.shards[i].most = 1 // lets go of files all the time
	}
	var all sync.WaitGroup
	for n := range 8 {
		k := h.dial(t).as(uint32(n%3)*1000, 0)
		all.Go(func() {
			rnd := rand.New(rand.NewPCG(1, uint64(n)))
			for i := range 40 {
				off, size := rnd.Uint64N(4<<20), 1+rnd.Uint32N(1<<rnd.IntN(20))
				s, data, _ := k.read(big, off, size)
				if stop := min(off+uint64(size), 4<<20); s != statusOK || !bytes.Equal(data, noise[off:stop]) {
					t.Errorf("READ of %d at %d: status %d, %d bytes", size, off, s, len(data))
				}
				if n%3 != 0 {
					continue
				}
				name := fmt.Sprintf("%d-%d", n, i)
				s, fh, _, _ := k.create(root, name, createGuarded, mode(0o644))
				if s != statusOK {
					t.Errorf("CREATE: %d", s)
				}
				k.write(fh, 0, noise[:size], 0)
				s, _, _ = k.rename(root, name, root, "same")
				ok(t, "RENAME", s, statusOK)
				k.list(root, true, 4096)
			}
		})
	}
	all.Wait()
}

// TestRenamesCross: two directories, two clients, two ways.
func TestRenamesCross(t *testing.T) {
	dir, h, c, root := writable(t)
	write(t, filepath.Join(dir, "a/1"), nil, 0o644)
	write(t, filepath.Join(dir, "b/2"), nil, 0o644)
	a, b := c.walk(root, "a"), c.walk(root, "b")
	var all sync.WaitGroup
	for _, w := range []struct {
		from, to []byte
		name     string
	}{{a, b, "1"}, {b, a, "2"}} {
		k := h.dial(t)
		all.Go(func() {
			for range 100 {
				s, _, _ := k.rename(w.from, w.name, w.to, w.name)
				ok(t, "RENAME", s, statusOK)
				s, _, _ = k.rename(w.to, w.name, w.from, w.name)
				ok(t, "RENAME", s, statusOK)
			}
		})
	}
	all.Wait()
}

// TestObserver: what a connection does is told, and a connection can be ended.
func TestObserver(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), []byte("12345"), 0o644)
	h := newHost()
	told := make(chan accept.Event, 10)
	h.Observer = func(e accept.Event) { told <- e }
	h.export("root", dir, Export{Clients: everywhere, AnyPort: true, TrustRoot: true})
	h.start(t)
	c := h.dial(t)
	root := c.mount("/root")
	if n := len(h.Active()); n != 0 {
		t.Errorf("%d use it after a mount alone", n)
	}
	fh := c.walk(root, "file")
	if e := <-told; e.Kind != accept.Attached || e.Session.Export != "root" || e.Session.Peer.String() != c.nc.LocalAddr().String() {
		t.Errorf("told %+v", e)
	}
	c.read(fh, 0, 5)
	c.write(fh, 5, []byte("678"), 0)
	all := h.Active()
	if len(all) != 1 || all[0].Reads != 1 || all[0].ReadBytes != 5 || all[0].Writes != 1 || all[0].WrittenBytes != 3 || all[0].Heard.Before(all[0].Since) {
		t.Fatalf("active: %+v", all)
	}
	if n := h.Disconnect(func(s accept.Session) bool { return s.Export == "other" }); n != 0 {
		t.Errorf("%d disconnected", n)
	}
	if n := h.Disconnect(func(s accept.Session) bool { return s.Export == "root" }); n != 1 {
		t.Errorf("%d disconnected", n)
	}
	if e := <-told; e.Kind != accept.Detached || e.Session.ReadBytes != 5 || e.Why != "disconnected by the server" {
		t.Errorf("told %+v", e)
	}
	if _, _, err := c.reply(); err == nil {
		t.Error("still connected")
	}
	prototest.Until(t, "nobody uses it", func() bool { return len(h.Active()) == 0 })
	if !strings.Contains(h.log.String(), `why="disconnected by the server"`) {
		t.Errorf("log:\n%s", h.log)
	}
}

// TestWithdrawnMeanwhile: an export that is withdrawn while a connection is given it is not used.
func TestWithdrawnMeanwhile(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), []byte("data"), 0o644)
	h := newHost()
	h.export("root", dir, Export{Clients: everywhere, AnyPort: true, TrustRoot: true})
	find, withdrawn := h.Find, false
	h.Find = func(ctx context.Context, id ID, peer netip.AddrPort) (*Export, error) {
		if withdrawn {
			return nil, ErrUnknown
		}
		e, err := find(ctx, id, peer)
		withdrawn = true
		h.Disconnect(func(s accept.Session) bool { return s.Export == "root" })
		return e, err
	}
	h.start(t)
	c := h.dial(t)
	root := c.mount("/root")
	c.nc.Write(c.request(programNFS, nfsVersion, 1, appendOpaque(nil, root)))
	for { // what was asked before may still be answered
		if _, _, err := c.reply(); err != nil {
			break
		}
	}
	prototest.Until(t, "nobody uses it", func() bool { return len(h.Active()) == 0 })
	s, _ := h.dial(t).getattr(root)
	ok(t, "GETATTR in a withdrawn export", s, statusStale)
}

// TestTreeReplaced: what is built anew under the same name is what new mounts get; who has the old
// one keeps it.
func TestTreeReplaced(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "old/file"), []byte("old"), 0o644)
	write(t, filepath.Join(dir, "new/file"), []byte("new"), 0o644)
	h := serveDir(t, filepath.Join(dir, "old"), Export{TrustRoot: true})
	c := h.dial(t)
	old := c.walk(c.mount("/root"), "file")
	h.export("root", filepath.Join(dir, "new"), Export{Clients: everywhere, AnyPort: true, TrustRoot: true})
	c2 := h.dial(t)
	for _, k := range []struct {
		c    *client
		fh   []byte
		want string
	}{{c, old, "old"}, {c2, c2.walk(c2.mount("/root"), "file"), "new"}, {c2, old, "old"}} {
		if s, data, _ := k.c.read(k.fh, 0, 9); s != statusOK || string(data) != k.want {
			t.Errorf("status %d, %q, want %q", s, data, k.want)
		}
	}
}

// TestProbe: a peer that connects and leaves without a word is not logged.
func TestProbe(t *testing.T) {
	h := newHost()
	h.start(t)
	prototest.Probe(t, h.addr, h.log.String, func() (int, uint64) { n := h.Counters(); return n.Open, n.Accepted })
}
