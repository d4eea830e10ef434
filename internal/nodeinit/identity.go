package nodeinit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"netroot/internal/handoff"
	"netroot/internal/nodeinit/attach"
	"netroot/internal/nodeinit/devices"
	"netroot/internal/nodeinit/distro"
	"netroot/internal/nodeinit/network"
	"netroot/internal/nodeinit/report"
)

// giveIdentity gives the root what belongs to this node alone: its name, its machine-id, its name
// servers, and the files that tell the distribution's services what they may not do here.
func (n *node) giveIdentity(_ context.Context, out report.Step) (string, error) {
	root, err := os.OpenRoot(newRoot)
	if err != nil {
		return "", err
	}
	defer root.Close()
	d := distro.Root{Dir: newRoot, Files: root, Init: n.boot.Init, Overlay: n.boot.Overlay.Enabled,
		OverNetwork: n.boot.Root.Transport != handoff.HTTP}
	if n.boot.Root.Transport == handoff.ISCSI {
		d.ISCSIMount = liveImage
	}
	if err := d.Settle(out, network.ServiceFiles(n.net)); err != nil {
		return "", err
	}
	if err := n.giveName(root, d.StartsSystemd()); err != nil {
		return "", err
	}
	if !n.writable() {
		return "the root is read-only and keeps its own /etc", nil
	}
	id := n.machineID()
	if err := personalise(root, n.net, id); err != nil {
		return "", err
	}
	image := ""
	if n.boot.Overlay.Enabled {
		image = filepath.Join(newRoot, liveImage)
	}
	if err := nameStorage(root, image, n.hostID()); err != nil {
		return "", err
	}
	return "machine-id " + id, nil
}

// giveName sets the host name: that of DHCP or ip=; else the image's, which its init sets; else one
// made of the address, because no two machines may be called "(none)" or "localhost".
func (n *node) giveName(root *os.Root, systemd bool) error {
	name := n.net.Hostname
	if name == "" {
		if distro.HasHostname(root) {
			return nil
		}
		name = distro.Hostname(n.net.MAC)
	}
	if err := unix.Sethostname([]byte(name)); err != nil {
		return fmt.Errorf("set the host name %s: %w", name, err)
	}
	if n.net.Hostname == "" && n.writable() && !systemd { // which keeps what the kernel has
		return replaceFile(root, "etc/hostname", name+"\n", 0o644)
	}
	return nil
}

// nameStorage gives the root's own NVMe and iSCSI tools the names of this node, by which storage
// servers tell it from others. Where there is no directory, there are no tools. A name that a layer
// has brought stays: it is not that of image, the directory of the root below the layers. Without
// one the root is this node's own, and a name that it has stays.
func nameStorage(root *os.Root, image, hostID string) error {
	for _, f := range []struct {
		name, text string
		mode       os.FileMode
	}{
		{"etc/nvme/hostnqn", attach.HostNQN(hostID) + "\n", 0o644},
		{"etc/nvme/hostid", hostID + "\n", 0o644},
		{initiatorFile, "InitiatorName=" + attach.InitiatorName(hostID) + "\n", 0o600},
	} {
		if _, err := root.Stat(filepath.Dir(f.name)); err != nil {
			continue
		}
		given, _ := root.ReadFile(f.name)
		ofImage, _ := os.ReadFile(filepath.Join(image, f.name))
		if named(string(given)) && (image == "" || string(given) != string(ofImage)) {
			continue
		}
		if err := replaceFile(root, f.name, f.text, f.mode); err != nil {
			return err
		}
	}
	return nil
}

// named reports whether a file has a name, and not only comments or open-iscsi's order to make one
// (GenerateName=yes).
func named(text string) bool {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "GenerateName=") {
			return true
		}
	}
	return false
}

// writable reports whether the root can be written to, in memory or permanently.
func (n *node) writable() bool { return n.boot.Overlay.Enabled || n.boot.Root.Writable() }

// personalise writes the files of one node into the root.
func personalise(root *os.Root, cfg *network.Config, machineID string) error {
	if err := root.MkdirAll("etc", 0o755); err != nil {
		return err
	}
	if err := replaceFile(root, "etc/machine-id", machineID+"\n", 0o444); err != nil {
		return err
	}
	if cfg.Hostname != "" {
		if err := replaceFile(root, "etc/hostname", cfg.Hostname+"\n", 0o644); err != nil {
			return err
		}
	}
	if needsResolvConf(root) {
		if err := replaceFile(root, "etc/resolv.conf", cfg.ResolvConf(), 0o644); err != nil {
			return err
		}
	}
	return hideIfcfg(root, cfg)
}

// replaceFile writes a file in place of whatever has the name, even a link.
func replaceFile(root *os.Root, name, text string, mode os.FileMode) error {
	if err := root.Remove(name); err != nil && !os.IsNotExist(err) {
		return err
	}
	return root.WriteFile(name, []byte(text), mode)
}

// productUUID is the machine's name in its firmware (SMBIOS).
const productUUID = "/sys/class/dmi/id/product_uuid"

// machineID derives the node's identity (machine-id(5)) from its hardware, so that it is the same
// at every boot and no two nodes share the one of an image. The MAC address of the boot interface
// counts beside the UUID: there are boards that all have one UUID, and no list has them all. The
// identifier is hashed, as machine-id(5) requires, and marked as a version 4 UUID.
func machineID(uuid, mac string) string {
	id := sha256.Sum256([]byte("netroot machine-id " + strings.ToLower(uuid) + " " + strings.ToLower(mac)))
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return hex.EncodeToString(id[:16])
}

func (n *node) machineID() string { return machineID(devices.Attribute(productUUID), n.net.MAC) }

// hostID is the node's identity as a UUID, by which servers recognise it.
func (n *node) hostID() string {
	id := n.machineID()
	return strings.Join([]string{id[:8], id[8:12], id[12:16], id[16:20], id[20:]}, "-")
}

// hideIfcfg keeps the network scripts (EL 7 and earlier, and NetworkManager's ifcfg plugin later)
// away from the boot interface: a file that names it, or its address, is replaced by one that says
// so.
func hideIfcfg(root *os.Root, c *network.Config) error {
	const dir = "etc/sysconfig/network-scripts"
	d, err := root.Open(dir)
	if err != nil {
		return nil // another distribution
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if !strings.HasPrefix(e.Name(), "ifcfg-") || e.Name() == "ifcfg-lo" {
			continue
		}
		text, err := root.ReadFile(name)
		if err == nil && (e.Name() == "ifcfg-"+c.Link || mentions(string(text), c)) {
			if err := root.Remove(name); err != nil {
				return err
			}
		}
	}
	text := "# written by netroot at boot: the root is behind this interface\nDEVICE=" + c.Link +
		"\nHWADDR=" + c.MAC + "\nONBOOT=no\nBOOTPROTO=none\nNM_CONTROLLED=no\n"
	return replaceFile(root, dir+"/ifcfg-"+c.Link, text, 0o644)
}

// mentions reports whether an ifcfg file configures the interface.
func mentions(text string, c *network.Config) bool {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(value, `"'`)
		if key == "DEVICE" && value == c.Link || key == "HWADDR" && strings.EqualFold(value, c.MAC) {
			return true
		}
	}
	return false
}
