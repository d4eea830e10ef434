package build

import (
	"fmt"
	"slices"
	"strings"

	"netroot/internal/nearest"
)

// Sections are the names of the sections that a build runs. An empty list means all sections. The
// bootstrap agent is not a section.
type Sections []string

// sectionNames are the names that can be chosen; apps stands for every %app section.
var sectionNames = []string{
	"pre", "setup", "files", "post", "environment", "labels", "runscript", "startscript", "test", "help", "apps",
}

// SectionNames returns the names that ParseSections accepts for one section.
func SectionNames() []string { return slices.Clone(sectionNames) }

// ParseSections checks the names of sections. It accepts "all" and "none".
func ParseSections(names []string) (Sections, error) {
	var s Sections
	for _, name := range names {
		name = strings.TrimPrefix(strings.TrimSpace(name), "%")
		switch {
		case name == "all":
			s = append(s, sectionNames...)
		case name == "none", slices.Contains(sectionNames, name):
			s = append(s, name)
		default:
			return nil, fmt.Errorf("unknown section %q%s", name, nearest.Choice(name, append(SectionNames(), "all", "none")))
		}
	}
	return s, nil
}

func (s Sections) has(name string) bool { return len(s) == 0 || slices.Contains(s, name) }
