package serve

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/boot"
	"netroot/internal/handoff"
	"netroot/internal/proto/nfs3"
	"netroot/internal/site"
	"netroot/internal/store"
)

var (
	one = netip.MustParseAddrPort("10.0.0.1:700")
	two = netip.MustParseAddrPort("10.0.0.2:700")
)

// exporting makes exports of two trees: "shared", and "own", which one machine writes to.
func exporting(t *testing.T) (*exports, *store.Store) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("handles of files are for root")
	}
	s, err := store.Create(filepath.Join(t.TempDir(), "images"))
	if err != nil {
		t.Fatal(err)
	}
	trees := map[string]Tree{}
	for _, label := range []string{"shared", "own"} {
		dir := filepath.Join(t.TempDir(), label)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		trees[label] = Tree{Dir: dir, RW: label == "own"}
	}
	x := newExports(Config{Store: s, NFS: NFS{Trees: trees, Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}})
	t.Cleanup(x.close)
	return x, s
}

// free tells whether a tree could be replaced, as a build asks.
func free(t *testing.T, dir string) bool {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil
}

func TestExports(t *testing.T) {
	x, _ := exporting(t)
	for path, want := range map[string]struct {
		name, rest string
		readOnly   bool
	}{
		"/shared":         {"/shared", "", true},
		"/shared/usr/bin": {"/shared", "usr/bin", true},
		"/own":            {"/own", "", false},
		"/.images/abc":    {"/.images", "abc", true},
	} {
		e, rest, err := x.lookup(t.Context(), path, one)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if e.Name != want.name || rest != want.rest || e.ReadOnly != want.readOnly || e.AnyPort != (want.name == "/.images") {
			t.Errorf("%s is %+v, below it %q", path, e, rest)
		}
		again, err := x.find(t.Context(), e.ID, one)
		if err != nil || again.Name != e.Name {
			t.Errorf("by its ID %s is %+v, %v", path, again, err)
		} else {
			again.Release()
		}
		e.Release()
	}
	for _, path := range []string{"/", "/none", "/none/shared", "//"} {
		if _, _, err := x.lookup(t.Context(), path, one); !errors.Is(err, nfs3.ErrUnknown) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := x.find(t.Context(), nfs3.IDOf("none"), one); !errors.Is(err, nfs3.ErrUnknown) {
		t.Errorf("an ID that nothing has: %v", err)
	}
	list, err := x.list(t.Context())
	if err != nil || len(list) != 3 || list[2].Path != "/shared" || len(list[2].Clients) != 1 {
		t.Errorf("listed: %+v, %v", list, err)
	}
}

// TestOneWriter: a tree that is written to is one machine's, until that has unmounted it.
func TestOneWriter(t *testing.T) {
	x, _ := exporting(t)
	first, err := x.open("own", one)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.open("own", two); !errors.Is(err, nfs3.ErrDenied) || !strings.Contains(err.Error(), "10.0.0.1 writes to the tree of own") {
		t.Errorf("a second writer: %v", err)
	}
	back, err := x.open("own", one) // rebooted
	if err != nil {
		t.Fatal(err)
	}
	first.Release()
	back.Release()
	if _, err := x.open("own", two); err == nil {
		t.Error("a writer that is quiet for a moment has lost its tree")
	}
	if err := x.unmounted("/own", one); err != nil {
		t.Fatal(err)
	}
	second, err := x.open("own", two)
	if err != nil {
		t.Fatal(err)
	}
	second.Release()
}

// TestOnlyTheAdmittedWrite: who may not mount, by network or port, neither becomes the writer nor keeps the tree in use.
func TestOnlyTheAdmittedWrite(t *testing.T) {
	x, _ := exporting(t)
	for _, peer := range []string{"10.0.0.2:1024", "10.0.1.2:700"} {
		stranger := netip.MustParseAddrPort(peer)
		if _, _, err := x.lookup(t.Context(), "/own", stranger); !errors.Is(err, nfs3.ErrDenied) {
			t.Errorf("a mount by %s: %v", peer, err)
		}
		if _, err := x.find(t.Context(), nfs3.IDOf("own"), stranger); !errors.Is(err, nfs3.ErrDenied) {
			t.Errorf("a handle of %s: %v", peer, err)
		}
		if !free(t, x.Trees["own"].Dir) {
			t.Errorf("%s, who was refused, keeps the tree in use", peer)
		}
	}
	owner, err := x.open("own", one)
	if err != nil {
		t.Fatal(err)
	}
	owner.Release()
}

// TestWriterLeaves: who says that it has unmounted a tree is its writer for as long as it has connections, and is not
// believed from a port that anyone's program may have.
func TestWriterLeaves(t *testing.T) {
	x, _ := exporting(t)
	open := func(peer netip.AddrPort) *nfs3.Export {
		t.Helper()
		e, err := x.open("own", peer)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	refused := func(when string) {
		t.Helper()
		if e, err := x.open("own", two); !errors.Is(err, nfs3.ErrDenied) {
			t.Errorf("a second writer %s: %+v, %v", when, e, err)
		}
	}
	unmounted := func(path string, peer netip.AddrPort) {
		t.Helper()
		if err := x.unmounted(path, peer); err != nil {
			t.Error(err)
		}
	}
	open(one).Release()
	for _, path := range []string{"/own", ""} {
		anyone := netip.AddrPortFrom(one.Addr(), 40000)
		if err := x.unmounted(path, anyone); !errors.Is(err, nfs3.ErrDenied) || !strings.Contains(err.Error(), "port 40000") {
			t.Errorf("unmounted %q from a high port: %v", path, err)
		}
		refused("after an unmount from a high port")
	}
	unmounted("", two) // which has nothing
	refused("that has unmounted what it did not have")

	first, second := open(one), open(one)
	unmounted("/own", one)
	refused("beside the connections of the first")
	first.Release()
	refused("beside a connection of the first")
	third := open(one) // it has mounted the tree again
	second.Release()
	third.Release()
	refused("after the first has mounted it again")
	fourth := open(one)
	unmounted("", one)
	fourth.Release()
	open(two).Release()
}

// TestTreesAreHeld: builds see that a tree is in use, and what replaced one by force is what the next machine gets.
func TestTreesAreHeld(t *testing.T) {
	x, _ := exporting(t)
	dir := x.Trees["shared"].Dir
	if !free(t, dir) {
		t.Error("a tree that nobody has is held")
	}
	a, err := x.open("shared", one)
	if err != nil {
		t.Fatal(err)
	}
	b, err := x.open("shared", two)
	if err != nil {
		t.Fatal(err)
	}
	a.Release()
	if free(t, dir) {
		t.Error("a tree in use can be replaced")
	}
	if err := os.Rename(dir, dir+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	c, err := x.open("shared", one)
	if err != nil {
		t.Fatal(err)
	}
	now, err := c.Dir.Stat()
	if there, serr := os.Stat(dir); err != nil || serr != nil || !os.SameFile(now, there) {
		t.Errorf("the next machine gets the old tree: %v, %v", err, serr)
	}
	b.Release()
	c.Release()
	x.close()
	if !free(t, dir) {
		t.Error("held after the end")
	}
	// Another process that hands it to a writer has it alone.
	other, err := os.Open(x.Trees["own"].Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := unix.Flock(int(other.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	if err := x.ready("own", one.Addr()); !errors.Is(err, nfs3.ErrDenied) || !strings.Contains(err.Error(), "another server") {
		t.Errorf("a tree that another server has: %v", err)
	}
}

// TestTreesAreLetGo: a tree whose machines have gone is in use for a while, and one that was only asked for for a moment.
func TestTreesAreLetGo(t *testing.T) {
	for label, linger := range map[string]time.Duration{"shared": readerLinger, "own": writerLinger} {
		x, _ := exporting(t)
		dir := x.Trees[label].Dir
		synctest.Test(t, func(t *testing.T) {
			defer x.close()
			pass := func(d time.Duration, what string, held bool) {
				t.Helper()
				time.Sleep(d) // of the bubble's clock
				synctest.Wait()
				if free(t, dir) == held {
					t.Errorf("%s, %s, %v later: held %v, want %v", label, what, d, !held, held)
				}
			}
			plan := func() {
				t.Helper()
				if err := x.ready(label, one.Addr()); err != nil {
					t.Fatal(err)
				}
			}
			visit := func() {
				t.Helper()
				e, err := x.open(label, one)
				if err != nil {
					t.Fatal(err)
				}
				e.Release()
			}
			const moment = time.Second
			plan()
			pass(planLinger-moment, "a plan", true)
			plan()
			pass(planLinger-moment, "a second plan", true)
			pass(2*moment, "a second plan", false)

			visit()
			plan()
			pass(linger-moment, "a machine, and a plan", true)
			visit()
			visit() // at the same moment
			pass(linger-moment, "a machine that came back", true)
			pass(2*moment, "a machine that came back", false)

			e, err := x.open(label, one)
			if err != nil {
				t.Fatal(err)
			}
			plan()
			pass(10*linger, "a machine that is there", true)
			e.Release()
			if label == "own" { // asking for a tree that another one writes to does not keep it that one's
				pass(linger-moment, "the last machine", true)
				if err := x.ready(label, two.Addr()); !errors.Is(err, nfs3.ErrDenied) {
					t.Errorf("a plan for a second machine: %v", err)
				}
				pass(2*moment, "the last machine", false)
			}
		})
	}
}

// TestNFSPlan: machines are sent to the server for trees and images, and told at once when they cannot have the tree.
func TestNFSPlan(t *testing.T) {
	x, images := exporting(t)
	l, err := Listen("--nfs", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	im := commit(t, images, "shared", map[store.Role][]byte{store.RoleRoot: random(1, 5000), store.RoleKernel: random(2, 10), store.RoleInitramfs: random(3, 10)})
	plan := func(transport handoff.Transport, trees map[string]Tree) (string, error) {
		s, err := New(Config{
			Store: images, NFS: NFS{Trees: trees}, Site: labels(site.Label{Name: "shared", Transport: transport}),
		}, l, map[handoff.Transport]net.Listener{handoff.NFS: l})
		if err != nil {
			return "", err
		}
		defer s.exports.close()
		p, err := s.Plan(boot.Machine{Server: "10.0.0.9", Ref: im.Label})
		return strings.Join(p.Cmdline, " "), err
	}
	if got, err := plan(handoff.NFS, x.Trees); err != nil || !strings.Contains(got, "root=nfs:10.0.0.9:/shared:ro,") {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := plan("", nil); err != nil || !strings.Contains(got, "root=live:nfs://10.0.0.9:") {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := plan(handoff.NFS, nil); err == nil || !strings.Contains(err.Error(), `"shared" is not exported here`) {
		t.Errorf("%s, %v", got, err)
	}
}

// TestSecondWriterIsTold: the boot script of a machine that asks while another one writes to the tree says so, and asking
// for one makes nobody the writer.
func TestSecondWriterIsTold(t *testing.T) {
	x, images := exporting(t)
	l, err := Listen("--nfs", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	commit(t, images, "own", map[store.Role][]byte{store.RoleRoot: random(1, 5000), store.RoleKernel: random(2, 10), store.RoleInitramfs: random(3, 10)})
	s, err := New(Config{
		Store: images, NFS: x.NFS, Site: labels(site.Label{Name: "own", RW: true}),
	}, l, map[handoff.Transport]net.Listener{handoff.NFS: l})
	if err != nil {
		t.Fatal(err)
	}
	defer s.exports.close()
	script := func(from string) string {
		r := httptest.NewRequest("GET", "http://10.0.0.9:8010/boot/own.ipxe?arch=i386&platform=pcbios", nil)
		r.RemoteAddr = from
		r.Header.Set("User-Agent", "iPXE/1.21.1")
		w := httptest.NewRecorder()
		s.handler().ServeHTTP(w, r)
		return w.Body.String()
	}
	boots := func(from string) {
		t.Helper()
		if got := script(from); !strings.Contains(got, "root=nfs:10.0.0.9:/own:rw,") {
			t.Errorf("the script for %s:\n%s", from, got)
		}
	}
	boots("10.0.0.1:5000")
	boots("[::ffff:10.0.0.2]:5000")
	writer, err := s.exports.open("own", two)
	if err != nil {
		t.Fatal(err)
	}
	writer.Release()
	boots("[::ffff:10.0.0.2]:5000") // which boots again
	if got := script("10.0.0.1:5000"); strings.Contains(got, "root=") ||
		!strings.Contains(got, "echo netroot: access denied: 10.0.0.2 writes to the tree of own, and one machine at a time can") {
		t.Errorf("the script for a second machine:\n%s", got)
	}
	if _, err := s.Plan(boot.Machine{Server: "10.0.0.9", Ref: "own"}); err != nil {
		t.Errorf("for no machine: %v", err)
	}
	if err := s.exports.unmounted("/own", two); err != nil {
		t.Fatal(err)
	}
	boots("10.0.0.1:5000")
}

// TestPortmap asks for the port of NFS version 3 by TCP as RFC 1833, section 3 has it, over UDP.
func TestPortmap(t *testing.T) {
	_, images := exporting(t)
	var l [2]net.Listener
	for i := range l {
		var err error
		if l[i], err = Listen("test", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
	}
	pm, err := ListenPortmap("--portmap", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Store: images, NFS: NFS{Portmap: pm}}, l[0], map[handoff.Transport]net.Listener{handoff.NFS: l[1]})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()

	conn, err := net.Dial("udp", pm.UDP.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	var call []byte
	for _, word := range []uint32{7, 0, 2, 100000, 2, 3, 0, 0, 0, 0, 100003, 3, 6, 0} { // GETPORT of program, version, protocol
		call = binary.BigEndian.AppendUint32(call, word)
	}
	if _, err := conn.Write(call); err != nil {
		t.Fatal(err)
	}
	reply := make([]byte, 100)
	n, err := conn.Read(reply)
	if err != nil || n != 28 {
		t.Fatalf("a reply of %d bytes, %v", n, err)
	}
	if port := binary.BigEndian.Uint32(reply[24:]); int(port) != l[1].Addr().(*net.TCPAddr).Port {
		t.Errorf("NFS is on port %d, not %d", l[1].Addr().(*net.TCPAddr).Port, port)
	}
}
