package rpmrepo

import (
	"strings"
)

// relation is one alternative of a Debian dependency: "libc6 (>= 2.36)".
type relation struct{ name, op, version string }

// relations reads a dependency field: groups that commas separate, each of alternatives: deb-control(5), debian-policy
// chapter 7. Architecture qualifiers (":any") fall away, as there is one architecture.
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

// evr turns a Debian version into RPM's: a '-' left in the upstream version, which RPM forbids, becomes '.'. A
// missing revision equals 0: deb-version(7).
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

// require is the relation as a spec file writes it. A version without a revision stands before those that have one, as
// with dpkg; to RPM alone it would match them all.
func (r relation) require(name string) string {
	op, ok := map[string]string{"<<": "<", "<=": "<=", "=": "=", ">=": ">=", ">>": ">"}[r.op]
	if !ok {
		return name
	}
	return name + " " + op + " " + evr(r.version).String()
}

// universe is what the relations of the packages at hand can mean.
type universe struct {
	names   map[string]string   // Debian name of a package -> its name as an RPM
	virtual map[string][]string // Debian name that packages provide -> their Debian names
}

func (u universe) known(name string) bool {
	return u.names[name] != "" || len(u.virtual[name]) > 0
}

// rpmName is the name of a package, or of what packages provide.
func (u universe) rpmName(name string) string {
	if n := u.names[name]; n != "" {
		return n
	}
	return name
}

// requires translates a dependency field. What is dropped on purpose is required by nobody, alternatives to it neither.
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

// conflicts translates Breaks and Conflicts with packages at hand; of others there is nothing to fear.
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

// provides translates Provides.
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
