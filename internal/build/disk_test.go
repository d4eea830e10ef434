package build

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	diff "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"netroot/internal/store"
)

// TestFullDisk makes every part of a build that writes files fill the disk. The error must be the
// writer's, and the old tree and image must stay.
func TestFullDisk(t *testing.T) {
	s := newSite(t)
	state := filepath.Join(s.dir, "state")
	must(t, unix.Mount("tmpfs", state, "tmpfs", 0, "size=32m"))
	defer unix.Unmount(state, unix.MNT_DETACH)
	var err error
	s.store, err = store.Create(filepath.Join(state, "images"))
	must(t, err)
	s.build(t, tiny+"%post\necho old > /etc/old\n", nil)
	before, image := listing(t, s.tree), imageOf(t, s)
	lay(t, s.dir, map[string]string{"big/": ""})
	must(t, os.WriteFile(filepath.Join(s.dir, "big/file"), make([]byte, 40<<20), 0o644))
	for _, tc := range []struct{ name, text, phase, want string }{
		{"agent", "Bootstrap: localimage\nFrom: big\n", "bootstrap", "No space left on device"},
		{"setup", tiny + "%setup\ncp big/file $SINGULARITY_ROOTFS/\n", "%setup", "No space left on device"},
		{"files", tiny + "%files\nbig/file /\n", "%files", "no space left on device"},
		{"post", tiny + "%post\nbusybox dd if=/dev/zero of=/file bs=1M count=40\n", "%post", "No space left on device"},
		{"log", tiny + "%post\nbusybox dd if=/dev/zero bs=1M count=40 | busybox tr '\\0' x\nexit 3\n", "%post", "%post: exit status 3: no space left on device"},
		{"pack", tiny + "%post\nbusybox dd if=/dev/urandom of=/file bs=1M count=16\n", "pack", "no space left in"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Run(t.Context(), s.options(t, tc.text, nil))
			var failed *Error
			if !errors.As(err, &failed) || failed.Phase != tc.phase {
				t.Fatalf("%v; want %s to fail", err, tc.phase)
			}
			if said := err.Error() + strings.Join(failed.Tail, "\n"); !strings.Contains(said, tc.want) {
				t.Errorf("%s\nlacks %q", said, tc.want)
			}
			if text := err.Error(); strings.Contains(text, "\n") || strings.Count(text, tc.phase) > 1 || tc.phase != "pack" && !strings.Contains(text, state+" has ") && !strings.Contains(text, state+"/") {
				t.Errorf("not one line that names the disk: %s", text)
			}
			if d := diff.Diff(before, listing(t, s.tree)); d != "" {
				t.Errorf("the old tree changed:\n%s", d)
			}
			if imageOf(t, s) != image {
				t.Error("the label names another image")
			}
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(s.tree), workPrefix+"*")); len(left) > 0 {
				t.Errorf("workspaces are left: %v", left)
			}
		})
	}
	im, err := s.store.Resolve("tiny")
	must(t, err, s.store.Verify(t.Context(), im))
}
