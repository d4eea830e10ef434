package network

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/rfc1035label"
)

var cmpAddr = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
}

func ack(t testing.TB, modifiers ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithMessageType(dhcpv4.MessageTypeAck),
		dhcpv4.WithYourIP(net.IPv4(10, 1, 2, 3)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 1, 2, 1))),
	}, modifiers...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestFromACK(t *testing.T) {
	got, err := fromACK(ack(t,
		dhcpv4.WithNetmask(net.CIDRMask(20, 32)),
		dhcpv4.WithRouter(net.IPv4(10, 1, 0, 1), net.IPv4(10, 1, 0, 2)),
		dhcpv4.WithDNS(net.IPv4(10, 1, 0, 53)),
		dhcpv4.WithOption(dhcpv4.OptHostName("n7")),
		dhcpv4.WithOption(dhcpv4.OptDomainName("cluster.example")),
		dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{0x23, 0x28}),
		dhcpv4.WithLeaseTime(600)))
	if err != nil {
		t.Fatal(err)
	}
	if got.Lease.Server != "10.1.2.1" || got.Lease.Duration != 10*time.Minute || len(got.Lease.ACK) == 0 {
		t.Errorf("lease %+v", got.Lease)
	}
	got.Lease = nil
	want := &Config{
		Address: netip.MustParsePrefix("10.1.2.3/20"), Hostname: "n7", MTU: 9000, Search: []string{"cluster.example"},
		DNS:    []netip.Addr{netip.MustParseAddr("10.1.0.53")},
		Routes: []Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.1.0.1")}},
	}
	if d := cmp.Diff(want, got, cmpAddr); d != "" {
		t.Error(d)
	}
}

// TestClasslessRoutesWin: RFC 3442, "the DHCP client MUST ignore the Router option".
func TestClasslessRoutesWin(t *testing.T) {
	m := ack(t, dhcpv4.WithRouter(net.IPv4(10, 1, 0, 1)), dhcpv4.WithOption(dhcpv4.OptClasslessStaticRoute(
		&dhcpv4.Route{Dest: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}, Router: net.IPv4(10, 1, 0, 254)},
		&dhcpv4.Route{Dest: &net.IPNet{IP: net.IPv4(10, 9, 0, 0), Mask: net.CIDRMask(16, 32)}, Router: net.IPv4zero})))
	want := []Route{
		{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.1.0.254")},
		{Dst: netip.MustParsePrefix("10.9.0.0/16")},
	}
	if d := cmp.Diff(want, routes(m), cmpAddr); d != "" {
		t.Error(d)
	}
}

func TestSparseAnswers(t *testing.T) {
	got, err := fromACK(ack(t))
	if err != nil || got.Address.Bits() != 8 || got.Routes != nil || got.MTU != 0 {
		t.Errorf("an answer with an address alone: %+v, %v", got, err)
	}
	got, err = fromACK(ack(t, dhcpv4.WithOption(dhcpv4.OptDomainSearch(&rfc1035label.Labels{Labels: []string{"a.example", "b.example"}}))))
	if err != nil || len(got.Search) != 2 {
		t.Errorf("search list: %+v, %v", got, err)
	}
	if _, err := fromACK(ack(t, dhcpv4.WithYourIP(net.IPv4zero))); err == nil {
		t.Error("an answer without an address is taken")
	}
	got, err = fromACK(ack(t, dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{0, 68})))
	if err != nil || got.MTU != 0 {
		t.Errorf("an MTU of 68 bytes is taken: %+v, %v", got, err)
	}
}

// FuzzACK: a DHCP server's message is an error or a configuration with valid addresses; it never
// causes a panic.
func FuzzACK(f *testing.F) {
	for _, m := range []*dhcpv4.DHCPv4{
		ack(f, dhcpv4.WithNetmask(net.CIDRMask(20, 32)), dhcpv4.WithRouter(net.IPv4(10, 1, 0, 1)), dhcpv4.WithDNS(net.IPv4(10, 1, 0, 53)),
			dhcpv4.WithOption(dhcpv4.OptHostName("n7")), dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{0x23, 0x28}), dhcpv4.WithLeaseTime(600)),
		ack(f, dhcpv4.WithGeneric(dhcpv4.OptionClasslessStaticRoute, []byte{24, 10, 2, 3, 10, 1, 0, 9, 0, 0, 0, 0, 0}),
			dhcpv4.WithGeneric(dhcpv4.OptionDNSDomainSearchList, []byte{7, 'e', 'x', 'a', 'm', 'p', 'l', 'e', 0, 0xc0, 0})),
		ack(f, dhcpv4.WithGeneric(dhcpv4.OptionSubnetMask, []byte{255, 0, 255, 0}), dhcpv4.WithGeneric(dhcpv4.OptionClasslessStaticRoute, []byte{33, 1})),
	} {
		f.Add(m.ToBytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := dhcpv4.FromBytes(b)
		if err != nil {
			return
		}
		cfg, err := fromACK(m)
		if err != nil {
			return
		}
		if !cfg.Address.IsValid() {
			t.Errorf("address %v", cfg.Address)
		}
		for _, r := range cfg.Routes {
			if !r.Dst.IsValid() {
				t.Errorf("route %v", r)
			}
		}
	})
}
