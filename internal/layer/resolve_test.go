package layer

import (
	"os"
	"path/filepath"
	"testing"
)

func TestResolveFollowsBeforeItClimbs(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"usr/lib/modules", "run"} {
		os.MkdirAll(filepath.Join(dir, d), 0o755)
	}
	for name, target := range map[string]string{
		"lib": "usr/lib", "up": "lib/../run", "far": "../../../run", "abs": "/lib/modules", "loop": "loop",
	} {
		os.Symlink(target, filepath.Join(dir, name))
	}
	os.WriteFile(filepath.Join(dir, "usr/run"), nil, 0o644)
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for name, want := range map[string]string{
		"lib": "usr/lib", "lib/..": "usr", "up": "usr/run", "far": "run", "abs": "usr/lib/modules",
		"/lib/modules/": "usr/lib/modules", "/": ".", "..": ".", "lib/../run": "usr/run",
	} {
		if got, err := Resolve(root, name); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", name, got, err, want)
		}
	}
	for _, name := range []string{"loop", "none", "none/x", "usr/run/x"} {
		if got, err := Resolve(root, name); err == nil {
			t.Errorf("%s: %s", name, got)
		}
	}
}
