package handoff

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var addr, pfx = netip.MustParseAddr, netip.MustParsePrefix

func TestInterface(t *testing.T) {
	for value, want := range map[string]Interface{
		"dhcp":                      {Method: "dhcp"},
		"on":                        {Method: "dhcp"},
		"":                          {Method: "dhcp"}, // the kernel: any method
		"eth0:dhcp":                 {Name: "eth0", Method: "dhcp"},
		"eth0:dhcp:9000":            {Name: "eth0", Method: "dhcp", MTU: 9000},
		"BOOTIF:dhcp":               {Method: "dhcp"},
		":dhcp:1400":                {Method: "dhcp", MTU: 1400},
		"52-54-00-12-34-AB:dhcp":    {Name: "52:54:00:12:34:ab", Method: "dhcp"},
		"01-52-54-00-12-34-AB:dhcp": {Name: "52:54:00:12:34:ab", Method: "dhcp"},
		"[52:54:00:12:34:ab]:dhcp":  {Name: "52:54:00:12:34:ab", Method: "dhcp"},
		"10.0.2.15::10.0.2.2:255.255.255.0:n1:eth0:none":             {Name: "eth0", Method: "static", Address: pfx("10.0.2.15/24"), Gateway: addr("10.0.2.2"), Hostname: "n1"},
		"10.0.2.15:10.0.2.1:10.0.2.2:24:n1:eth0:off:1.1.1.1:9.9.9.9": {Name: "eth0", Method: "static", Address: pfx("10.0.2.15/24"), Peer: addr("10.0.2.1"), Gateway: addr("10.0.2.2"), Hostname: "n1", DNS: []netip.Addr{addr("1.1.1.1"), addr("9.9.9.9")}},
		"10.0.2.15::10.0.2.2:24:n1:eth0:none::9.9.9.9":               {Name: "eth0", Method: "static", Address: pfx("10.0.2.15/24"), Gateway: addr("10.0.2.2"), Hostname: "n1", DNS: []netip.Addr{addr("9.9.9.9")}},
		"10.0.2.15::10.0.2.2:24:n1:eth0:none:1400":                   {Name: "eth0", Method: "static", Address: pfx("10.0.2.15/24"), Gateway: addr("10.0.2.2"), Hostname: "n1", MTU: 1400},
		"10.0.2.15::10.0.2.2:24:n1:eth0:none:::":                     {Name: "eth0", Method: "static", Address: pfx("10.0.2.15/24"), Gateway: addr("10.0.2.2"), Hostname: "n1"},
		"[fd00::9]::[fd00::1]:64:n1:eth0:none":                       {Name: "eth0", Method: "static", Address: pfx("fd00::9/64"), Gateway: addr("fd00::1"), Hostname: "n1"},
		"[fd00::9]":                                                  {Method: "static", Address: pfx("fd00::9/64")},
		"::::n1:eth0:dhcp":                                           {Name: "eth0", Method: "dhcp", Hostname: "n1"},
		"::::n1:eth0":                                                {Name: "eth0", Method: "dhcp", Hostname: "n1"},
		"::::n1:BOOTIF:dhcp":                                         {Method: "dhcp", Hostname: "n1"},
		"::::n1":                                                     {Method: "dhcp", Hostname: "n1"},
		// PXELINUX (IPAPPEND 1), and the same with a host name, and what else leaves out the end.
		"10.0.0.5:10.0.0.1:10.0.0.254:255.255.255.0":         {Method: "static", Address: pfx("10.0.0.5/24"), Peer: addr("10.0.0.1"), Gateway: addr("10.0.0.254")},
		"10.0.0.5:10.0.0.1:10.0.0.254:255.255.255.0:n1":      {Method: "static", Address: pfx("10.0.0.5/24"), Peer: addr("10.0.0.1"), Gateway: addr("10.0.0.254"), Hostname: "n1"},
		"10.0.0.5:10.0.0.1:10.0.0.254:255.255.255.0:n1:eth1": {Name: "eth1", Method: "static", Address: pfx("10.0.0.5/24"), Peer: addr("10.0.0.1"), Gateway: addr("10.0.0.254"), Hostname: "n1"},
		"10.0.0.5":                  {Method: "static", Address: pfx("10.0.0.5/8")},
		"10.0.0.5/20::10.0.0.1":     {Method: "static", Address: pfx("10.0.0.5/20"), Gateway: addr("10.0.0.1")},
		"192.168.7.5::192.168.7.1:": {Method: "static", Address: pfx("192.168.7.5/24"), Gateway: addr("192.168.7.1")},
	} {
		pass := func(why string) { t.Errorf("%q: passes over: %s", value, why) }
		got, err := parseInterface(value, pass)
		if err != nil {
			t.Errorf("%q: %v", value, err)
			continue
		}
		if d := cmp.Diff(want, got, cmpNet); d != "" {
			t.Errorf("%q (-want +got):\n%s", value, d)
		}
		again, err := parseInterface(got.String(), pass)
		if err != nil {
			t.Errorf("%q formats as %q: %v", value, got.String(), err)
		} else if d := cmp.Diff(got, again, cmpNet); d != "" {
			t.Errorf("%q formats as %q:\n%s", value, got.String(), d)
		}
	}
}

