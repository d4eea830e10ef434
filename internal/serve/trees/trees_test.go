package trees

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/proto/nfs3"
)

var (
	one = netip.MustParseAddrPort("10.0.0.1:700")
	two = netip.MustParseAddrPort("10.0.0.2:700")
)

// exporter is Exports of trees that a test changes.
type exporter struct {
	*Exports
	trees map[string]Tree
}

// exporting makes exports of two trees: "shared", and "own", which one machine writes to.
func exporting(t *testing.T) *exporter {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("handles of files are for root")
	}
	trees := map[string]Tree{}
	for _, label := range []string{"shared", "own"} {
		dir := filepath.Join(t.TempDir(), label)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		trees[label] = Tree{Dir: dir, RW: label == "own"}
	}
	x := &exporter{trees: trees}
	x.Exports = &Exports{Blobs: t.TempDir(), Current: func() (map[string]Tree, []netip.Prefix) {
		return x.trees, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}
	}}
	t.Cleanup(x.Close)
	return x
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
	x := exporting(t)
	for path, want := range map[string]struct {
		name, rest string
		readOnly   bool
	}{
		"/shared":         {"/shared", "", true},
		"/shared/usr/bin": {"/shared", "usr/bin", true},
		"/own":            {"/own", "", false},
		"/.images/abc":    {"/.images", "abc", true},
	} {
		e, rest, err := x.Lookup(t.Context(), path, one)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if e.Name != want.name || rest != want.rest || e.ReadOnly != want.readOnly || e.AnyPort != (want.name == "/.images") {
			t.Errorf("%s is %+v, below it %q", path, e, rest)
		}
		again, err := x.Find(t.Context(), e.ID, one)
		if err != nil || again.Name != e.Name {
			t.Errorf("by its ID %s is %+v, %v", path, again, err)
		} else {
			again.Release()
		}
		e.Release()
	}
	for _, path := range []string{"/", "/none", "/none/shared", "//"} {
		if _, _, err := x.Lookup(t.Context(), path, one); !errors.Is(err, nfs3.ErrUnknown) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := x.Find(t.Context(), nfs3.IDOf("none"), one); !errors.Is(err, nfs3.ErrUnknown) {
		t.Errorf("an ID that nothing has: %v", err)
	}
	list, err := x.List(t.Context())
	if err != nil || len(list) != 3 || list[2].Path != "/shared" || len(list[2].Clients) != 1 {
		t.Errorf("listed: %+v, %v", list, err)
	}
}

// TestOneWriter: a tree that is written to is one machine's, until that has unmounted it.
func TestOneWriter(t *testing.T) {
	x := exporting(t)
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
	if err := x.Unmounted("/own", one); err != nil {
		t.Fatal(err)
	}
	second, err := x.open("own", two)
	if err != nil {
		t.Fatal(err)
	}
	second.Release()
}

// TestOnlyTheAdmittedWrite: who may not mount, by network or port, neither becomes the writer nor
// keeps the tree in use.
func TestOnlyTheAdmittedWrite(t *testing.T) {
	x := exporting(t)
	for _, peer := range []string{"10.0.0.2:1024", "10.0.1.2:700"} {
		stranger := netip.MustParseAddrPort(peer)
		if _, _, err := x.Lookup(t.Context(), "/own", stranger); !errors.Is(err, nfs3.ErrDenied) {
			t.Errorf("a mount by %s: %v", peer, err)
		}
		if _, err := x.Find(t.Context(), nfs3.IDOf("own"), stranger); !errors.Is(err, nfs3.ErrDenied) {
			t.Errorf("a handle of %s: %v", peer, err)
		}
		if !free(t, x.trees["own"].Dir) {
			t.Errorf("%s, who was refused, keeps the tree in use", peer)
		}
	}
	owner, err := x.open("own", one)
	if err != nil {
		t.Fatal(err)
	}
	owner.Release()
}

