package build

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

func TestUncachedProfiles(t *testing.T) {
	enabled := []string{"etc/systemd/system/sysinit.target.wants/apparmor.service"}
	var profiles []string
	for i := range 12 {
		profiles = append(profiles, fmt.Sprintf("etc/apparmor.d/usr.bin.p%d", i))
	}
	profiles = append(profiles, "etc/apparmor.d/abstractions/base", "var/cache/apparmor/26b63962.0/.features")
	for name, c := range map[string]struct {
		files [][]string
		want  int
	}{
		"enabled":  {[][]string{enabled, profiles}, 12},
		"a script": {[][]string{{"etc/rcS.d/S12apparmor"}, profiles}, 12},
		"off":      {[][]string{profiles}, 0},
		"cached":   {[][]string{enabled, profiles, {"var/cache/apparmor/26b63962.0/usr.bin.p0"}}, 0},
		"nothing":  {[][]string{enabled}, 0},
	} {
		tree := t.TempDir()
		for _, files := range c.files {
			for _, f := range files {
				path := filepath.Join(tree, f)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, nil, 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
		if got := uncachedProfiles(tree); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
