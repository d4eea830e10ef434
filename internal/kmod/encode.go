package kmod

import (
	"fmt"
	"slices"
	"strings"
)

// Encode returns the part of the index that is about the named modules, in the formats that Read
// accepts. Each text has its file extension as key: ".dep", ".alias" and ".softdep". The modules
// keep the order of names. rename returns the new path of a file, for example of one that was
// decompressed. Names that are not loadable modules are skipped.
func (x *Index) Encode(names []string, rename func(path string) string) map[string]string {
	var dep, softdep, alias strings.Builder
	wanted := map[string]bool{}
	for _, name := range names {
		e := x.modules[normal(name)]
		if e == nil || wanted[e.Name] {
			continue
		}
		wanted[e.Name] = true
		dep.WriteString(rename(e.Path) + ":")
		for _, d := range e.deps {
			dep.WriteString(" " + rename(d))
		}
		dep.WriteByte('\n')
		if len(e.pre) > 0 {
			fmt.Fprintf(&softdep, "softdep %s pre: %s\n", e.Name, strings.Join(e.pre, " "))
		}
	}
	for _, a := range x.aliases.aliases {
		if wanted[a.module] {
			alias.WriteString("alias " + a.pattern + " " + a.module + "\n")
		}
	}
	return map[string]string{".dep": dep.String(), ".alias": alias.String(), ".softdep": softdep.String()}
}

// EncodeBuiltin returns the names of the built-in modules, sorted, in the format of
// modules.builtin.
func (x *Index) EncodeBuiltin() string {
	paths := make([]string, 0, len(x.builtin))
	for _, p := range x.builtin {
		paths = append(paths, p+"\n")
	}
	slices.Sort(paths)
	return strings.Join(paths, "")
}

// Aliases returns the patterns of the devices for a module, in the order of the index.
func (x *Index) Aliases(name string) []string {
	var patterns []string
	for _, a := range x.aliases.aliases {
		if a.module == normal(name) {
			patterns = append(patterns, a.pattern)
		}
	}
	return patterns
}
