package build

import (
	"os"
	"path"
	"regexp"
	"strings"
)

// namespace is a set of directories in which patterns are matched.
type namespace interface {
	names(dir string) []string // sorted; empty if the directory cannot be read
	exists(name string) bool
}

// expand returns the names that a pattern matches. The rules are those of the shell: {a,b} is
// expanded first, then *, ? and [..], which match neither a slash nor the dot of a hidden file. A
// character after a backslash stands for itself. A pattern without a match is returned as a name.
func expand(ns namespace, pattern string) []string {
	var out []string
	for _, p := range braces(strings.ReplaceAll(pattern, `\/`, "/")) {
		found := glob(ns, p)
		if found == nil {
			found = []string{unquote(p)}
		}
		out = append(out, found...)
	}
	return out
}

// glob expands the wildcards of one pattern, component by component.
func glob(ns namespace, pattern string) []string {
	if indexUnquoted(pattern, "*?[") < 0 {
		return nil
	}
	bases := []string{""}
	if strings.HasPrefix(pattern, "/") {
		bases = []string{"/"}
	}
	for part := range strings.SplitSeq(strings.Trim(pattern, "/"), "/") {
		var next []string
		for _, dir := range bases {
			if indexUnquoted(part, "*?[") < 0 {
				next = append(next, slashed(dir)+unquote(part))
				continue
			}
			for _, name := range ns.names(dir) {
				if name[0] == '.' && strings.TrimPrefix(part, `\`)[0] != '.' {
					continue
				}
				if ok, err := path.Match(classes(part), name); err == nil && ok {
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

// classes returns a pattern of the shell, which negates with "[!", for path.Match, which negates
// with "[^".
func classes(pattern string) string {
	for at := 0; ; {
		i := indexUnquoted(pattern[at:], "[")
		if i < 0 {
			return pattern
		}
		if at += i + 1; strings.HasPrefix(pattern[at:], "!") {
			pattern = pattern[:at] + "^" + pattern[at+1:]
		}
	}
}

// braces expands {a,b} as the shell does, but without nesting.
func braces(p string) []string {
	open := indexUnquoted(p, "{")
	if open < 0 {
		return []string{p}
	}
	end := indexUnquoted(p[open:], "}")
	if end < 0 || indexUnquoted(p[open:open+end], ",") < 0 {
		return []string{p}
	}
	var out []string
	for rest := p[open+1 : open+end]; ; {
		comma := indexUnquoted(rest, ",")
		alt := rest
		if comma >= 0 {
			alt = rest[:comma]
		}
		for _, tail := range braces(p[open+end+1:]) {
			out = append(out, p[:open]+alt+tail)
		}
		if comma < 0 {
			return out
		}
		rest = rest[comma+1:]
	}
}

// indexUnquoted returns the index of the first of some characters that is not behind a backslash,
// or -1.
func indexUnquoted(s, chars string) int {
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			i++
		case strings.IndexByte(chars, s[i]) >= 0:
			return i
		}
	}
	return -1
}

// unquote removes the backslashes of a pattern. One at its end stays.
func unquote(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

var variable = regexp.MustCompile(`^\$(?:(\w+)|\{(\w+)\})`)

// expandVariables replaces $NAME and ${NAME} in a pattern. Wildcards in a value count, as in a
// shell; backslashes in it are characters of the name.
func expandVariables(pattern string) string {
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		m := variable.FindStringSubmatch(pattern[i:])
		switch {
		case m != nil:
			b.WriteString(quoteBackslashes(os.Getenv(m[1] + m[2])))
			i += len(m[0]) - 1
		case pattern[i] == '\\' && i+1 < len(pattern):
			b.WriteString(pattern[i : i+2])
			i++
		default:
			b.WriteByte(pattern[i])
		}
	}
	return b.String()
}

func quoteBackslashes(s string) string { return strings.ReplaceAll(s, `\`, `\\`) }
