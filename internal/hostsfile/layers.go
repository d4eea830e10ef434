package hostsfile

import (
	"slices"
	"strings"

	"netroot/internal/handoff"
)

// layers takes rootovlcfg= from the arguments of a kernel: netroot.yaml has a key for it, and
// "netroot layer" reads that key. The first layer wins in both. The argument may be repeated.
func (f *File) layers(args []string, line int) (kept, layers []string) {
	quoted := false
	for _, arg := range args {
		within := quoted // a blank in quotes does not end an argument
		quoted = quoted != (strings.Count(arg, `"`)%2 != 0)
		names, ok := strings.CutPrefix(arg, "rootovlcfg=")
		if !ok || within || strings.Contains(arg, `"`) {
			kept = append(kept, arg)
			continue
		}
		for name := range strings.SplitSeq(names, ",") {
			switch err := handoff.CheckLayerName(name); {
			case name == "" || slices.Contains(layers, name):
			case err != nil:
				f.note(line, "a layer of rootovlcfg= is left out: %v", err)
			default:
				layers = append(layers, name)
			}
		}
	}
	return kept, layers
}
