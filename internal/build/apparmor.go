package build

import (
	"io/fs"
	"os"
	"path/filepath"
)

// manyProfiles is from how many profiles on their compilation at each boot is worth a word: a second
// or more.
const manyProfiles = 10

// uncachedProfiles counts the AppArmor profiles that every boot of the tree compiles again, because
// what it compiles is written to memory. It is 0 if the service is off or the tree has a cache,
// /var/cache/apparmor, which holds for the kernel that made it (apparmor_parser(8)).
func uncachedProfiles(tree string) int {
	enabled, _ := filepath.Glob(filepath.Join(tree, "etc/systemd/system/*.wants/apparmor.service"))
	scripts, _ := filepath.Glob(filepath.Join(tree, "etc/rcS.d/S*apparmor"))
	if len(enabled)+len(scripts) == 0 {
		return 0
	}
	cached := false
	for _, dir := range []string{"var/cache/apparmor", "etc/apparmor/earlypolicy"} {
		filepath.WalkDir(filepath.Join(tree, dir), func(_ string, d fs.DirEntry, err error) error {
			cached = cached || err == nil && d.Type().IsRegular() && d.Name()[0] != '.'
			return nil
		})
	}
	entries, err := os.ReadDir(filepath.Join(tree, "etc/apparmor.d"))
	if err != nil || cached {
		return 0
	}
	n := 0
	for _, e := range entries {
		if e.Type().IsRegular() {
			n++
		}
	}
	return n
}

// warnOfProfiles says what can be done about them.
func (b *builder) warnOfProfiles() {
	if n := uncachedProfiles(b.tree); n >= manyProfiles {
		b.warn("AppArmor compiles %d profiles at each boot, because the image has no cache of them: see docs/howto.md, or disable apparmor.service", n)
	}
}