// An argument about the network that is not understood does not keep a machine from booting: it is
// passed over, as a whole or in part, and that is said.
func TestPassedOver(t *testing.T) {
	root := Root{Transport: NBD, Servers: []string{"a"}, Port: 1}
	static := Interface{Name: "e", Method: "static", Address: pfx("10.0.0.5/24")}
	for line, test := range map[string]struct {
		want Boot
		said string
	}{
		"ip=eth0":                      {Boot{}, "expected ip=dhcp"},
		"ip=auto6":                     {Boot{}, "the method auto6"},
		"ip=eth0:dhcp6":                {Boot{}, "the method dhcp6"},
		"ip=1.2.3.4::::h:e:bogus":      {Boot{}, `"bogus" is not a method`},
		"ip=1.2.3.4:::255.0.255.0:h:e": {Boot{}, "has holes"},
		"ip=1.2.3.4:::33:h:e:off":      {Boot{}, "longer than the address"},
		"ip=1.2.3.4:::99999999999999999999:h:e:off": {Boot{}, "longer than the address"},
		"ip=0.0.0.0::::h:e":                         {Boot{}, "expected ip=dhcp"},
		"ip=::::h:e:none":                           {Boot{}, "a static address is missing"},
		"ip=10.0.0.5:nope::24::e:none":              {Boot{Interfaces: []Interface{static}}, `"nope" is not an address`},
		"ip=10.0.0.5::nope:24::e:none":              {Boot{Interfaces: []Interface{static}}, `"nope" is not an address`},
		"ip=10.0.0.5:::24::e:none:nope":             {Boot{Interfaces: []Interface{static}}, `"nope" is not the address of a name server`},
		"ip=10.0.0.5:::24::e:none:9":                {Boot{Interfaces: []Interface{static}}, `"9" is not an MTU`},
		"ip=e:dhcp:9:52:54:00:12:34:56":             {Boot{Interfaces: []Interface{{Name: "e", Method: "dhcp"}}}, "does not get 52:54:00:12:34:56"},
		"ip=10.0.0.5:::24::e:none:::10.0.0.7":       {Boot{Interfaces: []Interface{static}}, "10.0.0.7"},
		"BOOTIF=":                                   {Boot{}, "MAC address"},
		"BOOTIF=zz":                                 {Boot{}, "MAC address"},
		"nameserver=":                               {Boot{}, "name server"},
		"nameserver=nope":                           {Boot{}, "name server"},
		"nameserver=nope nameserver=10.0.0.53":      {Boot{Nameservers: []netip.Addr{addr("10.0.0.53")}}, "name server"},
		"vlan=eth0.5:eth0":                          {Boot{}, "dracut has this argument"},
		"bond=bond0:eth0,eth1":                      {Boot{}, "dracut has this argument"},
		"rd.route=10.9.0.0/16:10.0.0.254":           {Boot{}, "dracut has this argument"},
		"rd.peerdns=0":                              {Boot{}, "dracut has this argument"},
	} {
		got, err := Parse("root=nbd:a:1 " + line)
		if err != nil {
			t.Errorf("%s: %v", line, err)
			continue
		}
		said := strings.Join(got.PassedOver, "\n")
		if key, _, _ := strings.Cut(line, "="); !strings.HasPrefix(said, key+"=") || !strings.Contains(said, test.said) {
			t.Errorf("%s: said %q, want %q", line, said, test.said)
		}
		got.PassedOver = nil
		test.want.Root = root
		if d := cmp.Diff(test.want, got, cmpNet); d != "" {
			t.Errorf("%s (-want +got):\n%s", line, d)
		}
	}
}

