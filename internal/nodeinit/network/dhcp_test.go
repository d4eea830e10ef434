package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
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

// silent fails the test if anything is said.
func silent(t testing.TB) func(string) {
	return func(text string) {
		t.Helper()
		t.Errorf("said: %s", text)
	}
}

func TestFromACK(t *testing.T) {
	got, err := fromACK(ack(t,
		dhcpv4.WithNetmask(net.CIDRMask(20, 32)),
		dhcpv4.WithRouter(net.IPv4(10, 1, 0, 1), net.IPv4(10, 1, 0, 2)),
		dhcpv4.WithDNS(net.IPv4(10, 1, 0, 53)),
		dhcpv4.WithOption(dhcpv4.OptHostName("n7")),
		dhcpv4.WithOption(dhcpv4.OptDomainName("cluster.example")),
		dhcpv4.WithGeneric(dhcpv4.OptionInterfaceMTU, []byte{0x23, 0x28}),
		dhcpv4.WithLeaseTime(600)), silent(t))
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
	if d := cmp.Diff(want, offer{m, silent(t)}.routes(netip.MustParseAddr("10.1.2.3")), cmpAddr); d != "" {
		t.Error(d)
	}
}

func TestSparseAnswers(t *testing.T) {
	got, err := fromACK(ack(t, dhcpv4.WithLeaseTime(60)), silent(t))
	if err != nil || got.Address.Bits() != 8 || got.Routes != nil || got.MTU != 0 {
		t.Errorf("an answer with an address alone: %+v, %v", got, err)
	}
	got, err = fromACK(ack(t, dhcpv4.WithLeaseTime(60), dhcpv4.WithOption(dhcpv4.OptDomainSearch(&rfc1035label.Labels{Labels: []string{"a.example", "b.example"}}))), silent(t))
	if err != nil || len(got.Search) != 2 {
		t.Errorf("search list: %+v, %v", got, err)
	}
	for _, ip := range []net.IP{net.IPv4zero, net.IPv4bcast, net.IPv4(224, 0, 0, 1), net.IPv4(127, 0, 0, 1)} {
		if _, err := fromACK(ack(t, dhcpv4.WithYourIP(ip)), silent(t)); err == nil {
			t.Errorf("an answer with %s for an address is taken", ip)
		}
	}
}

