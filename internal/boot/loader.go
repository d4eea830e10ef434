package boot

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"netroot/internal/nearest"
)

// Loader is what the firmware of one kind of machine loads over the network.
type Loader struct {
	Code     uint16 // the kind, as DHCP's option 93 tells it (RFC 4578, 2.1, and IANA's registry)
	Arch     string // GOARCH name; empty: the code says nothing, for a BIOS starts 32-bit code on any processor
	Firmware Firmware
	HTTP     bool   // the firmware fetches a URL (UEFI HTTP boot) in place of a TFTP server's file
	File     string // iPXE for it, as the root of a TFTP or HTTP server has it
}

// Pxelinux and LPxelinux are the loaders of Syslinux for BIOS machines; the second fetches over
// HTTP.
const (
	Pxelinux  = "pxelinux.0"
	LPxelinux = "lpxelinux.0"
)

// Loaders is the table of what machines ask for and get. Firmware of x86-64 says 7 or 9: RFC 4578
// gave 7 to EFI byte code and 9 to x86-64, and most firmware says 7 for x86-64 all the same.
func Loaders() []Loader {
	return []Loader{
		{0, "", BIOS, false, "undionly.kpxe"},
		{6, "386", UEFI, false, "ipxe-i386.efi"},
		{7, "amd64", UEFI, false, "ipxe.efi"},
		{9, "amd64", UEFI, false, "ipxe.efi"},
		{11, "arm64", UEFI, false, "ipxe-arm64.efi"},
		{16, "amd64", UEFI, true, "ipxe.efi"},
		{19, "arm64", UEFI, true, "ipxe-arm64.efi"},
	}
}

// Starts reports whether the loader can start a kernel of that architecture. A BIOS machine may be
// a 64-bit one; 32-bit UEFI starts no 64-bit kernel.
func (l Loader) Starts(arch string) bool {
	if l.Firmware == BIOS {
		return arch == "amd64" || arch == "386"
	}
	return l.Arch == arch
}

// platforms are the firmwares by the names that iPXE has for them (its setting "platform").
var platforms = map[string]Firmware{"pcbios": BIOS, "efi": UEFI}

// archs are the architectures by the names that iPXE has for its builds (its setting "buildarch").
var archs = map[string]string{"i386": "386", "x86_64": "amd64", "arm32": "arm", "arm64": "arm64", "riscv32": "riscv", "riscv64": "riscv64", "loong64": "loong64"}

// kernelArchs are the other names that the kernel has for them ("uname -m").
var kernelArchs = map[string]string{"aarch64": "arm64", "i686": "386", "armv7l": "arm", "loongarch64": "loong64"}

// Archs returns the architectures of machines that iPXE has a build for, by their names in Go.
func Archs() []string { return slices.Sorted(maps.Values(archs)) }

// ParseArch returns the name that Go has for an architecture. The text may be that, or the name that
// iPXE or the kernel has; empty is not known.
func ParseArch(text string) (string, error) {
	known := Archs()
	name := cmp.Or(archs[text], kernelArchs[text], text)
	if name != "" && !slices.Contains(known, name) {
		return "", fmt.Errorf("unknown architecture %q%s", text, nearest.Choice(text, known))
	}
	return name, nil
}

// archOf is the architecture of a machine on which a build of iPXE runs. The builds for BIOS are
// 32-bit programs on 64-bit processors too, so i386 there says nothing.
func archOf(buildarch string, firmware Firmware) string {
	if buildarch == "i386" && firmware != UEFI {
		return ""
	}
	return archs[buildarch]
}