func TestBootIF(t *testing.T) {
	const ib = "80-00-02-08-fe-80-00-00-00-00-00-00-f4-52-14-03-00-7b-cb-a1"
	for value, want := range map[string]string{
		"01-52-54-00-12-34-AB":       "52:54:00:12:34:ab",
		"52-54-00-12-34-ab":          "52:54:00:12:34:ab",
		"01:52:54:00:12:34:ab":       "52:54:00:12:34:ab",
		"01-52:54:00:12:34:ab":       "52:54:00:12:34:ab",
		"06-52-54-00-12-34-ab":       "52:54:00:12:34:ab",
		"52540012 34ab":              "",
		"5254001234ab":               "52:54:00:12:34:ab",
		"20-" + ib:                   strings.ReplaceAll(ib, "-", ":"),
		ib:                           strings.ReplaceAll(ib, "-", ":"),
		"20-f4-52-14-03-00-7b-cb-a1": "f4:52:14:03:00:7b:cb:a1",
		"":                           "",
		"01-":                        "",
		"01-52-54-00-12":             "",
		"5-254-00-12-34-56":          "",
		"01-52-54-00-12-34-5x":       "",
		"${netX/mac:hexhyp}":         "",
	} {
		got, err := ParseBootIF(value)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v, want %q", value, got, err, want)
		}
		if want == "" {
			continue
		}
		if b, err := Parse("root=nbd:a:1 " + formatBootIF(want)); err != nil || b.BootMAC != want {
			t.Errorf("%s: %q, %v", formatBootIF(want), b.BootMAC, err)
		}
	}
}

// Of several ip= one configures the interface of the root.
func TestPrimary(t *testing.T) {
	for line, want := range map[string]string{
		"":                                       "dhcp",
		"ip=eth1:dhcp":                           "eth1:dhcp",
		"ip=eth1:dhcp ip=eth2:dhcp":              "eth1:dhcp",
		"ip=eth1:dhcp ip=dhcp":                   "dhcp",
		"ip=eth1:dhcp ip=eth2:dhcp bootdev=eth2": "eth2:dhcp",
		"ip=eth1:dhcp ip=eth2:dhcp BOOTIF=01-52-54-00-12-34-02":              "eth2:dhcp", // as the function of this test says
		"ip=eth1:dhcp ip=52-54-00-12-34-09:dhcp BOOTIF=01-52-54-00-12-34-09": "52-54-00-12-34-09:dhcp",
		"ip=dhcp ip=eth2:dhcp BOOTIF=01-52-54-00-12-34-02":                   "eth2:dhcp",
		"ip=eth2:dhcp ip=eth1:dhcp bootdev=eth1 BOOTIF=01-52-54-00-12-34-02": "eth1:dhcp",
	} {
		b, err := Parse("root=nbd:a:1 " + line)
		if err != nil {
			t.Fatal(err)
		}
		got, rest := b.Primary(func(name string) bool { return name == "eth2" })
		if got.String() != want || len(rest) != max(0, len(b.Interfaces)-1) {
			t.Errorf("%q: %s, %v, want %s", line, got, rest, want)
		}
	}
}
