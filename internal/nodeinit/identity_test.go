package nodeinit

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"netroot/internal/nodeinit/network"
)

func exampleConfig() *network.Config {
	return &network.Config{
		Link: "eth0", MAC: "52:54:00:12:34:56", Address: netip.MustParsePrefix("10.1.2.3/24"), Hostname: "n7",
		DNS:    []netip.Addr{netip.MustParseAddr("10.1.2.53"), netip.MustParseAddr("10.1.2.54")},
		Search: []string{"cluster.example"},
	}
}

// tree makes a root with the given files; a value of "-> X" is a link to X.
func tree(t *testing.T, files map[string]string) (*os.Root, string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root, dir
}

func content(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return "(" + err.Error() + ")"
	}
	return string(b)
}

func TestPersonalise(t *testing.T) {
	root, dir := tree(t, map[string]string{
		"etc/machine-id":  "",
		"etc/hostname":    "image\n",
		"etc/resolv.conf": "# none\n",
	})
	if err := personalise(root, exampleConfig(), "0123"); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"etc/machine-id": "0123\n", "etc/hostname": "n7\n",
		"etc/resolv.conf": "# written by netroot at boot\nsearch cluster.example\nnameserver 10.1.2.53\nnameserver 10.1.2.54\n",
	} {
		if got := content(t, dir, name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	if _, err := os.Stat(dir + "/etc/sysconfig"); err == nil {
		t.Error("made /etc/sysconfig in a distribution that has none")
	}
}

// TestPersonaliseLinks: a link in the image never leads the boot's writes away.
func TestPersonaliseLinks(t *testing.T) {
	outside := t.TempDir() + "/victim"
	os.WriteFile(outside, []byte("untouched"), 0o644)
	root, dir := tree(t, map[string]string{
		"etc/machine-id":                   "-> " + outside,
		"etc/hostname":                     "-> /proc/sys/kernel/hostname",
		"etc/resolv.conf":                  "-> /run/systemd/resolve/stub-resolv.conf",
		"usr/lib/systemd/systemd-resolved": "", "etc/systemd/system/sysinit.target.wants/systemd-resolved.service": "",
	})
	if err := personalise(root, exampleConfig(), "0123"); err != nil {
		t.Fatal(err)
	}
	if got := content(t, "", outside); got != "untouched" {
		t.Errorf("the file that a link leads to became %q", got)
	}
	if got := content(t, dir, "etc/machine-id"); got != "0123\n" {
		t.Errorf("machine-id = %q", got)
	}
	if got, _ := os.Readlink(dir + "/etc/resolv.conf"); got != "/run/systemd/resolve/stub-resolv.conf" {
		t.Errorf("resolv.conf, which a service of the image writes, became %q", got)
	}
}

func TestResolvConfOfAuthorStays(t *testing.T) {
	root, dir := tree(t, map[string]string{"etc/resolv.conf": "nameserver 192.0.2.1\n"})
	if err := personalise(root, exampleConfig(), "0123"); err != nil {
		t.Fatal(err)
	}
	if got := content(t, dir, "etc/resolv.conf"); got != "nameserver 192.0.2.1\n" {
		t.Errorf("resolv.conf = %q", got)
	}
}

func TestHideIfcfg(t *testing.T) {
	const scripts = "etc/sysconfig/network-scripts/"
	root, dir := tree(t, map[string]string{
		scripts + "ifcfg-lo":   "DEVICE=lo\n",
		scripts + "ifcfg-eth0": "DEVICE=eth0\nBOOTPROTO=dhcp\nONBOOT=yes\n",
		scripts + "ifcfg-lan":  "HWADDR=\"52:54:00:12:34:56\"\nBOOTPROTO=dhcp\n",
		scripts + "ifcfg-ib0":  "DEVICE=ib0\nONBOOT=yes\n",
	})
	if err := hideIfcfg(root, exampleConfig()); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(dir + "/" + scripts + "*")
	if err != nil || len(left) != 3 {
		t.Errorf("left: %v, %v", left, err)
	}
	if got := content(t, dir, scripts+"ifcfg-eth0"); !strings.Contains(got, "ONBOOT=no") || !strings.Contains(got, "NM_CONTROLLED=no") {
		t.Errorf("ifcfg-eth0 = %q", got)
	}
	if got := content(t, dir, scripts+"ifcfg-ib0"); got != "DEVICE=ib0\nONBOOT=yes\n" {
		t.Errorf("another interface's file became %q", got)
	}
}

// TestMachineID: two machines have two identities as long as they have two MAC addresses, whatever
// their firmware says.
func TestMachineID(t *testing.T) {
	const uuid = "4C4C4544-0042-4E10-8057-B4C04F4D5A32"
	seen := map[string]string{}
	for _, uuid := range []string{"", uuid, "00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", "03000200-0400-0500-0006-000700080009"} {
		for _, mac := range []string{"52:54:00:12:34:56", "52:54:00:12:34:57"} {
			id := machineID(uuid, mac)
			if len(id) != 32 || id[12] != '4' || !strings.ContainsRune("89ab", rune(id[16])) {
				t.Errorf("%s is not a version 4 UUID", id)
			}
			if other, taken := seen[id]; taken {
				t.Errorf("%s %s has the identity of %s", uuid, mac, other)
			}
			seen[id] = uuid + " " + mac
			if again := machineID(strings.ToLower(uuid), strings.ToUpper(mac)); again != id {
				t.Errorf("%s %s: %s in other letters", uuid, mac, again)
			}
		}
	}
}

func TestNameStorage(t *testing.T) {
	const id = "0123"
	const nqn, initiator = "nqn.2014-08.org.nvmexpress:uuid:0123\n", "InitiatorName=iqn.2026-11.invalid.netroot:node:0123\n"
	const old = "nqn.2014-08.org.nvmexpress:uuid:old\n"
	files := map[string]string{
		"etc/nvme/hostnqn": old, "etc/nvme/discovery.conf": "", initiatorFile: "# x\nGenerateName=yes\n",
	}
	for _, test := range []struct {
		name           string
		image          map[string]string // nil: there is no memory over the root
		nqn, initiator string
	}{
		{"of the image", files, nqn, initiator},
		{"of a layer", map[string]string{initiatorFile: "InitiatorName=iqn.x"}, old, initiator},
		{"of the node's own root", nil, old, initiator},
	} {
		root, dir := tree(t, files)
		image := ""
		if test.image != nil {
			_, image = tree(t, test.image)
		}
		if err := nameStorage(root, image, id); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"etc/nvme/hostnqn": test.nqn, initiatorFile: test.initiator, "etc/nvme/hostid": id + "\n"} {
			if got := content(t, dir, name); got != want {
				t.Errorf("%s: %s is %q, want %q", test.name, name, got, want)
			}
		}
	}
	root, dir := tree(t, map[string]string{"etc/motd": ""})
	if err := nameStorage(root, "", id); err != nil {
		t.Fatal(err)
	}
	if names, err := os.ReadDir(dir + "/etc"); err != nil || len(names) != 1 {
		t.Errorf("made %v in a root without the tools", names)
	}
}

func TestHostID(t *testing.T) {
	n := &node{net: exampleConfig()}
	id := n.hostID()
	if len(id) != 36 || strings.ReplaceAll(id, "-", "") != n.machineID() {
		t.Errorf("%q of machine-id %q", id, n.machineID())
	}
}
