package build

import (
	"path"
	"strings"
)

// namespace is a set of directories in which patterns are matched.
type namespace interface {
	names(dir string) []string // sorted; empty if the directory cannot be read
	exists(name string) bool
}

// expand returns the names that a pattern matches. The rules are those of the shell: {a,b} is
// expanded first, then *, ? and [..], which match neither a slash nor the dot of a hidden file. A
// pattern without a match is returned unchanged.
func expand(ns namespace, pattern string) []string {
	var out []string
	for _, p := range braces(pattern) {
		found := glob(ns, p)
		if found == nil {
			found = []string{p}
		}
		out = append(out, found...)
	}
	return out
}

// glob expands the wildcards of one pattern, component by component.
func glob(ns namespace, pattern string) []string {
	if !strings.ContainsAny(pattern, "*?[") {
		return nil
	}
	bases := []string{""}
	if strings.HasPrefix(pattern, "/") {
		bases = []string{"/"}
	}
	for part := range strings.SplitSeq(strings.Trim(pattern, "/"), "/") {
		var next []string
		for _, dir := range bases {
			if !strings.ContainsAny(part, "*?[") {
				next = append(next, slashed(dir)+part)
				continue
			}
			for _, name := range ns.names(dir) {
				if name[0] == '.' && part[0] != '.' {
					continue
				}
				// The shell negates with "!", path.Match negates with "^".
				if ok, err := path.Match(strings.ReplaceAll(part, "[!", "[^"), name); err == nil && ok {
					next = append(next, slashed(dir)+name)
				}
			}
		}
		bases = next
	}
	var found []string
	for _, name := range bases {
		if ns.exists(name) {
			found = append(found, name)
		}
	}
	return found
}

func slashed(dir string) string {
	if dir == "" || strings.HasSuffix(dir, "/") {
		return dir
	}
	return dir + "/"
}

// braces expands {a,b} as the shell does, but without nesting.
func braces(p string) []string {
	open := strings.IndexByte(p, '{')
	if open < 0 {
		return []string{p}
	}
	end := strings.IndexByte(p[open:], '}')
	if end < 0 || !strings.Contains(p[open:open+end], ",") {
		return []string{p}
	}
	var out []string
	for alt := range strings.SplitSeq(p[open+1:open+end], ",") {
		for _, rest := range braces(p[open+end+1:]) {
			out = append(out, p[:open]+alt+rest)
		}
	}
	return out
}
