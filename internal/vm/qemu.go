package vm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"netroot/internal/boot"
)

// tools are the files of other packages that a machine requires.
type tools struct {
	qemu string
	code string // UEFI firmware
	vars string // its variables, copied for each machine
	// loader is iPXE for the firmware's own network boot; empty: the network card's ROM has it.
	loader string
}

// findTools finds qemu and what it requires. The error names the package to install.
func findTools(ctx context.Context, firmware boot.Firmware) (tools, error) {
	var t tools
	var err error
	if t.qemu, err = findQemu(); err != nil {
		return tools{}, err
	}
	rom, ok := findROM(ctx, t.qemu)
	if !ok {
		return tools{}, errors.New("qemu has no network boot ROM (efi-virtio.rom): install ipxe-qemu (Debian, Ubuntu) or ipxe-roms-qemu (Fedora, EL)")
	}
	if firmware == boot.UEFI {
		if t.code, t.vars, err = findOVMF("/"); err == nil && rom != "" && !hasUEFI(rom) {
			t.loader, err = findLoader("/")
		}
	}
	return t, err
}

func findQemu() (string, error) {
	// EL has qemu outside the PATH, under another name.
	for _, name := range []string{"qemu-system-x86_64", "qemu-kvm", "/usr/libexec/qemu-kvm"} {
		if p, err := exec.LookPath(name); err == nil {
			return p, nil
		}
	}
	return "", errors.New("qemu-system-x86_64 is not installed: install qemu-system-x86 (Debian, Ubuntu) or qemu-kvm (Fedora, EL)")
}

// findROM looks for the ROM of the network card in the directories that this qemu searches. If qemu
// does not list them, there may be one at a path that is not known, and qemu itself reports a
// missing file.
func findROM(ctx context.Context, qemu string) (path string, ok bool) {
	out, err := exec.CommandContext(ctx, qemu, "-L", "help").Output()
	if err != nil {
		return "", true
	}
	for _, dir := range strings.Fields(string(out)) {
		rom := filepath.Join(dir, "efi-virtio.rom")
		if _, err := os.Stat(rom); err == nil {
			return rom, true
		}
	}
	return "", false
}

// hasUEFI reports whether a ROM has an image for UEFI. Those of Debian 13 and later have iPXE for
// BIOS alone. A ROM is a sequence of images; the PCI Firmware Specification has their headers
// ("PCI Expansion ROM Header Format", "PCI Data Structure").
func hasUEFI(rom string) bool {
	b, err := os.ReadFile(rom)
	if err != nil {
		return true // qemu tells
	}
	const (
		typeUEFI = 3
		last     = 0x80
		block    = 512
	)
	for len(b) > 0x1a && b[0] == 0x55 && b[1] == 0xaa {
		data := int(binary.LittleEndian.Uint16(b[0x18:]))
		if data+0x16 > len(b) || string(b[data:data+4]) != "PCIR" {
			return false
		}
		if b[data+0x14] == typeUEFI {
			return true
		}
		n := int(binary.LittleEndian.Uint16(b[data+0x10:])) * block
		if b[data+0x15]&last != 0 || n == 0 || n > len(b) {
			return false
		}
		b = b[n:]
	}
	return false
}

// loaderFiles are iPXE over the firmware's driver of the network card, as named by Debian and
// Ubuntu, Fedora and EL, and Arch.
var loaderFiles = []string{"usr/lib/ipxe/snponly.efi", "usr/share/ipxe/ipxe-snponly-x86_64.efi", "usr/share/ipxe/x86_64/snponly.efi"}

