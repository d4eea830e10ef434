package recipe

import (
	"fmt"
	"strings"
	"unicode"
)

// headerSection is the Section of an Error that is in a header.
const headerSection = "header"

// Error is an error in a recipe, with a fix. All errors of this package have this type.
type Error struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`    // from 1; 0: the file as a whole
	Section string `json:"section,omitempty"` // "%post", "header", or empty
	Msg     string `json:"msg"`
	Fix     string `json:"fix,omitempty"` // what the reader can do
}

// Error returns "x.def:12: %post: message; fix".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	b.WriteString(": ")
	if e.Section != "" {
		b.WriteString(e.Section + ": ")
	}
	b.WriteString(e.Msg)
	if e.Fix != "" {
		b.WriteString("; " + e.Fix)
	}
	return strings.Map(printable, b.String())
}

// printable replaces characters with which the text of a recipe could control the terminal that
// shows it.
func printable(r rune) rune {
	if unicode.IsControl(r) && r != '\n' && r != '\t' {
		return unicode.ReplacementChar
	}
	return r
}

// Warning describes text that was accepted but may not mean what its author expects. Its fields are
// those of an Error.
type Warning Error

// String returns the same form as Error.Error.
func (w Warning) String() string { return (*Error)(&w).Error() }

// parser has what every step needs to report errors. It has no position.
type parser struct {
	name     string
	strict   bool
	warnings []Warning
	earlier  []string // names of the stages before the current one
}

func (p *parser) fail(line int, section, msg, fix string) error {
	return &Error{File: p.name, Line: line, Section: section, Msg: msg, Fix: fix}
}

func (p *parser) warn(line int, section, msg, fix string) {
	p.warnings = append(p.warnings, Warning{File: p.name, Line: line, Section: section, Msg: msg, Fix: fix})
}
