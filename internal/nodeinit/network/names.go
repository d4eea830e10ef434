package network

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"

	"netroot/internal/nodeinit/devices"
)

// predictable returns the names that udev may give to an interface (systemd.net-naming-scheme(7)):
// of the port on the board, the slot, the place on the bus, the MAC address, or the alias in a
// device tree. The init runs before udev, and people know the names of the running system.
//
// Virtual functions of SR-IOV and the buses of s390 are left out: no loader boots from them.
func predictable(sys string, a *netlink.LinkAttrs) []string {
	dir := filepath.Join(sys, "class/net", a.Name)
	kind := "en"
	if a.EncapType == "infiniband" {
		kind = "ib"
	}
	var names []string
	add := func(text string) { names = append(names, kind+text) }
	if kind == "en" && len(a.HardwareAddr) == 6 {
		add("x" + strings.ReplaceAll(a.HardwareAddr.String(), ":", ""))
	}
	device, err := filepath.EvalSymlinks(filepath.Join(dir, "device"))
	if err != nil {
		return names
	}
	if number := aliasNumber(sys, device); number != "" {
		add("d" + number)
	}
	pci, bus, ok := pciDevice(device)
	if !ok {
		return names
	}
	for _, port := range ports(dir, kind) {
		for _, file := range []string{"acpi_index", "index"} {
			if n := devices.Attribute(filepath.Join(pci, file)); bus == "" && positive(n) {
				add("o" + n + port)
			}
		}
		if slot := pciSlot(sys, pci); slot != "" {
			add(domain(pci) + "s" + slot + function(pci) + bus + port)
		}
		add(domain(pci) + place(pci) + function(pci) + bus + port)
	}
	return names
}

// ports are the ends of a name that tell apart the ports of one PCI function: of a second one by
// its number or by what the card calls it, and of a first one none, or also by what the card
// calls it.
func ports(dir, kind string) []string {
	var out []string
	number := devices.Attribute(filepath.Join(dir, "dev_port"))
	if kind == "ib" && !positive(number) { // IPoIB of older kernels counts in hexadecimal elsewhere
		if n, err := strconv.ParseUint(devices.Attribute(filepath.Join(dir, "dev_id")), 0, 16); err == nil {
			number = strconv.FormatUint(n, 10)
		}
	}
	if positive(number) {
		out = append(out, "d"+number)
	} else {
		out = append(out, "")
	}
	if name := devices.Attribute(filepath.Join(dir, "phys_port_name")); name != "" {
		out = append(out, "n"+name)
	}
	return out
}

func positive(s string) bool {
	n, err := strconv.ParseUint(s, 10, 32)
	return err == nil && n > 0
}

var (
	pciName = regexp.MustCompile(`^([0-9a-f]{4,8}):([0-9a-f]{2}):([0-9a-f]{2})\.([0-9a-f])$`)
	usbName = regexp.MustCompile(`^[0-9]+-([0-9.]+):([0-9]+)\.([0-9]+)$`)
)

// pciDevice finds the PCI function of a device: itself, or what a virtio or USB device is connected
// to. For USB, bus is the rest of the name.
func pciDevice(device string) (pci, bus string, ok bool) {
	name := filepath.Base(device)
	if m := usbName.FindStringSubmatch(name); m != nil {
		bus = "u" + strings.ReplaceAll(m[1], ".", "u")
		if m[2] != "1" {
			bus += "c" + m[2]
		}
		if m[3] != "0" {
			bus += "i" + m[3]
		}
		for device != "/" && !pciName.MatchString(filepath.Base(device)) {
			device = filepath.Dir(device)
		}
	} else if strings.HasPrefix(name, "virtio") {
		device = filepath.Dir(device)
	}
	return device, bus, pciName.MatchString(filepath.Base(device))
}

// pciPart is one number of the address of a PCI function: 1 domain, 2 bus, 3 slot, 4 function.
func pciPart(pci string, part int) uint64 {
	n, _ := strconv.ParseUint(pciName.FindStringSubmatch(filepath.Base(pci))[part], 16, 32)
	return n
}

func domain(pci string) string {
	if n := pciPart(pci, 1); n > 0 {
		return fmt.Sprintf("P%d", n)
	}
	return ""
}

func place(pci string) string { return fmt.Sprintf("p%ds%d", pciPart(pci, 2), pciPart(pci, 3)) }

// function is left out for the only function of a device. Bit 7 of the header type says whether
// there are more (PCI Local Bus Specification 3.0, 6.2.1).
func function(pci string) string {
	n := pciPart(pci, 4)
	config, _ := os.ReadFile(filepath.Join(pci, "config"))
	if n > 0 || len(config) > 14 && config[14]&0x80 != 0 {
		return fmt.Sprintf("f%d", n)
	}
	return ""
}

// pciSlot is the number of the slot of a PCI function, or of the nearest bridge above it that has
// one: from the hotplug driver, or from the firmware (ACPI, _SUN).
func pciSlot(sys, pci string) string {
	slots, _ := filepath.Glob(filepath.Join(sys, "bus/pci/slots/*/address"))
	for ; pciName.MatchString(filepath.Base(pci)); pci = filepath.Dir(pci) {
		address, _, _ := strings.Cut(filepath.Base(pci), ".")
		for _, file := range slots {
			if n := filepath.Base(filepath.Dir(file)); positive(n) && devices.Attribute(file) == address {
				return n
			}
		}
		if n := devices.Attribute(filepath.Join(pci, "firmware_node/sun")); positive(n) {
			return n
		}
	}
	return ""
}

// aliasNumber is the number of an interface in the aliases of a device tree, /aliases/ethernet0.
func aliasNumber(sys, device string) string {
	base := filepath.Join(sys, "firmware/devicetree/base")
	node, err := filepath.EvalSymlinks(filepath.Join(device, "of_node"))
	if err != nil {
		return ""
	}
	files, _ := filepath.Glob(filepath.Join(base, "aliases/ethernet[0-9]*"))
	for _, file := range files {
		if base+strings.TrimRight(devices.Attribute(file), "\x00") == node {
			return strings.TrimPrefix(filepath.Base(file), "ethernet")
		}
	}
	return ""
}
