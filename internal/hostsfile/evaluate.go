package hostsfile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// pattern is a pattern that is a label's name.
type pattern struct {
	name     string
	line     int
	comments []string
}

// labelsOf collects the patterns of "case $label in" that are names, in their order.
func labelsOf(body []statement, found []pattern) []pattern {
	for _, s := range body {
		onLabel := s.isCase && isLabel(s.value)
		for _, a := range s.arms {
			for _, w := range a.patterns {
				name, plain := w.plain()
				if !onLabel || !plain || name == "" {
					continue
				}
				i := slices.IndexFunc(found, func(p pattern) bool { return p.name == name })
				if i < 0 {
					found = append(found, pattern{name, a.line, nil})
					i = len(found) - 1
				}
				found[i].comments = append(found[i].comments, a.comments...)
			}
			found = labelsOf(a.body, found)
		}
	}
	return found
}

// unmatched notes the patterns of "case $label in" that are not names and match none of those found:
// nobody would see that their settings are lost.
func (f *File) unmatched(body []statement, found []pattern) {
	for _, s := range body {
		for _, a := range s.arms {
			for _, w := range a.patterns {
				if text := w.source(); s.isCase && isLabel(s.value) && text != "*" && !w.matchesAny(found) {
					f.note(a.line, "the pattern %s is left out: no label that the file names matches it; write a label for each name that it stands for", text)
				}
			}
			f.unmatched(a.body, found)
		}
	}
}

// matchesAny tells whether one of the labels matches the word. A word that is not understood does
// not match.
func (w word) matchesAny(labels []pattern) bool {
	p, err := (&evaluation{}).pattern(w)
	return err == nil && slices.ContainsFunc(labels, func(l pattern) bool { return match(p, l.name) })
}

// source is the word about as it is written.
func (w word) source() string {
	var b strings.Builder
	for _, p := range w {
		if p.variable {
			b.WriteByte('$')
		}
		b.WriteString(p.text)
	}
	return b.String()
}

// isLabel is whether the word is $label and nothing else.
func isLabel(w word) bool {
	n := 0
	for _, p := range w {
		switch {
		case p.variable && p.text == "label":
			n++
		case p.text != "" || p.refuse != "":
			return false
		}
	}
	return n == 1
}

// plain is the word's text, when it has no variable and nothing that makes it a pattern for many.
func (w word) plain() (string, bool) {
	var b strings.Builder
	for _, p := range w {
		if p.variable || p.refuse != "" || !p.quoted && strings.ContainsAny(p.text, "*?[") {
			return "", false
		}
		b.WriteString(p.text)
	}
	return b.String(), true
}

// evaluation is one way through the file.
type evaluation struct {
	vars  map[string]string
	lines map[string]int  // of the last assignment
	used  map[string]bool // variables that were read
}

func (e *evaluation) run(body []statement) *Error {
	for _, s := range body {
		var err *Error
		switch {
		case s.refuse != "":
			return &Error{Line: s.line, Msg: s.refuse}
		case s.isCase:
			err = e.choose(s)
		default:
			e.vars[s.name], err = e.expand(s.value)
			e.lines[s.name] = s.line
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// choose runs the first arm of a case that fits.
func (e *evaluation) choose(s statement) *Error {
	subject, err := e.expand(s.value)
	if err != nil {
		return err
	}
	for _, a := range s.arms {
		for _, w := range a.patterns {
			p, err := e.pattern(w)
			if err != nil {
				return err
			}
			if match(p, subject) {
				return e.run(a.body)
			}
		}
	}
	return nil
}

func (e *evaluation) expand(w word) (string, *Error) {
	var b strings.Builder
	for _, p := range w {
		s, err := e.value(p)
		if err != nil {
			return "", err
		}
		if b.Len()+len(s) > maxValue {
			return "", &Error{Line: p.line, Msg: fmt.Sprintf("a value has more than %d bytes", maxValue)}
		}
		b.WriteString(s)
	}
	return b.String(), nil
}

func (e *evaluation) value(p part) (string, *Error) {
	switch {
	case p.refuse != "":
		return "", &Error{Line: p.line, Msg: p.refuse}
	case !p.variable:
		return p.text, nil
	}
	v, ok := e.vars[p.text]
	if !ok {
		return "", &Error{Line: p.line, Msg: fmt.Sprintf("$%s is not set before this line, and variables from outside of the file are not known here: write its value", p.text)}
	}
	e.used[p.text] = true
	return v, nil
}

// glyph is one character of a pattern: itself, or one that stands for others.
type glyph struct {
	char byte
	any  bool // * or ?
}

// pattern is the word as a pattern. Only * and ? are understood, where they are not quoted.
func (e *evaluation) pattern(w word) ([]glyph, *Error) {
	var out []glyph
	for _, p := range w {
		s, err := e.value(p)
		if err != nil {
			return nil, err
		}
		for _, c := range []byte(s) {
			special := !p.quoted && !p.variable
			if special && c == '[' {
				return nil, &Error{Line: p.line, Msg: "a pattern has a choice of characters, [...]: write its names out, ONE|OTHER)"}
			}
			out = append(out, glyph{c, special && (c == '*' || c == '?')})
		}
	}
	return out, nil
}

// match is a shell's: * is any number of characters, ? is one.
func match(p []glyph, s string) bool {
	star, from := -1, 0 // where to go on after a mismatch
	i, j := 0, 0
	for j < len(s) {
		switch {
		case i < len(p) && p[i].any && p[i].char == '*':
			star, from = i, j
			i++
		case i < len(p) && (p[i].any || p[i].char == s[j]):
			i++
			j++
		case star >= 0:
			from++
			i, j = star+1, from
		default:
			return false
		}
	}
	for i < len(p) && p[i].any && p[i].char == '*' {
		i++
	}
	return i == len(p)
}

// sortNotes puts the notes in the order of their lines.
func (f *File) sortNotes() {
	slices.SortStableFunc(f.Notes, func(a, b Note) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), strings.Compare(a.Text, b.Text))
	})
}
