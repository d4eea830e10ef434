package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// probeLimit is the time that a kernel may take under KVM until its first message. Where KVM works
// it takes a second.
const probeLimit = 8 * time.Second

// chooseAccel returns KVM if KVM boots the kernel of the configuration, and otherwise TCG, with a
// message that gives the reason. It keeps the answer until this host boots again or gets another
// qemu.
func chooseAccel(ctx context.Context, qemu string, cfg Config) Accel {
	if err := openKVM("/dev/kvm"); err != nil {
		cfg.Message(fmt.Sprintf("emulating the processor, which is slow: %v", err))
		return AccelTCG
	}
	if cfg.Kernel == "" {
		cfg.Message("emulating the processor, which is slow: there is no kernel to test KVM with")
		return AccelTCG
	}
	cache := probeCache(ctx, qemu)
	works, known := cache.load()
	if !known {
		cfg.Message(fmt.Sprintf("testing whether KVM boots a kernel here, for at most %d s", int(probeLimit.Seconds())))
		works = probeKVM(ctx, qemu, cfg.Kernel)
		if ctx.Err() == nil {
			cache.save(works)
		}
	}
	if !works {
		cfg.Message("emulating the processor, which is slow: /dev/kvm exists, but a kernel does not boot with it")
		return AccelTCG
	}
	return AccelKVM
}

func openKVM(device string) error {
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("this host has no %s", device)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("no permission to open %s: add this user to its group (kvm)", device)
	case err != nil:
		return fmt.Errorf("%s: %w", device, errors.Unwrap(err))
	}
	return f.Close()
}

// probeKVM boots a kernel that has no root. Where KVM works, the kernel panics within a second or
// two and says so on the serial console. Where KVM exists but does not work (some nested virtual
// machines), the firmware may still run, and the kernel hangs in its first instructions in real
// mode. Only a message of the kernel itself proves that KVM works.
func probeKVM(ctx context.Context, qemu, kernel string) bool {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, "-no-user-config", "-nodefaults", "-display", "none", "-machine", "q35",
		"-accel", "kvm", "-cpu", "host", "-m", "256", "-no-reboot", "-serial", "stdio",
		"-kernel", kernel, "-append", "console=ttyS0 panic=-1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.Output()
	// The panic resets the machine, which ends it. A crash in real mode also does, but without
	// a message.
	return err == nil && bytes.Contains(out, []byte("Kernel panic"))
}

// kvmCache is the file that stores whether KVM works. If it cannot be read or written, KVM is
// tested again.
type kvmCache struct {
	path, key string
}

// probeCache returns the cache for what an answer depends on: this boot of this host, and the qemu.
func probeCache(ctx context.Context, qemu string) kvmCache {
	dir, err := os.UserCacheDir()
	boot, err2 := os.ReadFile("/proc/sys/kernel/random/boot_id")
	version, err3 := exec.CommandContext(ctx, qemu, "--version").Output()
	if err != nil || err2 != nil || err3 != nil {
		return kvmCache{}
	}
	first, _, _ := strings.Cut(string(version), "\n")
	return kvmCache{filepath.Join(dir, "netroot", "kvm.json"), strings.TrimSpace(string(boot)) + " " + first}
}

type kvmAnswer struct {
	Key   string `json:"key"`
	Works bool   `json:"works"`
}

func (c kvmCache) load() (works, known bool) {
	var a kvmAnswer
	b, err := os.ReadFile(c.path)
	if c.key == "" || err != nil || json.Unmarshal(b, &a) != nil || a.Key != c.key {
		return false, false
	}
	return a.Works, true
}

func (c kvmCache) save(works bool) {
	b, err := json.Marshal(kvmAnswer{c.key, works})
	if c.key == "" || err != nil || os.MkdirAll(filepath.Dir(c.path), 0o755) != nil {
		return
	}
	// Two processes that write at once write the same answer, and an incomplete file counts as
	// no answer.
	os.WriteFile(c.path, append(b, '\n'), 0o644)
}
