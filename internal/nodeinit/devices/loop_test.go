package devices

import (
	"os"
	"path/filepath"
	"testing"
)

// TestLoop: a loop device that is detached releases its file, and with it the memory.
func TestLoop(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("a loop device needs root")
	}
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skipf("the kernel here has no loop devices: %v", err)
	}
	name := filepath.Join(t.TempDir(), "root")
	if err := os.WriteFile(name, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	device, err := AttachLoop(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	sys := filepath.Join("/sys/class/block", filepath.Base(device))
	if behind, ro := Attribute(filepath.Join(sys, "loop/backing_file")), Attribute(filepath.Join(sys, "ro")); behind != name || ro != "1" {
		t.Errorf("behind %s is %q, read-only %s", device, behind, ro)
	}
	if err := DetachLoop(device); err != nil {
		t.Fatal(err)
	}
	if behind := Attribute(filepath.Join(sys, "loop/backing_file")); behind != "" {
		t.Errorf("%s still holds %s", device, behind)
	}
	if err := DetachLoop(device); err == nil {
		t.Error("detached a device that has no file")
	}
}
