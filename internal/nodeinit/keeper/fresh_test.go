package keeper

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDropNames: the overlay is what it was; a boot test has it forget a tree over NFS.
func TestDropNames(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting an overlay needs root")
	}
	top := t.TempDir()
	mount := func(source, place, fstype, options string) {
		t.Helper()
		if err := os.MkdirAll(place, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(source, place, fstype, unix.MS_NOSUID, options); err != nil {
			t.Skipf("cannot mount %s: %v", fstype, err)
		}
		t.Cleanup(func() { unix.Unmount(place, unix.MNT_DETACH) })
	}
	mount("tmpfs", top, "tmpfs", "")
	for _, dir := range []string{"lower", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(top, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(top, "lower/f"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	merged := filepath.Join(top, "merged")
	mount("overlay", merged, "overlay", "lowerdir="+top+"/lower,upperdir="+top+"/upper,workdir="+top+"/work")
	root, err := os.Open(merged)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var before, after unix.Statfs_t
	if err := unix.Statfs(merged, &before); err != nil {
		t.Fatal(err)
	}
	if err := dropNames(int(root.Fd())); err != nil {
		t.Fatal(err)
	}
	if err := unix.Statfs(merged, &after); err != nil || after.Flags != before.Flags {
		t.Errorf("%v; mounted with %#x, now %#x", err, before.Flags, after.Flags)
	}
	if b, err := os.ReadFile(filepath.Join(merged, "f")); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
	if err := os.WriteFile(filepath.Join(merged, "g"), nil, 0o644); err != nil {
		t.Error(err)
	}
	if err := dropNames(-1); err == nil {
		t.Error("no error without a directory")
	}
}
