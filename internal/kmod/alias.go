package kmod

import (
	"fmt"
	"slices"
	"strings"
)

// aliasTable finds the patterns that may match a string without trying all of them. A kernel has
// 26,000 patterns and a machine 200 devices; on an emulated processor, five million calls of
// fnmatch take seconds of a boot.
//
// Every pattern is stored under the text before its first wildcard. A string can only match
// patterns that are stored under one of its own prefixes, so a search needs one map look-up for
// each prefix length in use, about fifty.
type aliasTable struct {
	aliases []alias
	first   map[string]int32 // literal prefix to the last alias stored under it
	lengths []bool           // lengths[n]: a prefix has n bytes
}

type alias struct {
	pattern, module string
	next            int32 // the alias stored before this one under the same prefix, or -1
}

func (t *aliasTable) parse(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	pattern, module, ok := strings.Cut(strings.TrimSpace(rest), " ")
	module = strings.TrimSpace(module)
	if word != "alias" || !ok || strings.ContainsAny(module, " \t") {
		return fmt.Errorf("%.80q is not \"alias pattern module\"", line)
	}
	t.add(normalPattern(pattern), normal(module))
	return nil
}

func (t *aliasTable) add(pattern, module string) {
	prefix := literal(pattern)
	if t.first == nil {
		t.first = map[string]int32{}
	}
	next, ok := t.first[prefix]
	if !ok {
		next = -1
	}
	t.first[prefix] = int32(len(t.aliases))
	t.aliases = append(t.aliases, alias{pattern, module, next})
	if n := len(prefix); n >= len(t.lengths) {
		t.lengths = append(t.lengths, make([]bool, n+1-len(t.lengths))...)
	}
	t.lengths[len(prefix)] = true
}

// match returns the modules whose patterns match s, in which '-' is already replaced with '_'.
func (t *aliasTable) match(s string) []string {
	var hits []int32
	for n, used := range t.lengths {
		if n > len(s) {
			break
		}
		if !used {
			continue
		}
		i, ok := t.first[s[:n]]
		for ok && i >= 0 {
			a := &t.aliases[i]
			if fnmatch(a.pattern[n:], s[n:]) {
				hits = append(hits, i)
			}
			i = a.next
		}
	}
	slices.Sort(hits)
	var names []string
	for _, i := range hits {
		if m := t.aliases[i].module; !slices.Contains(names, m) {
			names = append(names, m)
		}
	}
	return names
}

// normalPattern replaces '-' with '_', except inside brackets, where '-' is a range.
func normalPattern(p string) string {
	if strings.IndexByte(p, '-') < 0 {
		return p
	}
	var out strings.Builder
	for i := 0; i < len(p); {
		n := 1
		if p[i] == '\\' {
			n = min(2, len(p)-i)
		} else if size, ok := bracketSize(p[i:]); ok {
			n = size
		}
		if p[i] == '-' {
			out.WriteByte('_')
		} else {
			out.WriteString(p[i : i+n])
		}
		i += n
	}
	return out.String()
}

// fnmatch is fnmatch(3) without flags, on bytes: '*' matches any text (also '/'), '?' any byte,
// '[a-f]' and '[!a-f]' a set, '\' makes the next byte literal, and a '[' without a closing bracket
// is literal. Classes such as [:digit:] are not supported, because depmod never writes them.
func fnmatch(p, s string) bool {
	i, j := 0, 0
	// After the last star: where the pattern continues, its literal text there, and where in s
	// it was tried.
	star, lead, from := -1, "", 0
	for j < len(s) {
		if i < len(p) && p[i] == '*' {
			i++
			star, lead, from = i, literal(p[i:]), j
		} else if n, ok := matchFirst(p[i:], s[j]); ok {
			i, j = i+n, j+1
			continue
		} else if star >= 0 {
			from++
		} else {
			return false
		}
		at := strings.Index(s[from:], lead) // jump to the next position that can match
		if at < 0 {
			return false
		}
		from += at
		i, j = star+len(lead), from+len(lead)
	}
	return strings.Trim(p[i:], "*") == ""
}

// literal returns the text before the first wildcard of a pattern.
func literal(p string) string {
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '*', '?', '[', '\\':
			return p[:i]
		}
	}
	return p
}

// matchFirst reports whether c matches the first element of the pattern, which has n bytes.
func matchFirst(p string, c byte) (n int, ok bool) {
	if p == "" {
		return 0, false
	}
	if p[0] == '?' {
		return 1, true
	}
	if p[0] == '\\' {
		if len(p) == 1 {
			return 1, false // in fnmatch(3), a trailing backslash matches nothing
		}
		return 2, p[1] == c || p[1] == '-' && c == '_'
	}
	if n, ok := bracketSize(p); ok {
		return n, inSet(p[1:n-1], c)
	}
	return 1, p[0] == c
}

// bracketSize returns the length of the bracket expression at the beginning of p, or false if there
// is none or it is not closed. A ']' at the first position is a member of the set.
func bracketSize(p string) (int, bool) {
	if p[0] != '[' {
		return 0, false
	}
	i := 1
	if i < len(p) && (p[i] == '!' || p[i] == '^') {
		i++
	}
	for first := i; i < len(p); i++ {
		switch {
		case p[i] == ']' && i > first:
			return i + 1, true
		case p[i] == '\\':
			i++
		}
	}
	return 0, false
}

// inSet reports whether c is in the set, which is the text between the brackets. A '_' may stand
// for a '-' of the device.
func inSet(set string, c byte) bool {
	not := false
	if set[0] == '!' || set[0] == '^' {
		not, set = true, set[1:]
	}
	found := false
	for len(set) > 0 {
		var lo, hi byte
		lo, set = setByte(set)
		hi = lo
		if len(set) > 1 && set[0] == '-' {
			hi, set = setByte(set[1:])
		}
		if lo <= c && c <= hi || c == '_' && lo <= '-' && '-' <= hi {
			found = true
		}
	}
	return found != not
}

func setByte(set string) (byte, string) {
	if set[0] == '\\' && len(set) > 1 {
		return set[1], set[2:]
	}
	return set[0], set[1:]
}
