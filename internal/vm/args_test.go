package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"netroot/internal/boot"
)

// TestBoard checks the board for various arguments of a user.
func TestBoard(t *testing.T) {
	const plain = "-display none -machine q35,graphics=off,sata=off"
	for args, want := range map[string]string{
		"":                                     plain,
		"-display none":                        plain,
		"-snapshot -m 4G":                      plain,
		"-drive if=virtio,file=a":              plain,
		"-drive if=none,id=d,file=a":           plain,
		"-device virtio-balloon-pci":           plain,
		"-display vnc=:1":                      "-vga std -machine q35,sata=off",
		"--vnc :1":                             "-vga std -machine q35,sata=off",
		"-display gtk -vga virtio":             "-machine q35,sata=off",
		"-display gtk -device VGA":             "-machine q35,sata=off",
		"-display gtk -device virtio-gpu-pci":  "-machine q35,sata=off",
		"-drive file=a,index=0,media=disk":     "-display none -machine q35,graphics=off",
		"-cdrom a.iso":                         "-display none -machine q35,graphics=off",
		"-device ide-hd,drive=d":               "-display none -machine q35,graphics=off",
		"-display vnc=:1 -drive if=ide,file=a": "-vga std -machine q35",
	} {
		if got := strings.Join(board(strings.Fields(args)), " "); got != want {
			t.Errorf("%q: %s, want %s", args, got, want)
		}
	}
}

func TestClashes(t *testing.T) {
	for args, want := range map[string]string{
		"-nographic":                          "-nographic: the console of the machine is already this terminal",
		"-snapshot --enable-kvm":              "--enable-kvm: KVM is used if it works",
		"-accel tcg":                          "-accel: KVM is used if it works",
		"-serial mon:stdio":                   "-serial mon:stdio: the console of the machine uses the terminal",
		"-monitor stdio":                      "-monitor stdio: the console of the machine uses the terminal",
		"-daemonize":                          "-daemonize: the machine must end",
		"-serial file:x -monitor none -smp 4": "",
	} {
		err := Config{Args: strings.Fields(args)}.withDefaults().check()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", args, err, want)
		}
	}
}

// TestUserArguments starts a machine with arguments that users give, among them the disks of the
// example in the scripts, with a working directory. It then finds the output of the console in a
// file.
func TestUserArguments(t *testing.T) {
	needQemu(t, boot.BIOS)
	dir := t.TempDir()
	for _, disk := range []string{"d0.img", "d1.img"} {
		if err := os.WriteFile(filepath.Join(dir, disk), make([]byte, 1<<20), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cfg := halted()
	cfg.Dir, cfg.SerialLog, cfg.TFTP, cfg.Bootfile = dir, filepath.Join(dir, "serial.log"), dir, "pxelinux.0"
	cfg.Args = append(cfg.Args, "-display", "vnc=unix:"+dir+"/vnc", "-drive", "file=d0.img,format=raw,index=0,media=disk", "-drive", "file=d1.img,format=raw,index=1,media=disk", "-m", "96")
	m, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Kill()
	var memory struct {
		BaseMemory int64 `json:"base-memory"`
	}
	if err := m.QMP().Do(t.Context(), "query-memory-size-summary", nil, &memory); err != nil || memory.BaseMemory != 96<<20 {
		t.Errorf("%+v, %v: the last -m wins", memory, err)
	}
	var disks []struct {
		Inserted struct{ File string }
	}
	if err := m.QMP().Do(t.Context(), "query-block", nil, &disks); err != nil || len(disks) < 2 || disks[0].Inserted.File != "d0.img" {
		t.Errorf("%+v, %v", disks, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "vnc")); err != nil {
		t.Error(err)
	}
	m.Kill()
	if _, err := os.Stat(cfg.SerialLog); err != nil {
		t.Error(err)
	}
}