func findLoader(root string) (string, error) {
	for _, name := range loaderFiles {
		if path := filepath.Join(root, name); exists(path) {
			return path, nil
		}
	}
	return "", errors.New("the network boot ROM of qemu has no iPXE for UEFI, and there is no snponly.efi that the firmware could load: install ipxe (Debian, Ubuntu) or ipxe-bootimgs-x86 (Fedora, EL), or use bios")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// serveLoader makes the machine's firmware load iPXE over TFTP, which then runs the script. iPXE
// asks TFTP for autoexec.ipxe before it does anything else; so it needs no second DHCP answer.
func (m *Machine) serveLoader(cfg *Config, loader string) error {
	const name = "snponly.efi"
	cfg.TFTP = filepath.Join(m.dir, "tftp")
	if err := os.Mkdir(cfg.TFTP, 0o700); err != nil {
		return err
	}
	script := "#!ipxe\ndhcp\nchain " + cfg.Bootfile + "\n"
	cfg.Bootfile = name
	return errors.Join(copyFile(filepath.Join(cfg.TFTP, name), loader),
		os.WriteFile(filepath.Join(cfg.TFTP, "autoexec.ipxe"), []byte(script), 0o600))
}

// ovmfFiles are firmware and variables as named by Debian and Ubuntu, Fedora and EL, Arch, and
// SUSE.
var ovmfFiles = [][2]string{
	{"usr/share/OVMF/OVMF_CODE_4M.fd", "usr/share/OVMF/OVMF_VARS_4M.fd"},
	{"usr/share/OVMF/OVMF_CODE.fd", "usr/share/OVMF/OVMF_VARS.fd"},
	{"usr/share/edk2/ovmf/OVMF_CODE.fd", "usr/share/edk2/ovmf/OVMF_VARS.fd"},
	{"usr/share/edk2/x64/OVMF_CODE.4m.fd", "usr/share/edk2/x64/OVMF_VARS.4m.fd"},
	{"usr/share/qemu/ovmf-x86_64-code.bin", "usr/share/qemu/ovmf-x86_64-vars.bin"},
}

func findOVMF(root string) (code, vars string, err error) {
	for _, pair := range ovmfFiles {
		code, vars = filepath.Join(root, pair[0]), filepath.Join(root, pair[1])
		_, err1 := os.Stat(code)
		_, err2 := os.Stat(vars)
		if err1 == nil && err2 == nil {
			return code, vars, nil
		}
	}
	return "", "", errors.New("no UEFI firmware for qemu (OVMF without secure boot): install ovmf (Debian, Ubuntu) or edk2-ovmf (Fedora, EL), or use bios")
}

// arguments returns qemu's arguments. It also makes the file for the firmware's variables, which
// the firmware writes to.
func (m *Machine) arguments(cfg Config, t tools) ([]string, error) {
	if t.loader != "" && cfg.TFTP == "" && cfg.Bootfile != "" {
		if err := m.serveLoader(&cfg, t.loader); err != nil {
			return nil, fmt.Errorf("have the firmware load iPXE: %w", err)
		}
	}
	args := []string{
		"-name", "netroot", "-no-user-config", "-nodefaults",
		"-m", strconv.Itoa(cfg.Mem),
		"-chardev", "stdio,id=serial0,signal=on,logfile=" + option(m.log), "-serial", "chardev:serial0",
		"-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control",
		"-netdev", netdev(cfg), "-device", "virtio-net-pci,netdev=n0,bootindex=1",
		// sshd makes its keys at boot, and would otherwise wait for entropy; UEFI firmware from 2025.02
		// sends no packet without a random number generator.
		"-device", "virtio-rng-pci",
		// Firmware that finds nothing to boot tries again after 5 s by a reset, so without
		// Reboot the machine ends.
		"-boot", "strict=on,reboot-timeout=5000",
	}
	args = append(args, board(cfg.Args)...)
	args = append(args, accelArgs(cfg.Accel)...)
	if !cfg.Reboot {
		args = append(args, "-no-reboot")
	}
	if cfg.Firmware == boot.UEFI {
		vars := filepath.Join(m.dir, "vars.fd")
		if err := copyFile(vars, t.vars); err != nil {
			return nil, fmt.Errorf("copy the firmware variables: %w", err)
		}
		args = append(args,
			"-drive", "if=pflash,format=raw,readonly=on,file="+option(t.code),
			"-drive", "if=pflash,format=raw,file="+option(vars))
	}
	return append(args, cfg.Args...), nil
}

// accelArgs returns the arguments for the processor. With TCG, a second processor led to soft
// lockups of Linux 6.1 (clear_page_erms); five levels of page tables, and a hypervisor inside, for
// which Linux would load KVM, only cost time.
func accelArgs(a Accel) []string {
	if a == AccelKVM {
		return []string{"-accel", "kvm", "-cpu", "host", "-smp", "2"}
	}
	return []string{"-accel", "tcg,thread=multi", "-cpu", "max,la57=off,svm=off", "-smp", "1"}
}

func netdev(cfg Config) string {
	s := fmt.Sprintf("user,id=n0,hostfwd=tcp:127.0.0.1:%d-:22", cfg.SSHPort)
	for _, port := range slices.Sorted(maps.Keys(cfg.Forward)) {
		s += fmt.Sprintf(",hostfwd=tcp:127.0.0.1:%d-:%d", cfg.Forward[port], port)
	}
	if cfg.TFTP != "" {
		s += ",tftp=" + option(cfg.TFTP)
	}
	if cfg.Bootfile != "" {
		s += ",bootfile=" + option(cfg.Bootfile)
	}
	return s
}

// option escapes a value for a list of qemu's options.
func option(s string) string { return strings.ReplaceAll(s, ",", ",,") }

func copyFile(dst, src string) error {
	b, err := os.ReadFile(src)
	if err != nil {
		return err
	}
	return os.WriteFile(dst, b, fs.FileMode(0o600))
}