// TestWriterLeaves: who says that it has unmounted a tree is its writer for as long as it has
// connections, and is not believed from a port that anyone's program may have.
func TestWriterLeaves(t *testing.T) {
	x := exporting(t)
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
		if err := x.Unmounted(path, peer); err != nil {
			t.Error(err)
		}
	}
	open(one).Release()
	for _, path := range []string{"/own", ""} {
		anyone := netip.AddrPortFrom(one.Addr(), 40000)
		if err := x.Unmounted(path, anyone); !errors.Is(err, nfs3.ErrDenied) || !strings.Contains(err.Error(), "port 40000") {
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

// TestTreesAreHeld: builds see that a tree is in use, and what replaced one by force is what the
// next machine gets.
func TestTreesAreHeld(t *testing.T) {
	x := exporting(t)
	dir := x.trees["shared"].Dir
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
	x.Close()
	if !free(t, dir) {
		t.Error("held after the end")
	}
	// Another process that hands it to a writer has it alone.
	other, err := os.Open(x.trees["own"].Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := unix.Flock(int(other.Fd()), unix.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	if err := x.Ready("own", one.Addr()); !errors.Is(err, nfs3.ErrDenied) || !strings.Contains(err.Error(), "another server") {
		t.Errorf("a tree that another server has: %v", err)
	}
}

// TestTreesAreLetGo: a tree whose machines have gone is in use for a while, and one that was only
// asked for for a moment.
func TestTreesAreLetGo(t *testing.T) {
	for label, linger := range map[string]time.Duration{"shared": readerLinger, "own": writerLinger} {
		x := exporting(t)
		dir := x.trees[label].Dir
		synctest.Test(t, func(t *testing.T) {
			defer x.Close()
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
				if err := x.Ready(label, one.Addr()); err != nil {
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
				if err := x.Ready(label, two.Addr()); !errors.Is(err, nfs3.ErrDenied) {
					t.Errorf("a plan for a second machine: %v", err)
				}
				pass(2*moment, "the last machine", false)
			}
		})
	}
}

// A tree that is exported no more is refused to further machines, and stays with those that have it
// until they leave.
func TestTreesFollowTheConfiguration(t *testing.T) {
	x := exporting(t)
	all := x.trees
	e, _, err := x.Lookup(t.Context(), "/shared", one)
	if err != nil {
		t.Fatal(err)
	}
	x.trees = map[string]Tree{"own": all["own"]}
	if _, _, err := x.Lookup(t.Context(), "/shared", two); !errors.Is(err, nfs3.ErrUnknown) {
		t.Errorf("mounted after its removal: %v", err)
	}
	if list, err := x.List(t.Context()); err != nil || len(list) != 2 {
		t.Errorf("listed: %+v, %v", list, err)
	}
	again, err := x.Find(t.Context(), e.ID, one) // it connects again
	if err != nil || !again.ReadOnly || again.Name != "/shared" {
		t.Fatalf("who has it: %+v, %v", again, err)
	}
	stranger := netip.MustParseAddrPort("192.0.2.1:700")
	if _, err := x.Find(t.Context(), e.ID, stranger); !errors.Is(err, nfs3.ErrDenied) {
		t.Errorf("a stranger: %v", err)
	}
	// As one that is written to it is another export, which waits for those who have it.
	x.trees = map[string]Tree{"shared": {Dir: all["shared"].Dir, RW: true}}
	if _, _, err := x.Lookup(t.Context(), "/shared", two); !errors.Is(err, nfs3.ErrDenied) || !strings.Contains(err.Error(), "rw was changed") {
		t.Errorf("rw while it is read: %v", err)
	}
	e.Release()
	again.Release()
	e, _, err = x.Lookup(t.Context(), "/shared", two)
	if err != nil || e.ReadOnly {
		t.Fatalf("rw when they have left: %+v, %v", e, err)
	}
	e.Release()
}

// Whoever could not mount a tree does not keep it from being built anew by asking for the boot
// script.
func TestStrangersDoNotHoldTrees(t *testing.T) {
	x := exporting(t)
	dir := x.trees["shared"].Dir
	if err := x.Ready("shared", netip.MustParseAddr("192.0.2.1")); err != nil {
		t.Error(err)
	}
	if !free(t, dir) {
		t.Error("a stranger's question holds the tree")
	}
	if err := x.Ready("none", netip.MustParseAddr("192.0.2.1")); !errors.Is(err, nfs3.ErrUnknown) {
		t.Error(err)
	}
	if err := x.Ready("shared", one.Addr()); err != nil {
		t.Error(err)
	}
	if free(t, dir) {
		t.Error("a machine's question does not hold the tree")
	}
}
