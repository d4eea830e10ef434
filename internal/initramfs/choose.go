package initramfs

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"netroot/internal/handoff"
	"netroot/internal/kernel"
	"netroot/internal/kmod"
)

// needed returns the modules that every boot requires. No device requests them: the init loads them
// by name. They may be built into the kernel.
func needed(rootFormat string) []handoff.Module {
	root := handoff.Module{Name: "squashfs", Option: "SQUASHFS"}
	if rootFormat == "erofs" {
		root = handoff.Module{Name: "erofs", Option: "EROFS_FS"}
	}
	return []handoff.Module{{Name: "af_packet", Option: "PACKET"}, root, {Name: "overlay", Option: "OVERLAY_FS"}}
}

// virtual lists the modules that the devices of virtual machines request, and the file systems that
// a root may have. A kernel may lack any of them.
var virtual = []string{
	"virtio_pci", "virtio_pci_modern_dev", "virtio_mmio", "virtio_net", "virtio_blk", "virtio_rng", "virtio_console",
	"e1000", "e1000e", "8139cp", // the other network cards that qemu offers
	"erofs", "squashfs",
}

// physical lists parts of module paths. A module whose path contains one goes into the hardware
// archive: drivers of network hardware, and of the hardware through which it, or the keyboard for a
// rescue shell, is connected. The list leaves out wireless, WAN, CAN and the drivers without a
// device (tunnels, bridges, VLANs).
var physical = []string{
	"/drivers/net/ethernet/", "/drivers/net/usb/", "/drivers/net/phy/", "/drivers/net/mdio/", "/drivers/net/pcs/",
	"/drivers/net/mdio.ko", "/drivers/net/mii.ko", "/drivers/net/hyperv/", "/drivers/net/vmxnet3/", "/drivers/net/xen-netfront.ko",
	"/drivers/infiniband/hw/mlx4/", "/drivers/infiniband/hw/mlx5/", "/drivers/infiniband/hw/hfi1/", "/drivers/infiniband/ulp/ipoib/",
	"/drivers/pci/controller/", "/drivers/pci/host/",
	"/drivers/usb/host/xhci", "/drivers/usb/host/ehci", "/drivers/usb/host/ohci", "/drivers/usb/host/uhci",
	"/drivers/hid/usbhid/usbhid.ko", "/drivers/hid/hid-generic.ko", "/drivers/hid/hid-hyperv.ko",
	"/drivers/input/keyboard/atkbd.ko", "/drivers/input/serio/i8042.ko", "/drivers/input/serio/hyperv-keyboard.ko",
}

// switches lists the exceptions: the chips of network switches. Nobody boots diskless through them,
// and they have much firmware.
var switches = []string{"/mellanox/mlxsw/", "/marvell/prestera/", "/microchip/sparx5/", "/mscc/"}

// companions are modules that another module loads with modprobe when it finds its device. The
// initramfs has no modprobe, so the index says that the same devices request both.
// (drivers/net/ethernet/mellanox/mlx4/ main.c; IP over InfiniBand is loaded by udev's rules on a
// full system.)
var companions = []struct{ of, module string }{
	{"mlx4_core", "mlx4_en"}, {"mlx4_core", "mlx4_ib"}, {"mlx4_core", "ib_ipoib"},
	{"mlx5_ib", "ib_ipoib"},
	{"hfi1", "ib_ipoib"},
}

// choice says which module goes into which archive.
type choice struct {
	base, hardware []kmod.Module // sorted by path; no module is in both
	load           []string      // modules that every boot loads
}

// choose decides which modules go into which archive, with their dependencies.
func choose(index *kmod.Index, opt Options) (choice, error) {
	var c choice
	taken := map[string]bool{}
	if err := c.require(index, opt); err != nil {
		return c, err
	}
	for _, name := range opt.Modules {
		if !index.Builtin(name) {
			c.load = append(c.load, kmod.Name(name))
		}
	}
	for _, name := range c.load {
		order, err := index.LoadOrder(name)
		if err != nil {
			return c, err
		}
		c.base = add(c.base, taken, order)
	}
	optional := slices.Clone(virtual)
	// The init loads those of the transport that it boots over.
	for _, t := range handoff.Transports() {
		for _, m := range t.Modules() {
			optional = append(optional, m.Name)
		}
	}
	for _, word := range optional {
		for _, name := range index.Resolve(word) {
			if order, err := index.LoadOrder(name); err == nil {
				c.base = add(c.base, taken, order)
			}
		}
	}
	for _, m := range index.Modules() {
		if isPhysical(m.Path) {
			// A driver whose dependency is not installed could not be loaded on the
			// full system either.
			if order, err := index.LoadOrder(m.Name); err == nil {
				c.hardware = add(c.hardware, taken, order)
			}
		}
	}
	slices.SortFunc(c.base, byPath)
	slices.SortFunc(c.hardware, byPath)
	return c, nil
}

// require checks that the kernel has what every boot requires, and what the required transports
// need. It also records what every boot must load.
func (c *choice) require(index *kmod.Index, opt Options) error {
	var missing []string
	check := func(m handoff.Module) (loadable bool) {
		switch {
		case m.Optional:
		case index.Builtin(m.Name) || opt.Kernel.Config[m.Option] == "y":
		case index.Resolve(m.Name) == nil:
			missing = append(missing, fmt.Sprintf("%s (CONFIG_%s)", m.Name, m.Option))
		default:
			return true
		}
		return false
	}
	for _, m := range needed(opt.RootFormat) {
		if check(m) {
			c.load = append(c.load, m.Name)
		}
	}
	for _, t := range opt.Transports {
		for _, m := range t.Modules() {
			check(m)
		}
	}
	if missing != nil {
		return fmt.Errorf("it has no module %s: install another kernel, or the package with the other modules of this kernel",
			strings.Join(missing, ", "))
	}
	return nil
}

func add(list []kmod.Module, taken map[string]bool, order []kmod.Module) []kmod.Module {
	for _, m := range order {
		if !taken[m.Name] {
			taken[m.Name] = true
			list = append(list, m)
		}
	}
	return list
}

func byPath(a, b kmod.Module) int { return strings.Compare(a.Path, b.Path) }

func isPhysical(path string) bool {
	has := func(part string) bool { return strings.Contains("/"+path, part) }
	return slices.ContainsFunc(physical, has) && !slices.ContainsFunc(switches, has)
}

// companionAliases returns lines of modules.alias for the companions among the modules.
func companionAliases(index *kmod.Index, modules []kmod.Module) string {
	present := map[string]bool{}
	for _, m := range modules {
		present[m.Name] = true
	}
	var text strings.Builder
	for _, c := range companions {
		if !present[c.of] || !present[c.module] {
			continue
		}
		for _, pattern := range index.Aliases(c.of) {
			fmt.Fprintf(&text, "alias %s %s\n", pattern, c.module)
		}
	}
	return text.String()
}

// Transports returns the transports for which a kernel has all modules, so that its archives
// support them.
func Transports(tree string, k *kernel.Kernel) ([]handoff.Transport, error) {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	index, err := kmod.Read(root.FS(), k.ModuleDir)
	if err != nil {
		return nil, err
	}
	var out []handoff.Transport
	for _, t := range handoff.Transports() {
		lacks := func(m handoff.Module) bool {
			return !m.Optional && index.Resolve(m.Name) == nil && k.Config[m.Option] != "y"
		}
		if !slices.ContainsFunc(t.Modules(), lacks) {
			out = append(out, t)
		}
	}
	return out, nil
}
