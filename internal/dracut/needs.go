package dracut

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"netroot/internal/handoff"
	"netroot/internal/layer"
)

// packages are the names of something in Debian and Ubuntu, and in Enterprise Linux and Fedora.
type packages struct{ deb, rpm string }

// The network of an initramfs. Debian's dracut-network depends on what brings it up in that release:
// isc-dhcp-client and iputils-arping before Debian 13, later those or systemd-networkd, and with
// dracut 112 systemd-networkd or NetworkManager, since neither network-legacy nor isc-dhcp-client
// exists.
var (
	basePackages    = packages{"dracut-core and dracut-network", "dracut, dracut-network and NetworkManager"}
	networkPackages = packages{"dracut-network", "dracut-network and NetworkManager"}
	legacyPackages  = packages{"isc-dhcp-client and iputils-arping", "NetworkManager"}
	modernPackages  = packages{"systemd (with systemd-networkd) or network-manager", "NetworkManager or systemd-networkd"}
)

// need is what one of dracut's modules for a transport requires in the tree.
type need struct {
	transport handoff.Transport
	module    string
	programs  [][]string // one of each
	packages  packages
}

// needs are those of the modules of dracut 051 to 112, as their check() says. The other transports are the
// work of netroot-init.
var needs = []need{
	{handoff.NBD, "nbd", [][]string{{"nbd-client"}}, packages{"nbd-client", "nbd"}},
	{handoff.ISCSI, "iscsi", [][]string{{"iscsi-iname"}, {"iscsiadm"}, {"iscsid"}}, packages{"open-iscsi", "iscsi-initiator-utils"}},
	{handoff.NFS, "nfs", [][]string{{"rpcbind", "portmap"}, {"rpc.statd"}, {"mount.nfs"}, {"mount.nfs4"}}, packages{"nfs-common", "nfs-utils"}},
}

// tree is a root filesystem that is searched.
type tree struct{ root *os.Root }

func (t tree) has(name string) bool {
	_, err := layer.Resolve(t.root, name)
	return err == nil
}

// hasProgram looks in the directories that dracut searches.
func (t tree) hasProgram(name string) bool {
	for _, dir := range []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		if t.has(path.Join(dir, name)) {
			return true
		}
	}
	return false
}

// module returns the setup script of one of dracut's modules. The name of its folder begins with two
// digits, which differ between versions.
func (t tree) module(name string) (script string, ok bool) {
	place, err := layer.Resolve(t.root, modulesDir)
	if err != nil {
		return "", false
	}
	found, err := fs.Glob(t.root.FS(), place+"/[0-9][0-9]"+name+"/module-setup.sh")
	if err != nil || len(found) == 0 {
		return "", false
	}
	return found[0], true
}

func (t tree) hasModule(name string) bool {
	_, ok := t.module(name)
	return ok
}

// contains reports whether a text file contains a word.
func (t tree) contains(name, word string) bool {
	place, err := layer.Resolve(t.root, name)
	if err != nil {
		return false
	}
	text, err := t.root.ReadFile(place)
	return err == nil && bytes.Contains(text, []byte(word))
}

// packages returns the names of the tree's distribution, or both if it is not known.
func (t tree) packages(p packages) string {
	switch {
	case t.has("/var/lib/dpkg/status"):
		return p.deb
	case t.has("/usr/bin/rpm"):
		return p.rpm
	}
	return fmt.Sprintf("%s (Debian, Ubuntu), or %s (Enterprise Linux, Fedora)", p.deb, p.rpm)
}

// attaches returns the module of dracut that attaches roots by a transport, "" if netroot-init
// does. lacking says what to install if the module or its programs are missing.
func (t tree) attaches(transport handoff.Transport) (module, lacking string) {
	for _, n := range needs {
		if n.transport != transport {
			continue
		}
		var missing []string
		if !t.hasModule(n.module) {
			missing = append(missing, "its module "+n.module)
		}
		for _, any := range n.programs {
			if !t.hasAny(any) {
				missing = append(missing, strings.Join(any, " or "))
			}
		}
		if missing != nil {
			p := n.packages
			if !t.hasModule(n.module) {
				p = packages{p.deb + " and dracut-network", p.rpm + " and dracut-network"}
			}
			return "", fmt.Sprintf("install %s (%s is missing)", t.packages(p), strings.Join(missing, ", "))
		}
		return n.module, ""
	}
	return "", ""
}

func (t tree) hasAny(programs []string) bool {
	for _, p := range programs {
		if t.hasProgram(p) {
			return true
		}
	}
	return false
}

// network returns the modules to add for a network in the initramfs. dracut uses NetworkManager if
// its generator for that exists, and otherwise prefers systemd-networkd to its own scripts
// (modules.d/40network). The scripts, which end with dracut 106, are better known, and are preferred
// here if the programs that they run exist.
func (t tree) network() ([]string, error) {
	scripts := t.hasModule("network-legacy")
	manager := t.hasModule("network-manager") && (t.has("/usr/libexec/nm-initrd-generator") || t.has("/usr/lib/nm-initrd-generator"))
	legacy := scripts && t.hasProgram("dhclient") && t.hasProgram("ip") && t.hasAny([]string{"arping", "arping2"})
	switch {
	case !t.hasModule("network"):
		return nil, fmt.Errorf("dracut in this tree has no network: install %s in the recipe", t.packages(networkPackages))
	case manager:
		return []string{"network-manager"}, nil
	case legacy:
		return []string{"network-legacy"}, nil
	case t.networkd():
		return []string{"systemd-networkd"}, nil
	}
	needed := modernPackages
	if scripts {
		needed = legacyPackages
	}
	return nil, fmt.Errorf("dracut in this tree cannot bring up the network: install %s in the recipe", t.packages(needed))
}

// networkd reports whether dracut can use systemd-networkd: check() and depends() of its module. In
// dracut 051 nothing gives the command line to systemd-networkd; in dracut 059 it requires dbus.
func (t tree) networkd() bool {
	script, ok := t.module("systemd-networkd")
	return ok && t.contains(script, "systemd-network-generator") && t.hasProgram("ip") &&
		t.has("/usr/lib/systemd/systemd-networkd") && t.has("/usr/lib/systemd/systemd-network-generator") &&
		(!t.contains(script, "echo dbus ") || t.hasAny([]string{"dbus-daemon", "dbus-broker"}))
}
