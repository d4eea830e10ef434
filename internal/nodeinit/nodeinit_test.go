package nodeinit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"netroot/internal/handoff"
)

// quiet is a console that writes to a file of the test.
func quiet(t *testing.T) (*console, *os.File) {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "kmsg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &console{kmsg: f}, f
}

// TestAddresses: a server whose name says nothing, or what another's says, is left out; only no server is an error.
func TestAddresses(t *testing.T) {
	log, f := quiet(t)
	root := handoff.Root{Transport: handoff.NVMe, Servers: []string{"192.0.2.1", "no..name", "2001:db8::1", "192.0.2.1"}}
	n := &node{log: log, boot: handoff.Boot{Root: root}}
	got, err := n.addresses(t.Context())
	if diff := cmp.Diff([]string{"192.0.2.1:4420", "[2001:db8::1]:4420"}, got); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	if told, _ := os.ReadFile(f.Name()); !strings.Contains(string(told), "attach: FAILED: lookup no..name") {
		t.Errorf("told: %s", told)
	}
	n.boot.Root.Servers = []string{"no..name"}
	if _, err := n.addresses(t.Context()); err == nil || !strings.Contains(err.Error(), "no..name") {
		t.Errorf("without any: %v", err)
	}
}

// TestTry: a step is tried until it succeeds, with the pauses that were promised.
func TestTry(t *testing.T) {
	log, f := quiet(t)
	synctest.Test(t, func(t *testing.T) {
		n := &node{log: log}
		tries, started := 0, time.Now()
		err := n.try(t.Context(), step{"attach", func(context.Context) (string, error) {
			if tries++; tries < 4 {
				return "", errors.New("connection refused")
			}
			return "here it is", nil
		}})
		if err != nil || tries != 4 || time.Since(started) != 7*time.Second {
			t.Errorf("%d tries in %s, %v; want 4 in 1+2+4 s", tries, time.Since(started), err)
		}
	})
	said := content(t, "", f.Name())
	for _, want := range []string{"<3>netroot: attach: FAILED: connection refused", "trying again in 4s", "<5>netroot: attach: here it is"} {
		if !strings.Contains(said, want) {
			t.Errorf("the console lacks %q:\n%s", want, said)
		}
	}
	if backoff(60) != 30*time.Second {
		t.Errorf("backoff(60) = %s", backoff(60))
	}
}

func TestPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		err := poll(t.Context(), 3*time.Second, "eth0: carrier", func() (bool, error) { return false, nil })
		if err == nil || err.Error() != "eth0: carrier: nothing after 3s" {
			t.Errorf("%v", err)
		}
		asked := 0
		if err := poll(t.Context(), time.Second, "x", func() (bool, error) { asked++; return asked == 3, nil }); err != nil || asked != 3 {
			t.Errorf("asked %d times: %v", asked, err)
		}
	})
}

func TestFetchLayer(t *testing.T) {
	body := []byte("an archive")
	sum := sha256.Sum256(body)
	digest := "sha256:" + hex.EncodeToString(sum[:])
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/ok/"):
			w.Write(body)
		case strings.HasPrefix(r.URL.Path, "/bad/"):
			w.Write([]byte("something else"))
		case strings.HasPrefix(r.URL.Path, "/cut/"):
			w.Header().Set("Content-Length", "1000")
			w.Write(body)
		default:
			http.NotFound(w, r)
		}
	}))
	defer srv.Close()
	for path, want := range map[string]string{"/ok/": "", "/bad/": "what came has digest", "/cut/": "unexpected EOF", "/none/": "404"} {
		got, err := fetchLayer(t.Context(), handoff.Layer{URL: srv.URL + path + digest, Digest: digest})
		switch {
		case want == "" && (err != nil || !bytes.Equal(got, body)):
			t.Errorf("%s: %q, %v", path, got, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want an error with %q", path, err, want)
		}
	}
}

