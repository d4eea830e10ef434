package site

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Changes are what one Site has other than the one before it.
type Changes struct {
	Added, Removed []string            // labels
	Changed        map[string][]string // of each label that both have: the keys of netroot.yaml
	Keys           []string            // those outside of labels
}

// labelKeys are the keys of a label, each with its value.
var labelKeys = []struct {
	key   string
	value func(*Label) any
}{
	{"recipe", func(l *Label) any { return l.Recipe }},
	{"tree", func(l *Label) any { return l.Tree }},
	{"transport", func(l *Label) any { return l.Transport }},
	{"initramfs", func(l *Label) any { return l.Initramfs }},
	{"servers", func(l *Label) any { return l.Servers }},
	{"pack", func(l *Label) any { return l.Pack }},
	{"rw", func(l *Label) any { return l.RW }},
	{"debug", func(l *Label) any { return l.Debug }},
	{"cmdline", func(l *Label) any { return l.Cmdline }},
	{"qemu", func(l *Label) any { return l.Qemu }},
	{"overlay", func(l *Label) any { return l.Overlay }},
	{"layers", func(l *Label) any { return l.Layers }},
	{"kernel", func(l *Label) any { return l.Kernel }},
	{"build_args", func(l *Label) any { return l.BuildArgs }},
	{"allow_secrets", func(l *Label) any { return l.AllowSecrets }},
	{"vm", func(l *Label) any { return l.VM }},
}

// ChangesSince compares a Site with the one before it.
func (s *Site) ChangesSince(old *Site) Changes {
	c := Changes{Changed: make(map[string][]string)}
	for _, name := range s.Names() {
		was, ok := old.Labels[name]
		if !ok {
			c.Added = append(c.Added, name)
			continue
		}
		for _, k := range labelKeys {
			if !reflect.DeepEqual(k.value(s.Labels[name]), k.value(was)) {
				c.Changed[name] = append(c.Changed[name], k.key)
			}
		}
	}
	for _, name := range old.Names() {
		if _, ok := s.Labels[name]; !ok {
			c.Removed = append(c.Removed, name)
		}
	}
	if s.State != old.State {
		c.Keys = append(c.Keys, "state")
	}
	if !slices.Equal(s.Networks, old.Networks) {
		c.Keys = append(c.Keys, "networks")
	}
	return c
}

// Empty reports whether nothing has changed.
func (c Changes) Empty() bool {
	return len(c.Added)+len(c.Removed)+len(c.Changed)+len(c.Keys) == 0
}

// String says the changes in one line; "nothing" when there are none.
func (c Changes) String() string {
	var all []string
	add := func(format string, names []string) {
		if len(names) > 0 {
			all = append(all, fmt.Sprintf(format, strings.Join(names, ", ")))
		}
	}
	add("labels added: %s", c.Added)
	add("labels removed: %s", c.Removed)
	for _, name := range slices.Sorted(maps.Keys(c.Changed)) {
		add("label "+name+" changed: %s", c.Changed[name])
	}
	add("changed: %s", c.Keys)
	if len(all) == 0 {
		return "nothing"
	}
	return strings.Join(all, "; ")
}
