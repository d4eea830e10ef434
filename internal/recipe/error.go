package recipe

import (
	"fmt"
	"strings"
	"unicode"
)

// headerSection is the Section of an Error in a header.
const headerSection = "header"

// Error says what is wrong with a recipe and what to do about it. All errors of
// this package are of this type.
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

// printable keeps what a recipe holds from moving the cursor of a terminal that
// shows it.
func printable(r rune) rune {
	if unicode.IsControl(r) && r != '\n' && r != '\t' {
		return unicode.ReplacementChar
	}
	return r
}

// Warning is about something that was read but may not mean what its author
// thinks. Its fields are those of an Error.
type Warning Error

// String returns the same form as Error's.
func (w Warning) String() string { return (*Error)(&w).Error() }

// parser carries what every step needs to report: it holds no position.
type parser struct {
	name     string
	strict   bool
	warnings []Warning
}

func (p *parser) fail(line int, section, msg, fix string) error {
	return &Error{File: p.name, Line: line, Section: section, Msg: msg, Fix: fix}
}

func (p *parser) warn(line int, section, msg, fix string) {
	p.warnings = append(p.warnings, Warning{File: p.name, Line: line, Section: section, Msg: msg, Fix: fix})
}
