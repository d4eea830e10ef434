package kmod

import (
	"io/fs"
	"path"
	"slices"
	"strings"
)

// configDirs are those of modprobe.d(5); a file hides those of the same name in later ones.
var configDirs = []string{"etc/modprobe.d", "run/modprobe.d", "usr/local/lib/modprobe.d", "usr/lib/modprobe.d", "lib/modprobe.d"}

// KeptOut returns the modules that a tree's modprobe.d(5) keeps from being loaded for a device:
// those of blacklist lines, and those whose installation is a program that does nothing, by name.
// What cannot be read is passed over, as modprobe does. The rest of the configuration is ignored.
func KeptOut(tree fs.FS) []string {
	seen := map[string]bool{}
	var out []string
	for _, dir := range configDirs {
		files, _ := fs.ReadDir(tree, dir)
		for _, f := range files {
			if path.Ext(f.Name()) != ".conf" || seen[f.Name()] {
				continue
			}
			seen[f.Name()] = true
			text, _ := fs.ReadFile(tree, path.Join(dir, f.Name()))
			out = append(out, keptOut(string(text))...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func keptOut(text string) (names []string) {
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		f := strings.Fields(line)
		switch {
		case len(f) == 2 && f[0] == "blacklist":
		case len(f) > 2 && f[0] == "install" && slices.Contains([]string{"true", "false", "nologin", ":"}, path.Base(f[2])):
		default:
			continue
		}
		names = append(names, normal(f[1]))
	}
	return names
}
