package network

import (
	"flag"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the golden files")

func exampleConfig() *Config {
	return &Config{
		Link: "eth0", Index: 2, MAC: "52:54:00:12:34:56",
		Address: netip.MustParsePrefix("10.1.2.3/24"),
		Routes: []Route{
			{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.1.2.1")},
			{Dst: netip.MustParsePrefix("10.9.0.0/16"), Via: netip.MustParseAddr("172.16.0.1")},
			{Dst: netip.MustParsePrefix("169.254.0.0/16")},
		},
		DNS:      []netip.Addr{netip.MustParseAddr("10.1.2.53"), netip.MustParseAddr("10.1.2.54")},
		Search:   []string{"cluster.example"},
		Hostname: "n7",
		MTU:      9000,
	}
}

// TestServiceFiles holds what each network service is told against a golden
// file that a reader can check with the services' manual pages.
func TestServiceFiles(t *testing.T) {
	files := ServiceFiles(exampleConfig())
	var b strings.Builder
	for _, path := range slices.Sorted(maps.Keys(files)) {
		b.WriteString("-- " + path + " --\n" + files[path])
	}
	golden := filepath.Join("testdata", "services.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Error(d)
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
