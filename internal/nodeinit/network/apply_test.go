package network

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/server4"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"netroot/internal/handoff"
	"netroot/internal/nodeinit/report"
)

// inNamespace runs a test in a network namespace of its own, with a pair of interfaces, boot0 for
// the node and boot1 for a server.
func inNamespace(t *testing.T, test func(t *testing.T, node, server netlink.Link)) {
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
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "boot0", MTU: 1500}, PeerName: "boot1"}); err != nil {
			t.Error(err)
			return
		}
		var links []netlink.Link
		for _, name := range []string{"boot0", "boot1"} {
			link, err := netlink.LinkByName(name)
			if err == nil {
				err = netlink.LinkSetUp(link)
			}
			if err != nil {
				t.Error(err)
				return
			}
			links = append(links, link)
		}
		test(t, links[0], links[1])
	}()
	<-done
}

// said collects what a step reports.
type said struct {
	mu    sync.Mutex
	lines []string
}

func (s *said) Report(e report.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, e.String())
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.lines, "\n")
}

func TestApply(t *testing.T) {
	inNamespace(t, func(t *testing.T, link, _ netlink.Link) {
		cfg := exampleConfig()
		cfg.Link, cfg.Index = "boot0", link.Attrs().Index
		for range 2 { // again is no error: a step may be tried again
			if err := cfg.apply(silent(t)); err != nil {
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
		link, _ = netlink.LinkByName("boot0")
		if a := link.Attrs(); a.MTU != 9000 || !slices.Equal(a.AltNames, []string{AlternativeName}) {
			t.Errorf("%+v", a)
		}
	})
}

// An MTU and routes that the kernel refuses are said, and the network is up without them. The
// services of the root are not told of them either.
func TestApplyPassesOver(t *testing.T) {
	inNamespace(t, func(t *testing.T, link, _ netlink.Link) {
		good := Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.1.2.1")}
		cfg := &Config{Link: "boot0", Index: link.Attrs().Index, Address: netip.MustParsePrefix("10.1.2.3/24"), MTU: 70000,
			Routes: []Route{
				{Dst: netip.MustParsePrefix("10.9.0.0/16"), Via: netip.MustParseAddr("255.255.255.255")},
				good,
				{Dst: netip.MustParsePrefix("10.8.0.0/16"), Via: netip.MustParseAddr("224.0.0.1")},
			}}
		var out []string
		if err := cfg.apply(func(text string) { out = append(out, text) }); err != nil {
			t.Fatal(err)
		}
		if cfg.MTU != 0 || !slices.Equal(cfg.Routes, []Route{good}) || len(out) != 3 ||
			!strings.Contains(out[0], "the MTU 70000 is not possible, and stays 1500") || !strings.Contains(out[1], "the route 10.9.0.0/16 via 255.255.255.255 is passed over") {
			t.Errorf("%+v, said %q", cfg, out)
		}
	})
}

// dracut's networkd has set the routes with a metric of its own: they stay one each.
func TestApplyKeepsMetric(t *testing.T) {
	inNamespace(t, func(t *testing.T, link, _ netlink.Link) {
		index := link.Attrs().Index
		addr := &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("10.1.2.3/24")), ValidLft: 600, PreferedLft: 600}
		_, all, _ := net.ParseCIDR("0.0.0.0/0")
		err := netlink.AddrAdd(link, addr)
		if err == nil {
			err = netlink.RouteAdd(&netlink.Route{LinkIndex: index, Dst: all, Gw: net.IPv4(10, 1, 2, 1), Priority: 1024, Protocol: unix.RTPROT_DHCP})
		}
		if err != nil {
			t.Fatal(err)
		}
		link, _ = netlink.LinkByIndex(index)
		cfg, err := configured(link)
		if err == nil {
			err = cfg.apply(silent(t))
		}
		routes, _ := netlink.RouteList(link, netlink.FAMILY_V4)
		addrs, _ := netlink.AddrList(link, netlink.FAMILY_V4)
		if err != nil || len(routes) != 2 || len(addrs) != 1 || addrs[0].ValidLft > 0 && addrs[0].ValidLft < 1<<31 {
			t.Errorf("%v, routes %v, addresses %v", err, routes, addrs)
		}
		if !strings.Contains(networkdFile(cfg), "Gateway=10.1.2.1\n") || !strings.Contains(networkdFile(cfg), "Metric=1024\n") {
			t.Error(networkdFile(cfg))
		}
	})
}

// serve answers DHCP requests on an interface of the test's namespace, and returns when it listens.
func serve(t *testing.T, link netlink.Link, offer ...dhcpv4.Modifier) {
	t.Helper()
	answer := func(conn net.PacketConn, _ net.Addr, m *dhcpv4.DHCPv4) {
		kind := map[dhcpv4.MessageType]dhcpv4.MessageType{dhcpv4.MessageTypeDiscover: dhcpv4.MessageTypeOffer, dhcpv4.MessageTypeRequest: dhcpv4.MessageTypeAck}[m.MessageType()]
		reply, err := dhcpv4.NewReplyFromRequest(m, append([]dhcpv4.Modifier{dhcpv4.WithMessageType(kind), dhcpv4.WithYourIP(net.IPv4(10, 1, 2, 3)),
			dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithLeaseTime(600), dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(10, 1, 2, 1)))}, offer...)...)
		if err == nil {
			_, err = conn.WriteTo(reply.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 68})
		}
		if err != nil {
			t.Log(err)
		}
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(netip.MustParsePrefix("10.1.2.1/24"))}); err != nil {
		t.Fatal(err)
	}
	s, err := server4.NewServer(link.Attrs().Name, &net.UDPAddr{Port: 67}, answer)
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve()
	t.Cleanup(func() { s.Close() })
}

