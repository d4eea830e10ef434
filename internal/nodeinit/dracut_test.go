package nodeinit

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMountedType(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mountinfo")
	const text = `21 1 0:20 / / rw shared:1 - rootfs none rw
40 21 43:0 / /sysroot ro,relatime shared:7 master:1 - squashfs /dev/nbd0 ro,errors=continue
41 21 0:30 / /sysroot rw,relatime - overlay overlay rw,lowerdir=/live/image
42 21 0:31 / /sysroot/live rw - tmpfs tmpfs rw
`
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	for place, want := range map[string]string{"/sysroot": "overlay", "/": "rootfs", "/sysroot/live": "tmpfs"} {
		if got, err := mountedType(file, place); got != want || err != nil {
			t.Errorf("%s: %q, %v", place, got, err)
		}
	}
	if got, err := mountedType(file, "/mnt"); err == nil {
		t.Errorf("/mnt: %q", got)
	}
}

func TestWaitForTargets(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "session1/recovery_tmo")
	if err := os.Mkdir(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("120\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := waitForTargets(dir); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(file); string(got) != "off" {
		t.Errorf("recovery_tmo %q", got)
	}
}

// A step that failed half way goes back, the last first; one that did not leaves all as it is.
func TestUndo(t *testing.T) {
	var done []string
	for _, failed := range []error{nil, os.ErrInvalid} {
		var u undo
		u.add(func() { done = append(done, "first") })
		u.add(func() { done = append(done, "second") })
		u.onError(failed)
	}
	if diff := cmp.Diff([]string{"second", "first"}, done); diff != "" {
		t.Error(diff)
	}
}

func TestDracutWantsAStep(t *testing.T) {
	for _, args := range [][]string{nil, {"attach"}, {"initiator", "netroot.layer=x"}} {
		if err := Dracut(args, nil); err == nil {
			t.Errorf("%q is carried out", args)
		}
	}
}
