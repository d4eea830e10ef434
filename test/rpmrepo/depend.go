package rpmrepo

import (
	"strings"
)

// relation is one alternative of a Debian dependency: "libc6 (>= 2.36)".
type relation struct{ name, op, version string }

// relations parses a dependency field: groups separated by commas, each with alternatives:
// deb-control(5), debian-policy chapter 7. It ignores architecture qualifiers (":any"), because
// there is one architecture.
func relations(field string) [][]relation {
	var groups [][]relation
	for group := range strings.SplitSeq(field, ",") {
		var alternatives []relation
		for text := range strings.SplitSeq(group, "|") {
			name, rest, _ := strings.Cut(strings.TrimSpace(text), "(")
			name, _, _ = strings.Cut(strings.TrimSpace(name), ":")
			if name == "" {
				continue
			}
			r := relation{name: name}
			if words := strings.Fields(strings.TrimSuffix(strings.TrimSpace(rest), ")")); len(words) == 2 {
				r.op, r.version = words[0], words[1]
			}
			alternatives = append(alternatives, r)
		}
		if len(alternatives) > 0 {
			groups = append(groups, alternatives)
		}
	}
	return groups
}

// evr converts a Debian version to RPM's: a '-' in the upstream version, which RPM forbids, becomes
// '.'. A missing revision equals 0: deb-version(7).
func evr(debian string) EVR {
	var v EVR
	rest := debian
	if epoch, after, ok := strings.Cut(debian, ":"); ok {
		v.Epoch, rest = epoch, after
	}
	v.Version, v.Release = rest, "0"
	if i := strings.LastIndexByte(rest, '-'); i >= 0 {
		v.Version, v.Release = rest[:i], rest[i+1:]
	}
	v.Version = strings.ReplaceAll(v.Version, "-", ".")
	return v
}

// require returns the relation as a spec file writes it. A version without a revision sorts before
// those with one, as in dpkg; in RPM alone it would match them all.
func (r relation) require(name string) string {
	op, ok := map[string]string{"<<": "<", "<=": "<=", "=": "=", ">=": ">=", ">>": ">"}[r.op]
	if !ok {
		return name
	}
	return name + " " + op + " " + evr(r.version).String()
}

// universe has the packages that relations can refer to.
type universe struct {
	names   map[string]string   // name of a package as an RPM, by its Debian name
	virtual map[string][]string // Debian names of the packages that provide a Debian name
}

func (u universe) known(name string) bool {
	return u.names[name] != "" || len(u.virtual[name]) > 0
}

// rpmName returns the RPM name of a package, or of a package that provides the name.
func (u universe) rpmName(name string) string {
	if n := u.names[name]; n != "" {
		return n
	}
	return name
}

// requires converts a dependency field. Packages that are dropped on purpose, and alternatives to
// them, are left out.
func (u universe) requires(field string) []string {
	var out []string
	for _, group := range relations(field) {
		var some []string
		dropped := false
		for _, r := range group {
			dropped = dropped || isDropped(r.name)
			if u.known(r.name) {
				some = append(some, r.require(u.rpmName(r.name)))
			}
		}
		switch {
		case dropped || len(some) == 0:
		case len(some) == 1:
			out = append(out, some[0])
		default:
			out = append(out, "("+strings.Join(some, " or ")+")")
		}
	}
	return out
}

// conflicts converts Breaks and Conflicts with known packages. Conflicts with other packages do not
// matter.
func (u universe) conflicts(field string) []string {
	var out []string
	for _, group := range relations(field) {
		for _, r := range group {
			if u.known(r.name) {
				out = append(out, r.require(u.rpmName(r.name)))
			}
		}
	}
	return out
}

// provides converts Provides.
func (u universe) provides(field string) []string {
	var out []string
	for _, group := range relations(field) {
		for _, r := range group {
			if r.op == "=" {
				out = append(out, r.require(r.name))
			} else {
				out = append(out, r.name)
			}
		}
	}
	return out
}