// A boot by DHCP takes what it can of a generous offer.
func TestDHCP(t *testing.T) {
	inNamespace(t, func(t *testing.T, node, server netlink.Link) {
		serve(t, server, dhcpv4.WithOption(dhcpv4.OptHostName(strings.Repeat("n", 71))),
			dhcpv4.WithGeneric(dhcpv4.OptionClasslessStaticRoute, []byte{16, 10, 9, 10, 1, 2, 3, 0, 10, 1, 2, 1}))
		var lines said
		cfg, err := dhcp(t.Context(), node, report.Step{Name: "network", To: &lines})
		if err == nil {
			err = cfg.apply(func(text string) { report.Step{Name: "network", To: &lines}.Note(text) })
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(cfg.Hostname) != 64 || cfg.Lease == nil || len(cfg.Routes) != 1 || cfg.Link != "boot0" {
			t.Errorf("%+v", cfg)
		}
		if out := lines.String(); strings.Count(out, "\n") != 1 {
			t.Error(out)
		}
	})
}

// Before anything can be waited for, the console says what is asked for, and where.
func TestAskingIsSaid(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var lines said
	links := []netlink.Link{&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "eth0", Index: 1 << 20}}, &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "eth1", Index: 1 << 20}}}
	if _, err := dhcpAny(ctx, links, handoff.Interface{Method: "dhcp"}, report.Step{Name: "network", To: &lines}); err == nil || lines.String() != "network: asking for an address on eth0, eth1" {
		t.Errorf("%v, said %q", err, lines.String())
	}
}

// Where dracut left no record of a lease, its server is asked once more.
func TestAskAgain(t *testing.T) {
	for name, c := range map[string]struct {
		address, line string
		lease         bool
		want          string
	}{
		"the same address": {"10.1.2.3/24", "ip=dhcp", true, ""},
		"without ip=":      {"10.1.2.3/24", "", true, ""},
		"another address":  {"10.1.2.9/24", "ip=dhcp", false, "reserve the address in the DHCP server: the DHCP server would give 10.1.2.3"},
		"a static address": {"10.1.2.3/24", "ip=10.1.2.3:::24::boot0:none", false, ""},
	} {
		inNamespace(t, func(t *testing.T, node, server netlink.Link) {
			serve(t, server, dhcpv4.WithDNS(net.IPv4(10, 1, 2, 53)), dhcpv4.WithOption(dhcpv4.OptHostName("n7")))
			boot, err := handoff.ParseDracut(c.line)
			if err != nil {
				t.Fatal(err)
			}
			cfg := &Config{Link: "boot0", Index: node.Attrs().Index, MAC: node.Attrs().HardwareAddr.String(), Address: netip.MustParsePrefix(c.address)}
			var lines said
			cfg.AskAgain(t.Context(), boot, report.Step{Name: "network", To: &lines})
			if got := cfg.Lease != nil && cfg.Lease.Duration == 10*time.Minute && !cfg.Lease.Anonymous && cfg.Hostname == "n7" && fmt.Sprint(cfg.DNS) == "[10.1.2.53]"; got != c.lease {
				t.Errorf("%s: %+v", name, cfg)
			}
			if out := lines.String(); !strings.Contains(out, c.want) || c.want == "" && out != "" {
				t.Errorf("%s: said %q", name, out)
			}
		})
	}
}

// An interface is found by an alternative name, and by the index when it is renamed.
func TestCandidates(t *testing.T) {
	inNamespace(t, func(t *testing.T, node, server netlink.Link) {
		if err := netlink.LinkAddAltName(node, "lan0"); err != nil {
			t.Fatal(err)
		}
		mac := node.Attrs().HardwareAddr.String()
		for name, bootMAC := range map[string]string{"lan0": "", "boot0": "", mac: "", strings.ReplaceAll(mac, ":", "-"): "", "enx" + strings.ReplaceAll(mac, ":", ""): "", "": mac} {
			links, err := candidates(context.Background(), handoff.Interface{Name: name, Method: "dhcp"}, bootMAC, func() {}, report.Step{To: &said{}})
			if err != nil || len(links) != 1 || links[0].Attrs().Index != node.Attrs().Index {
				t.Errorf("%q %q: %v, %v", name, bootMAC, links, err)
			}
		}
		if !isBoot("lan0", mac) || isBoot("boot1", mac) || isBoot("lan0", server.Attrs().HardwareAddr.String()) {
			t.Error("isBoot")
		}
	})
}