// What a server offers beyond the address and cannot be used is said, and no boot fails for it.
func TestOddOffers(t *testing.T) {
	raw := func(code uint8, b ...byte) dhcpv4.Modifier {
		return dhcpv4.WithGeneric(dhcpv4.GenericOptionCode(code), b)
	}
	str := func(code uint8, s string) dhcpv4.Modifier { return raw(code, []byte(s)...) }
	long := strings.Repeat("a", 20)
	router := Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.1.2.1")}
	for name, test := range map[string]struct {
		offer []dhcpv4.Modifier
		want  Config
		said  string // a part of the only line; empty: nothing is said
	}{
		"a name of 71 bytes":       {[]dhcpv4.Modifier{str(12, "node0007."+strings.Repeat("a.example.", 6)+"xy")}, Config{Hostname: "node0007"}, "becomes node0007"},
		"a first part of 71 bytes": {[]dhcpv4.Modifier{str(12, strings.Repeat("n", 71)+".x")}, Config{Hostname: strings.Repeat("n", 64)}, "64 are possible"},
		"cut at a hyphen":          {[]dhcpv4.Modifier{str(12, strings.Repeat("n", 63)+"-77")}, Config{Hostname: strings.Repeat("n", 63)}, "becomes"},
		"64 bytes":                 {[]dhcpv4.Modifier{str(12, strings.Repeat("n", 64))}, Config{Hostname: strings.Repeat("n", 64)}, ""},
		"a whole name":             {[]dhcpv4.Modifier{str(12, "n7.cluster.example.\x00")}, Config{Hostname: "n7.cluster.example"}, ""},
		"a name with a blank":      {[]dhcpv4.Modifier{str(12, "node 7")}, Config{}, `"node 7" cannot be a host name`},
		"a name with a line":       {[]dhcpv4.Modifier{str(12, "n7\nroot")}, Config{}, "cannot be a host name"},
		"a name that all have":     {[]dhcpv4.Modifier{str(12, "localhost.localdomain")}, Config{}, "cannot be a host name"},
		"an empty name":            {[]dhcpv4.Modifier{str(12, "")}, Config{}, ""},
		"MTU 68":                   {[]dhcpv4.Modifier{raw(26, 0, 68)}, Config{}, "MTU 68 is not used"},
		"an MTU of one byte":       {[]dhcpv4.Modifier{raw(26, 9)}, Config{}, "MTU (option 26, 1 bytes that cannot be read)"},
		"an empty MTU":             {[]dhcpv4.Modifier{raw(26)}, Config{}, ""},
		"a mask with holes":        {[]dhcpv4.Modifier{raw(1, 255, 0, 255, 0)}, Config{}, "10.1.2.3/8 is taken"},
		"no mask at all":           {[]dhcpv4.Modifier{raw(1, 0, 0, 0, 0)}, Config{}, "10.1.2.3/8 is taken"},
		"a mask of two bytes":      {[]dhcpv4.Modifier{raw(1, 255, 255)}, Config{}, "netmask"},
		"name servers": {[]dhcpv4.Modifier{raw(6, 10, 1, 0, 53, 0, 0, 0, 0)},
			Config{DNS: []netip.Addr{netip.MustParseAddr("10.1.0.53")}}, "name server 0.0.0.0"},
		"a name server of five bytes": {[]dhcpv4.Modifier{raw(6, 10, 1, 0, 53, 9)}, Config{}, "name server (option 6, 5 bytes"},
		"several domains in one":      {[]dhcpv4.Modifier{str(15, "a.example b.example.\x00")}, Config{Search: []string{"a.example", "b.example"}}, ""},
		"a domain that is none":       {[]dhcpv4.Modifier{str(15, "a.example bad..example")}, Config{Search: []string{"a.example"}}, `"bad..example" is not the name of a domain`},
		"a domain with a setting":     {[]dhcpv4.Modifier{str(15, "a.example\nnameserver=")}, Config{Search: []string{"a.example"}}, "is not searched"},
		"an unreadable search list":   {[]dhcpv4.Modifier{raw(119, 9, 'a'), str(15, "b.example")}, Config{Search: []string{"b.example"}}, "search list (option 119"},
		"a route of few bytes":        {[]dhcpv4.Modifier{raw(121, 24, 10, 2), raw(3, 10, 1, 2, 1)}, Config{Routes: []Route{router}}, "routes (option 121, 3 bytes"},
		"a route to oneself":          {[]dhcpv4.Modifier{raw(121, 16, 10, 9, 10, 1, 2, 3), raw(3, 10, 1, 2, 1)}, Config{Routes: []Route{router}}, "route to 10.9.0.0/16 via 10.1.2.3"},
		"a route to everybody":        {[]dhcpv4.Modifier{raw(121, 16, 10, 9, 255, 255, 255, 255)}, Config{}, "via 255.255.255.255"},
		"a route with host bits":      {[]dhcpv4.Modifier{raw(121, 9, 10, 0x7f, 10, 1, 2, 1)}, Config{Routes: []Route{{Dst: netip.MustParsePrefix("10.0.0.0/9"), Via: router.Via}}}, ""},
		"an empty list of routes":     {[]dhcpv4.Modifier{raw(121), raw(3, 10, 1, 2, 1)}, Config{Routes: []Route{router}}, ""},
		"routers":                     {[]dhcpv4.Modifier{raw(3, 0, 0, 0, 0, 10, 1, 2, 1, 10, 1, 2, 1)}, Config{Routes: []Route{router}}, "router 0.0.0.0"},
		"a router of three bytes":     {[]dhcpv4.Modifier{raw(3, 10, 1, 2)}, Config{}, "router (option 3, 3 bytes"},
		"time servers":                {[]dhcpv4.Modifier{raw(42, 1, 2, 3)}, Config{}, ""},
		"much that is not asked for":  {[]dhcpv4.Modifier{str(17, long), raw(43, 1, 9), raw(249, 1), raw(252)}, Config{}, ""},
	} {
		var said []string
		got, err := fromACK(ack(t, append(test.offer, dhcpv4.WithLeaseTime(60))...), func(text string) { said = append(said, text) })
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		switch text := strings.Join(said, "\n"); {
		case test.said == "" && text != "", len(said) > 1, !strings.Contains(text, test.said):
			t.Errorf("%s: said %q, want one line with %q", name, text, test.said)
		}
		test.want.Address = netip.MustParsePrefix("10.1.2.3/8")
		got.Lease = nil
		if d := cmp.Diff(&test.want, got, cmpAddr, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

// A lease without a time is not renewed; one without an end is, in half of 136 years.
func TestLeaseTimes(t *testing.T) {
	for seconds, want := range map[uint32]time.Duration{0: 0, 1: time.Second, 0xffffffff: 0xffffffff * time.Second} {
		said := 0
		got, err := fromACK(ack(t, dhcpv4.WithLeaseTime(seconds)), func(string) { said++ })
		if err != nil || got.Lease.Duration != want || (said == 1) != (seconds == 0) {
			t.Errorf("%d: %+v, %v, said %d", seconds, got, err, said)
		}
	}
}

// The error of an address that nobody gives is in our own words.
func TestNoLease(t *testing.T) {
	nak := &nclient4.ErrNak{Nak: ack(t, dhcpv4.WithOption(dhcpv4.OptMessage("address not available")))}
	for want, err := range map[string]error{
		"no DHCP server answered 52:54:00:12:34:56 within 31s: is one running in this network, and does it serve this machine?": fmt.Errorf("a library: %w", nclient4.ErrNoResponse),
		`DHCP server 10.1.2.1 refuses an address to 52:54:00:12:34:56: "address not available"`:                                 fmt.Errorf("a library: %w", nak),
		"another interface has an address": context.Canceled,
	} {
		if got := noLease(err, "52:54:00:12:34:56", 31*time.Second+time.Millisecond).Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
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
		cfg, err := fromACK(m, func(string) {})
		if err != nil {
			return
		}
		if !cfg.Address.IsValid() {
			t.Errorf("address %v", cfg.Address)
		}
		for _, r := range cfg.Routes {
			if !r.Dst.IsValid() || r.Dst != r.Dst.Masked() {
				t.Errorf("route %v", r)
			}
		}
		if len(cfg.Hostname) > maxHostName || strings.ContainsAny(cfg.Hostname+strings.Join(cfg.Search, ""), " \n\x00/=") {
			t.Errorf("host name %q, domains %q", cfg.Hostname, cfg.Search)
		}
	})
}
