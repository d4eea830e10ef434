package network

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
	cfg := &Config{Link: "enp0s1", MAC: "52:54:00:12:34:56"}
	cfg.readDracut(dir, silent(t))
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

// TestReadNetworkd reads what systemd-networkd 252 keeps of an interface with a lease.
func TestReadNetworkd(t *testing.T) {
	cfg := &Config{DNS: []netip.Addr{netip.MustParseAddr("10.0.2.3")}}
	cfg.readNetworkd("# This is private data. Do not parse.\nADMIN_STATE=configured\nOPER_STATE=routable\n"+
		"NETWORK_FILE=/run/systemd/network/91-default.network\nDNS=10.0.2.3 10.0.2.4:53#dns.example [fd00::3]:53 fd00::4 x\nNTP=\nDOMAINS=cluster.example b.example\n", silent(t))
	want := &Config{Search: []string{"cluster.example", "b.example"}}
	for _, a := range []string{"10.0.2.3", "10.0.2.4", "fd00::3", "fd00::4"} {
		want.DNS = append(want.DNS, netip.MustParseAddr(a))
	}
	if diff := cmp.Diff(want, cfg, cmpAddr); diff != "" {
		t.Error(diff)
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

func TestAsRoute(t *testing.T) {
	_, lan, _ := net.ParseCIDR("10.1.0.0/16")
	gw := net.IPv4(10, 0, 2, 2)
	for name, test := range map[string]struct {
		r    netlink.Route
		want Route
		ok   bool
	}{
		"default":      {netlink.Route{Gw: gw, Table: unix.RT_TABLE_MAIN}, Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.0.2.2")}, true},
		"to a net":     {netlink.Route{Dst: lan, Gw: gw, Table: unix.RT_TABLE_MAIN}, Route{Dst: netip.MustParsePrefix("10.1.0.0/16"), Via: netip.MustParseAddr("10.0.2.2")}, true},
		"on the link":  {netlink.Route{Dst: lan, Table: unix.RT_TABLE_MAIN}, Route{Dst: netip.MustParsePrefix("10.1.0.0/16")}, true},
		"the kernel's": {netlink.Route{Dst: lan, Protocol: unix.RTPROT_KERNEL, Table: unix.RT_TABLE_MAIN}, Route{}, false},
		"of networkd":  {netlink.Route{Gw: gw, Priority: 1024, Protocol: unix.RTPROT_DHCP, Table: unix.RT_TABLE_MAIN}, Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.0.2.2"), Metric: 1024}, true},
		"local":        {netlink.Route{Dst: lan, Table: unix.RT_TABLE_LOCAL}, Route{}, false},
		"nowhere":      {netlink.Route{Table: unix.RT_TABLE_MAIN}, Route{}, false},
		"of IPv6":      {netlink.Route{Gw: net.ParseIP("fe80::2"), Table: unix.RT_TABLE_MAIN}, Route{}, false},
	} {
		got, ok := asRoute(test.r, true)
		if ok != test.ok || ok && got != test.want {
			t.Errorf("%s: %+v, %v", name, got, ok)
		}
	}
}
