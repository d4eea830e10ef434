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
)

// settle gives the root what is this node's own: its name, its machine-id, its
// name servers, and word to the distribution's network services that the boot
// interface is configured and must stay so.
func (n *node) settle(context.Context) (string, error) {
	for path, text := range networkServices(n.net) {
		if err := writeBelow("/", path, text); err != nil {
			return "", err
		}
	}
	if n.net.Hostname != "" {
		if err := unix.Sethostname([]byte(n.net.Hostname)); err != nil {
			return "", fmt.Errorf("set the host name %s: %w", n.net.Hostname, err)
		}
	}
	if !n.writable() {
		return "the root is read-only and keeps its own /etc", nil
	}
	root, err := os.OpenRoot(newRoot)
	if err != nil {
		return "", err
	}
	defer root.Close()
	id := machineID(readTrimmed(productUUID), n.net.MAC)
	if err := personalise(root, n.net, id); err != nil {
		return "", err
	}
	return "machine-id " + id, nil
}

// writable tells whether the root takes what is written to it, in memory or for good.
func (n *node) writable() bool { return n.boot.Overlay.Enabled || n.boot.Root.Writable() }

// personalise writes what is one node's own into the root.
func personalise(root *os.Root, cfg *netConfig, machineID string) error {
	if err := root.MkdirAll("etc", 0o755); err != nil {
		return err
	}
	if err := replace(root, "etc/machine-id", machineID+"\n", 0o444); err != nil {
		return err
	}
	if cfg.Hostname != "" {
		if err := replace(root, "etc/hostname", cfg.Hostname+"\n", 0o644); err != nil {
			return err
		}
	}
	if needsResolvConf(root) {
		if err := replace(root, "etc/resolv.conf", cfg.resolvConf(), 0o644); err != nil {
			return err
		}
	}
	return hideIfcfg(root, cfg)
}

// replace writes a file in place of whatever had the name, a link included.
func replace(root *os.Root, name, text string, mode os.FileMode) error {
	if err := root.Remove(name); err != nil && !os.IsNotExist(err) {
		return err
	}
	return root.WriteFile(name, []byte(text), mode)
}

// needsResolvConf is true unless a service of the image writes the file (then
// it is a link) or the recipe's author did.
func needsResolvConf(root *os.Root) bool {
	const name = "etc/resolv.conf"
	st, err := root.Lstat(name)
	if err != nil {
		return os.IsNotExist(err)
	}
	if !st.Mode().IsRegular() {
		return false
	}
	text, err := root.ReadFile(name)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "nameserver") {
			return false
		}
	}
	return true
}

// productUUID is what firmware (SMBIOS) calls the machine.
const productUUID = "/sys/class/dmi/id/product_uuid"

// machineID derives the node's identity (machine-id(5)) from its hardware, so
// that it is the same at every boot and no two nodes share the one an image
// happens to hold. The identifier is hashed, as machine-id(5) asks, and marked
// as a version 4 UUID.
func machineID(uuid, mac string) string {
	seed := strings.ToLower(uuid)
	if nobody(seed) {
		seed = mac
	}
	id := sha256.Sum256([]byte("netroot machine-id " + seed))
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return hex.EncodeToString(id[:16])
}

// nobody tells a UUID that firmware was never given.
func nobody(uuid string) bool {
	uuid = strings.ToLower(uuid)
	return strings.Trim(uuid, "0-") == "" || strings.Trim(uuid, "f-") == ""
}

// networkServices are the files that keep each network service from taking the
// boot interface down, by path. They lie below /run: nothing in the image
// changes, and whoever boots it otherwise does not meet them. The name beside the
// address keeps them off a bridge or bond that takes the interface's address.
func networkServices(c *netConfig) map[string]string {
	return map[string]string{
		// udev: the name it has; renaming an interface that is up fails before Linux 6.2.
		"run/systemd/network/00-netroot.link": "[Match]\nOriginalName=" + c.Link + "\nMACAddress=" + c.MAC + "\n\n[Link]\nNamePolicy=keep\n",
		// systemd-networkd configures the same again and keeps it on stop and restart.
		"run/systemd/network/00-netroot.network": networkdFile(c),
		// NetworkManager leaves the interface alone and resolv.conf as the boot wrote it.
		"run/NetworkManager/conf.d/00-netroot.conf": "[main]\nrc-manager=unmanaged\n\n[keyfile]\nunmanaged-devices+=mac:" + c.MAC + "\n",
		// ifupdown takes the interface for configured ...
		"run/network/ifstate":           c.Link + "=" + c.Link + "\n",
		"run/network/ifstate." + c.Link: c.Link + "\n",
		// ... and neither its service nor the old network scripts end it at shutdown.
		"run/systemd/system/networking.service.d/netroot.conf": keepRunning,
		"run/systemd/system/network.service.d/netroot.conf":    keepRunning,
	}
}

const keepRunning = "# the root is behind this interface\n[Service]\nExecStop=\n"

func networkdFile(c *netConfig) string {
	var b strings.Builder
	fmt.Fprintf(&b, "[Match]\nName=%s\nMACAddress=%s\n\n[Link]\nRequiredForOnline=yes\n", c.Link, c.MAC)
	if c.MTU != 0 {
		fmt.Fprintf(&b, "MTUBytes=%d\n", c.MTU)
	}
	fmt.Fprintf(&b, "\n[Network]\nKeepConfiguration=yes\nAddress=%s\n", c.Address)
	for _, d := range c.DNS {
		fmt.Fprintf(&b, "DNS=%s\n", d)
	}
	if len(c.Search) > 0 {
		fmt.Fprintf(&b, "Domains=%s\n", strings.Join(c.Search, " "))
	}
	for _, r := range c.Routes {
		fmt.Fprintf(&b, "\n[Route]\nDestination=%s\n", r.Dst.Masked())
		if !r.Via.IsValid() {
			b.WriteString("Scope=link\n")
			continue
		}
		fmt.Fprintf(&b, "Gateway=%s\n", r.Via)
		if !c.Address.Masked().Contains(r.Via) {
			b.WriteString("GatewayOnLink=yes\n")
		}
	}
	return b.String()
}

// hideIfcfg takes the boot interface out of the network scripts' hands (EL 7
// and before, and NetworkManager's ifcfg plugin after): a file of theirs that
// names it, or its address, gives way to one that leaves it alone.
func hideIfcfg(root *os.Root, c *netConfig) error {
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
	return replace(root, dir+"/ifcfg-"+c.Link, "# written by netroot at boot: the root is behind this interface\nDEVICE="+c.Link+
		"\nHWADDR="+c.MAC+"\nONBOOT=no\nBOOTPROTO=none\nNM_CONTROLLED=no\n", 0o644)
}

// mentions tells whether an ifcfg file configures the interface.
func mentions(text string, c *netConfig) bool {
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(value, `"'`)
		if key == "DEVICE" && value == c.Link || key == "HWADDR" && strings.EqualFold(value, c.MAC) {
			return true
		}
	}
	return false
}

// writeBelow writes a file and the directories above it.
func writeBelow(dir, path, text string) error {
	path = filepath.Join(dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}
