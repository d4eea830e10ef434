package secrets

import (
	"cmp"
	"path"
	"slices"
	"strings"
)

// rule is the kind of a file with a certain name, if check finds something in it.
type rule struct {
	pattern string // as in path.Match; "**/" at the start stands for any directory
	kind    Kind
	check   check

	order int // its place among the rules
}

// patterns splits the names that have one rule.
func patterns(names string, kind Kind, c check) []rule {
	var out []rule
	for _, name := range strings.Fields(names) {
		out = append(out, rule{pattern: name, kind: kind, check: c})
	}
	return out
}

// index finds the rules of a name without trying them all.
type index struct {
	whole  map[string][]*rule // "etc/shadow", by the whole name
	base   map[string][]*rule // "**/.kube/config", by the last component
	ext    map[string][]*rule // "**/*.p12", by the extension
	top    map[string][]*rule // "etc/slurm*/x", by the first component
	others [256][]*rule       // "**/.env.*", by the first byte of the last component
}

func newIndex(rules []rule) *index {
	x := &index{map[string][]*rule{}, map[string][]*rule{}, map[string][]*rule{}, map[string][]*rule{}, [256][]*rule{}}
	for i := range rules {
		r := &rules[i]
		r.order = i
		pattern, anywhere := strings.CutPrefix(r.pattern, "**/")
		base := path.Base(pattern)
		top, _, _ := strings.Cut(pattern, "/")
		switch {
		case !anywhere && !strings.ContainsAny(pattern, `*?[\`):
			x.whole[pattern] = append(x.whole[pattern], r)
		case !anywhere && !strings.ContainsAny(top, `*?[\`):
			x.top[top] = append(x.top[top], r)
		case anywhere && !strings.ContainsAny(base, `*?[\`):
			x.base[base] = append(x.base[base], r)
		case anywhere && base == "*"+path.Ext(base):
			x.ext[path.Ext(base)] = append(x.ext[path.Ext(base)], r)
		default:
			x.others[base[0]] = append(x.others[base[0]], r) // the tests check that it is not a pattern
		}
	}
	return x
}

var byName = newIndex(rules)

// find appends the rules of a name.
func (x *index) find(out []*rule, name string) []*rule {
	top, _, _ := strings.Cut(name, "/")
	base := name[strings.LastIndexByte(name, '/')+1:]
	out = append(out, x.whole[name]...)
	for _, list := range [][]*rule{x.base[base], x.ext[path.Ext(base)], x.top[top], x.others[base[0]]} {
		for _, r := range list {
			if r.matches(name) {
				out = append(out, r)
			}
		}
	}
	return out
}

// rulesFor returns the rules for a file's name, which is relative to the tree, in their order.
//
// For a file of a layer in the tree, its place on a node counts: below etc/rootovl/NAME, the rest
// of the path is its name. Software that was installed below a directory of its own, such as
// opt/slurm or usr/local, has its own etc and var there.
func rulesFor(name string) []*rule {
	if layer, ok := strings.CutPrefix(name, "etc/rootovl/"); ok {
		if _, file, ok := strings.Cut(layer, "/"); ok {
			name = file
		}
	}
	out := byName.find(nil, name)
	if strings.HasPrefix(name, "opt/") || strings.HasPrefix(name, "usr/local/") {
		for _, dir := range []string{"/etc/", "/var/"} {
			if at := strings.Index(name, dir); at > 0 {
				out = byName.find(out, name[at+1:])
			}
		}
	}
	if len(out) > 1 {
		slices.SortFunc(out, func(a, b *rule) int { return cmp.Compare(a.order, b.order) })
	}
	return out
}

func (r *rule) matches(name string) bool {
	pattern, anywhere := strings.CutPrefix(r.pattern, "**/")
	if anywhere { // compare as many of the last components as the pattern has
		start := len(name)
		for range strings.Count(pattern, "/") + 1 {
			if start = strings.LastIndexByte(name[:max(0, start)], '/'); start < 0 {
				break
			}
		}
		name = name[start+1:]
	}
	ok, _ := path.Match(pattern, name) // the tests check every pattern
	return ok
}
