package attach

import (
	"os"
	"path/filepath"
	"testing"
)

// TestNVMeDisk: the disk is the one that stands for all paths of the subsystem, never one path of
// it, a partition, or the disk of another subsystem.
func TestNVMeDisk(t *testing.T) {
	const nqn, other = "nqn.2026-11.invalid.netroot:debian12", "nqn.2014-08.org.example:local"
	for name, tt := range map[string]struct {
		subsystems map[string]string // by name in /sys/class/block
		want       string
	}{
		"one path":           {map[string]string{"nvme0c0n1": nqn, "nvme0n1": nqn}, "/dev/nvme0n1"},
		"a path comes first": {map[string]string{"nvme0c0n1": nqn}, ""},
		"two paths":          {map[string]string{"nvme1c1n1": nqn, "nvme1c2n1": nqn, "nvme1n1": nqn}, "/dev/nvme1n1"},
		"a local disk":       {map[string]string{"nvme0n1": other, "nvme0n1p1": other, "nvme1c1n1": nqn, "nvme1n1": nqn}, "/dev/nvme1n1"},
		"a partition":        {map[string]string{"nvme0n1p1": nqn}, ""},
		"no multipath":       {map[string]string{"nvme3n1": nqn}, "/dev/nvme3n1"},
		"nothing":            {map[string]string{"sda": nqn}, ""},
	} {
		dir := t.TempDir()
		for disk, subsystem := range tt.subsystems {
			device := filepath.Join(dir, disk, "device")
			if err := os.MkdirAll(device, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(device, "subsysnqn"), []byte(subsystem+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got := nvmeDisk(dir, nqn); got != tt.want {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
}
