package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"netroot/internal/boot"
)

// needQemu skips the test without qemu or, if firmware is not empty, without that firmware.
func needQemu(t *testing.T, firmware boot.Firmware) {
	t.Helper()
	if _, err := findTools(t.Context(), firmware); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// needBoot skips tests that take minutes on an emulated machine, unless they are requested.
func needBoot(t *testing.T, firmware boot.Firmware) {
	t.Helper()
	if os.Getenv("NETROOT_BOOT") != "1" {
		t.Skip("boots a machine: set NETROOT_BOOT=1")
	}
	needQemu(t, firmware)
}

// halted is a machine whose processor never runs: it starts at once and uses no processor time.
func halted() Config { return Config{Accel: AccelTCG, Mem: 64, Args: []string{"-S"}} }

func TestQMP(t *testing.T) {
	needQemu(t, boot.BIOS)
	m, err := Start(t.Context(), halted())
	if err != nil {
		t.Fatal(err)
	}
	q := m.QMP()
	if s, err := q.Status(t.Context()); err != nil || s != "prelaunch" {
		t.Errorf("status %q, %v", s, err)
	}
	if err := q.Do(t.Context(), "no-such-command", nil, nil); err == nil || !strings.Contains(err.Error(), "no-such-command") {
		t.Errorf("unknown command: %v", err)
	}
	var version struct {
		QEMU struct{ Major int }
	}
	if err := q.Do(t.Context(), "query-version", nil, &version); err != nil || version.QEMU.Major == 0 {
		t.Errorf("version %+v, %v", version, err)
	}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if s, err := q.Status(t.Context()); err != nil || s != "prelaunch" {
				t.Errorf("one of many: %q, %v", s, err)
			}
		})
	}
	all.Wait()
	if err := q.PowerDown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := q.Quit(t.Context()); err != nil {
		t.Error(err)
	}
	if err := m.Wait(); err != nil {
		t.Errorf("after quit: %v", err)
	}
	var names []string
	for e := range q.Events() {
		names = append(names, e.Name)
		if e.Time.Year() < 2020 {
			t.Errorf("%s at %v", e.Name, e.Time)
		}
	}
	if !slices.Contains(names, "SHUTDOWN") {
		t.Errorf("events: %q", names)
	}
	if _, err := q.Status(t.Context()); !errors.Is(err, ErrQMPClosed) {
		t.Errorf("after the end: %v", err)
	}
}

// When ctx ends, the machine ends, and no process, file or port of it is left.
func TestCancelLeavesNothing(t *testing.T) {
	needQemu(t, boot.BIOS)
	ctx, cancel := context.WithCancelCause(t.Context())
	m, err := Start(ctx, halted())
	if err != nil {
		t.Fatal(err)
	}
	if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", m.SSHPort)); err == nil {
		l.Close()
		t.Error("no process listens on the port for ssh")
	}
	why := errors.New("enough")
	cancel(why)
	if err := m.Wait(); !errors.Is(err, why) {
		t.Errorf("Wait: %v", err)
	}
	if err := syscall.Kill(m.cmd.Process.Pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("qemu: %v", err)
	}
	if _, err := os.Stat(m.dir); !os.IsNotExist(err) {
		t.Errorf("%s: %v", m.dir, err)
	}
	if port, err := freePort(m.SSHPort); err != nil || port != m.SSHPort {
		t.Errorf("port: %v", err)
	}
	if m.Kill(); m.Tail() != "" {
		t.Errorf("a machine that never ran has said %q", m.Tail())
	}
}

