package serve

import (
	"context"
	"encoding/binary"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"netroot/internal/boot"
	"netroot/internal/handoff"
	"netroot/internal/serve/trees"
	"netroot/internal/site"
	"netroot/internal/store"
)

var two = netip.MustParseAddrPort("10.0.0.2:700")

// exporting makes two trees: "shared", and "own", which one machine writes to.
func exporting(t *testing.T) (map[string]trees.Tree, *store.Store) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: handles of files are for root")
	}
	s, err := store.Create(filepath.Join(t.TempDir(), "images"))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]trees.Tree{}
	for _, label := range []string{"shared", "own"} {
		dir := filepath.Join(t.TempDir(), label)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		all[label] = trees.Tree{Dir: dir, RW: label == "own"}
	}
	return all, s
}

// TestNFSPlan: machines are sent to the server for trees and images, and told at once when they
// cannot have the tree.
func TestNFSPlan(t *testing.T) {
	all, images := exporting(t)
	l, err := Listen("--nfs", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	im := commit(t, images, "shared", map[store.Role][]byte{store.RoleRoot: random(1, 5000), store.RoleKernel: random(2, 10), store.RoleInitramfs: random(3, 10)})
	plan := func(transport handoff.Transport, exported map[string]trees.Tree) (string, error) {
		s, err := New(Config{
			Store: images, NFS: NFS{Trees: exported}, Site: labels(site.Label{Name: "shared", Transport: transport}),
		}, l, map[handoff.Transport]net.Listener{handoff.NFS: l})
		if err != nil {
			return "", err
		}
		defer s.exports.Close()
		p, err := s.Plan(boot.Machine{Server: "10.0.0.9", Ref: im.Label})
		return strings.Join(p.Cmdline, " "), err
	}
	if got, err := plan(handoff.NFS, all); err != nil || !strings.Contains(got, "root=nfs:10.0.0.9:/shared:ro,") {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := plan("", map[string]trees.Tree{}); err != nil || !strings.Contains(got, "root=live:nfs://10.0.0.9:") {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := plan(handoff.NFS, map[string]trees.Tree{}); err == nil || !strings.Contains(err.Error(), `"shared" is not exported here`) {
		t.Errorf("%s, %v", got, err)
	}
}

// TestSecondWriterIsTold: the boot script of a machine that asks while another one writes to the
// tree says so, and asking for one makes nobody the writer.
func TestSecondWriterIsTold(t *testing.T) {
	all, images := exporting(t)
	l, err := Listen("--nfs", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	commit(t, images, "own", map[store.Role][]byte{store.RoleRoot: random(1, 5000), store.RoleKernel: random(2, 10), store.RoleInitramfs: random(3, 10)})
	s, err := New(Config{
		Store: images, NFS: NFS{Trees: all, Networks: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24")}}, Site: labels(site.Label{Name: "own", RW: true}),
	}, l, map[handoff.Transport]net.Listener{handoff.NFS: l})
	if err != nil {
		t.Fatal(err)
	}
	defer s.exports.Close()
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
	writer, _, err := s.exports.Lookup(t.Context(), "/own", two)
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
	if err := s.exports.Unmounted("/own", two); err != nil {
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
