package vm

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"netroot/internal/boot"
)

// romImage is an image of an option ROM.
func romImage(kind, indicator byte) []byte {
	b := make([]byte, 1024)
	b[0], b[1] = 0x55, 0xaa
	binary.LittleEndian.PutUint16(b[0x18:], 0x1c)
	copy(b[0x1c:], "PCIR")
	binary.LittleEndian.PutUint16(b[0x1c+0x10:], uint16(len(b)/512))
	b[0x1c+0x14], b[0x1c+0x15] = kind, indicator
	return b
}

func TestROMForUEFI(t *testing.T) {
	rom := filepath.Join(t.TempDir(), "rom")
	endless := romImage(0, 0)
	endless[0x1c+0x10] = 0
	far := romImage(0, 0)
	binary.LittleEndian.PutUint16(far[0x18:], 0xffff)
	for name, test := range map[string]struct {
		content []byte
		want    bool
	}{
		"both":          {slices.Concat(romImage(0, 0), romImage(3, 0x80)), true},
		"UEFI":          {romImage(3, 0x80), true},
		"BIOS":          {romImage(0, 0x80), false},
		"BIOS, no end":  {romImage(0, 0), false},
		"behind an end": {slices.Concat(romImage(0, 0x80), romImage(3, 0x80)), false},
		"length of 0":   {endless, false},
		"data outside":  {far, false},
		"short":         {romImage(0, 0)[:0x20], false},
		"empty":         {nil, false},
		"no ROM":        {make([]byte, 600), false},
	} {
		if err := os.WriteFile(rom, test.content, 0o644); err != nil {
			t.Fatal(err)
		}
		if got := hasUEFI(rom); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestLoader: where the ROM has nothing for UEFI, the firmware loads iPXE, which runs the script.
func TestLoader(t *testing.T) {
	root := t.TempDir()
	if _, err := findLoader(root); err == nil || !strings.Contains(err.Error(), "install ipxe (Debian") {
		t.Errorf("without one: %v", err)
	}
	file := filepath.Join(root, loaderFiles[0])
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	vars := filepath.Join(root, "vars")
	for _, f := range []string{file, vars} {
		if err := os.WriteFile(f, []byte("loader"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	loader, err := findLoader(root)
	if err != nil {
		t.Fatal(err)
	}
	m := &Machine{dir: t.TempDir()}
	const url = "http://10.0.2.2:80/boot/tiny.ipxe"
	args, err := m.arguments(Config{Firmware: boot.UEFI, Bootfile: url, Accel: AccelTCG}, tools{loader: loader, vars: vars})
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(args, " ")
	if !strings.Contains(all, ",tftp="+m.dir+"/tftp,bootfile=snponly.efi") || strings.Contains(all, url) || !strings.Contains(all, "virtio-rng-pci") {
		t.Errorf("arguments %s", all)
	}
	for name, want := range map[string]string{"snponly.efi": "loader", "autoexec.ipxe": "#!ipxe\ndhcp\nchain " + url + "\n"} {
		if got, err := os.ReadFile(filepath.Join(m.dir, "tftp", name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}
