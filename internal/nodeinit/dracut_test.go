package nodeinit

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// What dracut's scripts wrote in an emulated machine whose DHCP server is qemu's.
var dracutFiles = map[string]string{
	"net.enp0s1.resolv.conf": "search cluster.example\nnameserver 10.0.2.3\nnameserver fec0::3\nnameserver x\n",
	"net.enp0s1.hostname":    "echo node7.cluster.example > /proc/sys/kernel/hostname\n",
	"dhclient.enp0s1.dhcpopts": "new_broadcast_address='10.0.2.255'\nnew_dhcp_lease_time='86400'\nnew_dhcp_message_type='5'\n" +
		"new_dhcp_server_identifier='10.0.2.2'\nnew_ip_address='10.0.2.15'\nnew_routers='10.0.2.2'\n",
}

func TestReadDracut(t *testing.T) {
	dir := t.TempDir()
	for name, text := range dracutFiles {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cfg := &netConfig{Link: "enp0s1", MAC: "52:54:00:12:34:56"}
	cfg.readDracut(dir)
	if diff := cmp.Diff([]netip.Addr{netip.MustParseAddr("10.0.2.3"), netip.MustParseAddr("fec0::3")}, cfg.DNS, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if cfg.Hostname != "node7.cluster.example" || len(cfg.Search) != 1 || cfg.Search[0] != "cluster.example" {
		t.Errorf("%q, %q", cfg.Hostname, cfg.Search)
	}
	l := cfg.Lease
	if l == nil || l.Server != "10.0.2.2" || l.Duration != 24*time.Hour || !l.Anonymous {
		t.Fatalf("%+v", l)
	}
	// The request to renew it names the same client, address and server as dhclient's did.
	ack, err := dhcpv4.FromBytes(l.ACK)
	if err != nil {
		t.Fatal(err)
	}
	req, err := dhcpv4.NewRenewFromAck(ack)
	if err != nil || !req.ClientIPAddr.Equal(net.IPv4(10, 0, 2, 15)) || req.ClientHWAddr.String() != cfg.MAC || req.Options.Has(dhcpv4.OptionClientIdentifier) {
		t.Errorf("%v, %v", req, err)
	}
}

func TestDhclientLeaseLacks(t *testing.T) {
	for _, text := range []string{
		"", "new_ip_address='10.0.2.15'\n", "new_ip_address='x'\nnew_dhcp_server_identifier='10.0.2.2'\nnew_dhcp_lease_time='1'\n",
		"new_ip_address='10.0.2.15'\nnew_dhcp_server_identifier='10.0.2.2'\nnew_dhcp_lease_time='-1'\n",
		"new_ip_address='fe80::1'\nnew_dhcp_server_identifier='10.0.2.2'\nnew_dhcp_lease_time='1'\n",
	} {
		if l := dhclientLease(text, "52:54:00:12:34:56"); l != nil {
			t.Errorf("%q: %+v", text, l)
		}
	}
	if l := dhclientLease(dracutFiles["dhclient.enp0s1.dhcpopts"], "no MAC"); l != nil {
		t.Errorf("without a MAC: %+v", l)
	}
}

func FuzzDhclientLease(f *testing.F) {
	f.Add(dracutFiles["dhclient.enp0s1.dhcpopts"])
	f.Add("new_ip_address=\nnew_dhcp_lease_time")
	f.Fuzz(func(t *testing.T, text string) {
		if l := dhclientLease(text, "52:54:00:12:34:56"); l != nil {
			if ack, err := dhcpv4.FromBytes(l.ACK); err != nil || ack.ServerIdentifier() == nil || l.Duration < 0 {
				t.Errorf("%+v: %v", l, err)
			}
		}
	})
}

func TestMountedType(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mountinfo")
	const text = `21 1 0:20 / / rw shared:1 - rootfs none rw
40 21 43:0 / /sysroot ro,relatime shared:7 master:1 - squashfs /dev/nbd0 ro,errors=continue
41 21 0:30 / /sysroot rw,relatime - overlay overlay rw,lowerdir=/live/image
42 21 0:31 / /sysroot/live rw - tmpfs tmpfs rw
`
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for place, want := range map[string]string{"/sysroot": "overlay", "/": "rootfs", "/sysroot/live": "tmpfs"} {
		if got, err := mountedType(file, place); got != want || err != nil {
			t.Errorf("%s: %q, %v", place, got, err)
		}
	}
	if got, err := mountedType(file, "/mnt"); err == nil {
		t.Errorf("/mnt: %q", got)
	}
}

func TestAsRoute(t *testing.T) {
	_, lan, _ := net.ParseCIDR("10.1.0.0/16")
	gw := net.IPv4(10, 0, 2, 2)
	for name, test := range map[string]struct {
		r    netlink.Route
		want route
		ok   bool
	}{
		"default":      {netlink.Route{Gw: gw, Table: unix.RT_TABLE_MAIN}, route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.0.2.2")}, true},
		"to a net":     {netlink.Route{Dst: lan, Gw: gw, Table: unix.RT_TABLE_MAIN}, route{Dst: netip.MustParsePrefix("10.1.0.0/16"), Via: netip.MustParseAddr("10.0.2.2")}, true},
		"on the link":  {netlink.Route{Dst: lan, Table: unix.RT_TABLE_MAIN}, route{Dst: netip.MustParsePrefix("10.1.0.0/16")}, true},
		"the kernel's": {netlink.Route{Dst: lan, Protocol: unix.RTPROT_KERNEL, Table: unix.RT_TABLE_MAIN}, route{}, false},
		"local":        {netlink.Route{Dst: lan, Table: unix.RT_TABLE_LOCAL}, route{}, false},
		"nowhere":      {netlink.Route{Table: unix.RT_TABLE_MAIN}, route{}, false},
		"of IPv6":      {netlink.Route{Gw: net.ParseIP("fe80::2"), Table: unix.RT_TABLE_MAIN}, route{}, false},
	} {
		got, ok := asRoute(test.r, true)
		if ok != test.ok || ok && got != test.want {
			t.Errorf("%s: %+v, %v", name, got, ok)
		}
	}
}

// nbdMessage is what the kernel sends when a connection of a device is dead: nbd_mcast_index of drivers/block/nbd.c.
func nbdMessage(command byte, index uint32) []byte {
	return append([]byte{command, 1, 0, 0}, nl.NewRtAttr(nbdAttrIndex, nl.Uint32Attr(index)).Serialize()...)
}

func TestLinkDead(t *testing.T) {
	whole := nbdMessage(nbdCmdLinkDead, 3)
	if !linkDead(whole, 3) {
		t.Error("the death of a link is not heard")
	}
	for name, m := range map[string][]byte{"another device": nbdMessage(nbdCmdLinkDead, 4), "another command": nbdMessage(nbdCmdConnect, 3), "half": whole[:6], "nothing": nil} {
		if linkDead(m, 3) {
			t.Errorf("%s is taken for it", name)
		}
	}
}

func FuzzLinkDead(f *testing.F) {
	f.Add(nbdMessage(nbdCmdLinkDead, 0))
	f.Add([]byte{nbdCmdLinkDead, 1, 0, 0, 255, 255, 1, 0})
	f.Fuzz(func(_ *testing.T, message []byte) { linkDead(message, 0) })
}

func TestWaitForTargets(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "session1/recovery_tmo")
	if err := os.Mkdir(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("120\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := waitForTargets(dir); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(file); string(got) != "off" {
		t.Errorf("recovery_tmo %q", got)
	}
}

// A step that failed half way goes back, the last first; one that did not leaves all as it is.
func TestUndo(t *testing.T) {
	var done []string
	for _, failed := range []error{nil, os.ErrInvalid} {
		var u undo
		u.add(func() { done = append(done, "first") })
		u.add(func() { done = append(done, "second") })
		u.onError(failed)
	}
	if diff := cmp.Diff([]string{"second", "first"}, done); diff != "" {
		t.Error(diff)
	}
}

// The orders of a process that outlives this one are all there before it begins.
func TestFilled(t *testing.T) {
	r, err := filled([]byte("orders"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	buf := make([]byte, 100)
	if n, err := r.Read(buf); string(buf[:n]) != "orders" || err != nil {
		t.Errorf("%q, %v", buf[:n], err)
	}
	if _, err := filled(make([]byte, 65<<10)); err == nil {
		t.Error("more than a pipe holds is taken")
	}
}

func TestDracutWantsAStep(t *testing.T) {
	for _, args := range [][]string{nil, {"attach"}, {"initiator", "netroot.layer=x"}} {
		if err := Dracut(args, nil); err == nil {
			t.Errorf("%q is carried out", args)
		}
	}
}

func TestNobody(t *testing.T) {
	for uuid, want := range map[string]bool{
		"": true, "00000000-0000-0000-0000-000000000000": true, "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF": true,
		"03000200-0400-0500-0006-000700080009": false,
	} {
		if nobody(uuid) != want {
			t.Errorf("%q: %v", uuid, !want)
		}
	}
}