func TestStartErrors(t *testing.T) {
	needQemu(t, boot.BIOS)
	// A short path of its own, for it holds sockets, and machines of other programs leave theirs in
	// /tmp.
	temp, err := os.MkdirTemp("", "vm")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(temp)
	t.Setenv("TMPDIR", temp)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	used := l.Addr().(*net.TCPAddr).Port
	for want, change := range map[string]func(*Config){
		fmt.Sprintf("127.0.0.1:%d is in use: choose another port with --ssh-port", used): func(c *Config) { c.SSHPort = used },
		"127: use a shorter name":    func(c *Config) { c.Bootfile = "http://10.0.2.2/" + strings.Repeat("x", 120) },
		"use bios or uefi":           func(c *Config) { c.Firmware = "coreboot" },
		"use auto, kvm or tcg":       func(c *Config) { c.Accel = "xen" },
		"more than 0":                func(c *Config) { c.Mem = -1 },
		"no-such-device":             func(c *Config) { c.Args = []string{"-device", "no-such-device"} },
		"-no-such-option":            func(c *Config) { c.Args = []string{"-no-such-option"} },
		"cannot set up guest memory": func(c *Config) { c.Mem = 1 << 29 },
	} {
		cfg := halted()
		change(&cfg)
		if m, err := Start(t.Context(), cfg); err == nil {
			m.Kill()
			t.Errorf("no error with %q", want)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("not %q: %v", want, err)
		}
	}
	left, err := os.ReadDir(temp)
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestMissingPackages(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if _, err := findQemu(); err == nil || !strings.Contains(err.Error(), "qemu-system-x86 (Debian") {
		if _, statErr := os.Stat("/usr/libexec/qemu-kvm"); statErr != nil {
			t.Errorf("qemu: %v", err)
		}
	}
	root := t.TempDir()
	if _, _, err := findOVMF(root); err == nil || !strings.Contains(err.Error(), "edk2-ovmf (Fedora") {
		t.Errorf("OVMF: %v", err)
	}
	// One half of a pair is not enough.
	dir := filepath.Join(root, "usr/share/OVMF")
	os.MkdirAll(dir, 0o755)
	for _, f := range []string{"OVMF_CODE_4M.fd", "OVMF_CODE.fd", "OVMF_VARS.fd"} {
		os.WriteFile(filepath.Join(dir, f), nil, 0o644)
	}
	code, vars, err := findOVMF(root)
	if err != nil || filepath.Base(code) != "OVMF_CODE.fd" || filepath.Base(vars) != "OVMF_VARS.fd" {
		t.Errorf("OVMF: %s, %s, %v", code, vars, err)
	}
	// This qemu searches only directories without a ROM.
	fake := filepath.Join(root, "qemu")
	os.WriteFile(fake, []byte("#!/bin/sh\necho "+root+"\n"), 0o755)
	if _, ok := findROM(t.Context(), fake); ok {
		t.Error("a ROM in an empty directory")
	}
	os.WriteFile(filepath.Join(root, "efi-virtio.rom"), nil, 0o644)
	if _, ok := findROM(t.Context(), fake); !ok {
		t.Error("the ROM is not seen")
	}
}

func TestArguments(t *testing.T) {
	m := &Machine{dir: t.TempDir()}
	vars := filepath.Join(m.dir, "template")
	os.WriteFile(vars, []byte("variables"), 0o644)
	cfg := Config{Bootfile: "http://10.0.2.2:80/a,b.ipxe", Firmware: boot.UEFI, Accel: AccelKVM, SSHPort: 2222, Forward: map[int]int{2049: 4002, 111: 4001}, Args: []string{"-snapshot"}}.withDefaults()
	args, err := m.arguments(cfg, tools{qemu: "qemu", code: "/code,1.fd", vars: vars})
	if err != nil {
		t.Fatal(err)
	}
	line := " " + strings.Join(args, " ") + " "
	for _, want := range []string{
		" -netdev user,id=n0,hostfwd=tcp:127.0.0.1:2222-:22,hostfwd=tcp:127.0.0.1:4001-:111,hostfwd=tcp:127.0.0.1:4002-:2049,bootfile=http://10.0.2.2:80/a,,b.ipxe ", " -m 1024 ",
		",readonly=on,file=/code,,1.fd ", ",file=" + m.dir + "/vars.fd ", " -accel kvm ", " -no-reboot ", " -snapshot ",
	} {
		if !strings.Contains(line, want) {
			t.Errorf("no %q in%s", want, line)
		}
	}
	if b, _ := os.ReadFile(filepath.Join(m.dir, "vars.fd")); string(b) != "variables" {
		t.Errorf("variables: %q", b)
	}
	cfg.Reboot, cfg.Accel, cfg.Firmware = true, AccelTCG, boot.BIOS
	args, err = m.arguments(cfg, tools{})
	if line = strings.Join(args, " "); err != nil || strings.Contains(line, "-no-reboot") || strings.Contains(line, "pflash") || !strings.Contains(line, "-smp 1") {
		t.Errorf("%s, %v", line, err)
	}
}

func TestKVMCache(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	fake := filepath.Join(t.TempDir(), "qemu")
	os.WriteFile(fake, []byte("#!/bin/sh\necho QEMU emulator version 1\necho Copyright\n"), 0o755)
	c := probeCache(t.Context(), fake)
	if !strings.HasSuffix(c.key, " QEMU emulator version 1") {
		t.Errorf("key %q", c.key)
	}
	if _, known := c.load(); known {
		t.Error("known before it was saved")
	}
	for _, works := range []bool{false, true} {
		c.save(works)
		if got, known := c.load(); got != works || !known {
			t.Errorf("saved %v: %v, %v", works, got, known)
		}
	}
	if _, known := (kvmCache{c.path, c.key + "0"}).load(); known {
		t.Error("known after an update of qemu")
	}
	os.WriteFile(c.path, []byte("{"), 0o644)
	if _, known := c.load(); known {
		t.Error("known from a torn file")
	}
	(kvmCache{}).save(true) // without a home directory, nothing is written
	if _, known := (kvmCache{}).load(); known {
		t.Error("known without a cache")
	}
}

func TestChooseAccelWithoutKVM(t *testing.T) {
	if err := openKVM(filepath.Join(t.TempDir(), "kvm")); err == nil || !strings.Contains(err.Error(), "has no") {
		t.Errorf("%v", err)
	}
	var said []string
	cfg := Config{Message: func(s string) { said = append(said, s) }}
	if a := chooseAccel(t.Context(), "qemu", cfg); a != AccelTCG || len(said) != 1 || !strings.Contains(said[0], "emulating") {
		t.Errorf("%s, %q", a, said)
	}
}

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{
		"\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS\r\n\n\n\x1b[0;1miPXE\x1b[0m ok\r\n": "SeaBIOS\niPXE ok",
		"10%\r50%\r100%\r\nend": "100%\nend",
		"a\x00b\x08c\td":        "abc\td",
		"":                      "",
	} {
		if got := plain(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
	var b tailBuffer
	for i := range 2000 {
		fmt.Fprintf(&b, "%d\n", i)
	}
	if s := b.String(); len(s) > tailSize || !strings.HasSuffix(s, "1998\n1999") {
		t.Errorf("%d bytes, ends %q", len(s), s[len(s)-10:])
	}
	file := filepath.Join(t.TempDir(), "log")
	os.WriteFile(file, []byte("0123456789\n"), 0o644)
	if s := readTail(file, 4); s != "789" {
		t.Errorf("%q", s)
	}
}

// Whatever qemu sends, a client must neither hang nor panic.
func FuzzQMP(f *testing.F) {
	f.Add([]byte(`{"QMP": {}}{"return": {}, "id": 1}`))
	f.Add([]byte(`{"id": 1, "error": {"class": "x", "desc": "y"}}{"event": "RESET", "timestamp": {"seconds": 1}}`))
	f.Add([]byte("\x00{"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		ours, theirs := net.Pipe()
		q := newQMP(ours)
		var all sync.WaitGroup
		all.Go(func() {
			theirs.Write(sent)
			theirs.Close()
		})
		all.Go(func() {
			dec := json.NewDecoder(theirs)
			for dec.Decode(&struct{}{}) == nil {
			}
		})
		q.handshake(t.Context())
		q.Close()
		all.Wait()
		<-q.dead
	})
}
