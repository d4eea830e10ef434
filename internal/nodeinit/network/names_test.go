package network

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"netroot/internal/handoff"
)

// sysTree makes a sysfs: values are contents, or the target of a link after "-> ".
func sysTree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if len(text) > 3 && text[:3] == "-> " {
			err = os.Symlink(filepath.Join(dir, text[3:]), path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// The names are those that udev's net_id gives for the same files (systemd.net-naming-scheme(7)).
func TestPredictable(t *testing.T) {
	multi := string(append(make([]byte, 14), 0x80, 0)) // header type: more functions
	single := string(make([]byte, 16))
	const pci = "devices/pci0000:00/"
	for name, test := range map[string]struct {
		files map[string]string
		kind  string // empty: ether
		want  []string
	}{
		"virtio of qemu": {map[string]string{
			"class/net/eth0/device": "-> " + pci + "0000:00:03.0/virtio0", pci + "0000:00:03.0/virtio0/x": "", pci + "0000:00:03.0/config": single,
			"bus/pci/slots/3/address": "0000:00:03\n", "bus/pci/slots/4/address": "0000:00:04\n"}, "", []string{"enx525400123456", "ens3", "enp0s3"}},
		"on the board": {map[string]string{
			"class/net/eth0/device": "-> " + pci + "0000:00:1f.6", pci + "0000:00:1f.6/acpi_index": "1\n", pci + "0000:00:1f.6/index": "2\n", pci + "0000:00:1f.6/config": single},
			"", []string{"enx525400123456", "eno1", "eno2", "enp0s31f6"}},
		"the second of a card behind a bridge": {map[string]string{
			"class/net/eth0/device": "-> " + pci + "0000:00:01.0/0000:3b:00.1", pci + "0000:00:01.0/0000:3b:00.1/config": multi, "class/net/eth0/dev_port": "0\n",
			"class/net/eth0/phys_port_name": "p1\n", "bus/pci/slots/2-1/address": "0000:3b:00\n", "bus/pci/slots/5/address": "0000:00:01\n"},
			"", []string{"enx525400123456", "ens5f1", "enp59s0f1", "ens5f1np1", "enp59s0f1np1"}},
		"the first of two functions": {map[string]string{
			"class/net/eth0/device": "-> " + pci + "0000:65:00.0", pci + "0000:65:00.0/config": multi, pci + "0000:65:00.0/firmware_node/sun": "7\n"},
			"", []string{"enx525400123456", "ens7f0", "enp101s0f0"}},
		"the second port of one function": {map[string]string{
			"class/net/eth0/device": "-> " + pci + "0000:04:00.0", pci + "0000:04:00.0/config": single, "class/net/eth0/dev_port": "1\n"},
			"", []string{"enx525400123456", "enp4s0d1"}},
		"another domain": {map[string]string{
			"class/net/eth0/device": "-> devices/pci0001:00/0001:01:00.0", "devices/pci0001:00/0001:01:00.0/config": single},
			"", []string{"enx525400123456", "enP1p1s0"}},
		"USB": {map[string]string{
			"class/net/eth0/device": "-> " + pci + "0000:00:14.0/usb1/1-1/1-1.2/1-1.2:2.1", pci + "0000:00:14.0/usb1/1-1/1-1.2/1-1.2:2.1/x": "", pci + "0000:00:14.0/config": single},
			"", []string{"enx525400123456", "enp0s20u1u2c2i1"}},
		"a device tree": {map[string]string{
			"class/net/eth0/device": "-> devices/platform/fe300000.ethernet", "devices/platform/fe300000.ethernet/of_node": "-> firmware/devicetree/base/soc/ethernet@fe300000",
			"firmware/devicetree/base/soc/ethernet@fe300000/x": "", "firmware/devicetree/base/aliases/ethernet0": "/soc/ethernet@fe300000\x00"},
			"", []string{"enx525400123456", "end0"}},
		"InfiniBand": {map[string]string{
			"class/net/eth0/device": "-> " + pci + "0000:5e:00.0", pci + "0000:5e:00.0/config": single, "class/net/eth0/dev_id": "0x1\n"},
			"infiniband", []string{"ibp94s0d1"}},
		"virtual": {map[string]string{"class/net/eth0/mtu": "1500\n"}, "", []string{"enx525400123456"}},
	} {
		a := &netlink.LinkAttrs{Name: "eth0", EncapType: "ether", HardwareAddr: net.HardwareAddr{0x52, 0x54, 0, 0x12, 0x34, 0x56}}
		if test.kind != "" {
			a.EncapType, a.HardwareAddr = test.kind, make(net.HardwareAddr, 20)
		}
		sys := sysTree(t, test.files)
		got := predictable(sys, a)
		if d := cmp.Diff(test.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
		for _, n := range append(slices.Clone(test.want), "eth0") {
			if !called(sys, a, n) {
				t.Errorf("%s: not called %s", name, n)
			}
		}
		if called(sys, a, "eth1") {
			t.Errorf("%s: called eth1", name)
		}
	}
}

func TestSameMAC(t *testing.T) {
	ether, _ := net.ParseMAC("52:54:00:12:34:56")
	port, _ := net.ParseMAC("80:00:02:08:fe:80:00:00:00:00:00:00:f4:52:14:03:00:7b:cb:a1")
	for asked, want := range map[string][2]bool{
		"52:54:00:12:34:56":       {true, false},
		"52-54-00-12-34-56":       {true, false},
		"52:54:00:12:34:57":       {false, false},
		"f4:52:14:03:00:7b:cb:a1": {false, true},
		"80:00:0a:48:fe:80:00:00:00:00:00:00:f4:52:14:03:00:7b:cb:a1": {false, true}, // another queue pair
		"80:00:02:08:fe:80:00:00:00:00:00:00:f4:52:14:03:00:7b:cb:a2": {false, false},
		"": {false, false},
	} {
		if got := [2]bool{sameMAC(asked, ether), sameMAC(asked, port)}; got != want {
			t.Errorf("%s: %v", asked, got)
		}
	}
	if sameMAC("", nil) {
		t.Error("an interface without an address is one that is not named")
	}
}

// What is used in place of an interface that does not exist is never a guess with a static address.
func TestFallback(t *testing.T) {
	link := func(mac string) netlink.Link {
		hw, _ := net.ParseMAC(mac)
		return &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{HardwareAddr: hw}}
	}
	one, two := link("52:54:00:12:34:56"), link("52:54:00:12:34:57")
	for name, test := range map[string]struct {
		hardware     []netlink.Link
		ip, bootMAC  string
		wantHardware int
		first        netlink.Link
	}{
		"BOOTIF= knows":       {[]netlink.Link{one, two}, "static", "52:54:00:12:34:57", 1, two},
		"the only one":        {[]netlink.Link{one}, "static", "", 1, one},
		"two, static":         {[]netlink.Link{one, two}, "static", "", 0, nil},
		"two, DHCP":           {[]netlink.Link{one, two}, "dhcp", "", 2, one},
		"BOOTIF= of neither":  {[]netlink.Link{one, two}, "dhcp", "52:54:00:12:34:58", 2, one},
		"no interface at all": {nil, "dhcp", "52:54:00:12:34:58", 0, nil},
	} {
		got := fallback(test.hardware, handoffInterface(test.ip), test.bootMAC)
		if len(got) != test.wantHardware || len(got) > 0 && got[0] != test.first {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func handoffInterface(method string) handoff.Interface {
	return handoff.Interface{Name: "lan0", Method: method}
}