// TestHangUp: whoever watches a connection wakes when its peer ends it.
func TestHangUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	file, err := conn.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	defer file.Close()
	woken := make(chan error, 1)
	go func() { woken <- hangUp(file) }()
	peer.Write([]byte("data alone does not wake it"))
	select {
	case err := <-woken:
		t.Fatalf("woken by data: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	peer.Close()
	if err := <-woken; err != nil {
		t.Error(err)
	}
}

func TestKeeperStateSurvivesTheTrip(t *testing.T) {
	cfg := exampleConfig()
	cfg.Lease = &lease{Server: "10.1.2.1", ACK: []byte{1, 2}, Offer: []byte{3}, Duration: time.Hour}
	in := keeperState{NBD: &nbdDevice{Index: 3, Addresses: []string{"10.1.2.1:10809"}, Export: "a@b", Size: 1 << 40}, Net: cfg}
	text, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	var out keeperState
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(in, out, cmpAddr, cmp.AllowUnexported(nbdDevice{})); d != "" {
		t.Error(d)
	}
}

func TestShell(t *testing.T) {
	file := t.TempDir() + "/motd"
	os.WriteFile(file, []byte("hello from a file\n"), 0o644)
	n := &node{history: []string{"network: eth0 is up", "attach: FAILED: refused"}}
	var out strings.Builder
	n.converse(strings.NewReader("help\n\nsteps\ncat "+file+"\ncat /none\nfrobnicate\nmodprobe\nls "+t.TempDir()+"\nretry\ncat never\n"), &out)
	for _, want := range []string{"poweroff", "attach: FAILED: refused", "hello from a file", "no such file", "frobnicate: no such command", "modprobe: want one name"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the shell lacks %q:\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "never") {
		t.Error("the shell went on after retry")
	}
}

func TestExecutableIn(t *testing.T) {
	_, dir := tree(t, map[string]string{
		"usr/lib/systemd/systemd": "#!", "sbin": "-> usr/sbin", "usr/sbin/init": "-> /usr/lib/systemd/systemd",
		"bin/sh": "-> /nowhere", "etc/file": "",
	})
	os.Chmod(dir+"/etc/file", 0o644)
	for path, want := range map[string]bool{"/sbin/init": true, "/bin/sh": false, "/etc/file": false, "/etc": false, "/none": false} {
		if got := executableIn(dir, path); got != want {
			t.Errorf("executableIn(%q) = %v", path, got)
		}
	}
}

func TestNames(t *testing.T) {
	for argv0, want := range map[string][2]bool{
		"/init": {}, "@netroot-keeper": {true, false}, "/sbin/modprobe": {false, true}, "modprobe": {false, true},
	} {
		if got := [2]bool{IsKeeper(argv0), IsModprobe(argv0)}; got != want {
			t.Errorf("%s: keeper and modprobe %v, want %v", argv0, got, want)
		}
	}
}

func TestMountOptions(t *testing.T) {
	if got := mountOptions(handoff.Root{MountOptions: []string{"ro", "errors=continue", "rw", "threads=multi"}}); got != "errors=continue,threads=multi" {
		t.Errorf("mountOptions = %q", got)
	}
}

// TestApply configures a real interface, in a network namespace of the test.
func TestApply(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making a network namespace needs root")
	}
	done := make(chan struct{})
	go func() { // its thread is in another namespace and must not be used again
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		testApply(t)
	}()
	<-done
}

func testApply(t *testing.T) {
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "boot0"}, PeerName: "boot1"}); err != nil {
		t.Error(err)
		return
	}
	link, err := netlink.LinkByName("boot0")
	if err != nil {
		t.Error(err)
		return
	}
	if err := netlink.LinkSetUp(link); err != nil {
		t.Error(err)
	}
	cfg := exampleConfig()
	cfg.Link, cfg.Index = "boot0", link.Attrs().Index
	for range 2 { // again is no error: a step may be tried again
		if err := cfg.apply(); err != nil {
			t.Error(err)
		}
	}
	addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil || len(addrs) != 1 || addrs[0].IPNet.String() != "10.1.2.3/24" || addrs[0].ValidLft > 0 && addrs[0].ValidLft < 1<<31 {
		t.Errorf("addresses %v, %v", addrs, err)
	}
	routes, err := netlink.RouteList(link, netlink.FAMILY_V4)
	if err != nil || len(routes) != 4 { // ours and the network's own
		t.Errorf("routes %v, %v", routes, err)
	}
	if link, _ = netlink.LinkByName("boot0"); link.Attrs().MTU != 9000 {
		t.Errorf("MTU %d", link.Attrs().MTU)
	}
}
