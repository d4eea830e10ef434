// Package hostsfile reads live_netroot_hosts, the configuration of the system that inspired
// netroot, and writes it as a netroot.yaml. The file is a fragment of shell: assignments of
// defaults, and a "case $label in" with an arm of assignments for each label.
//
// The text is foreign. It is parsed as a shell parses it, and no command in it is run. Assignments,
// export, quotes, $NAME and ${NAME}, case with its patterns, and comments are understood.
// Everything else is an error with its line if the evaluation for a label reaches it. What only an
// unknown label would reach, the usual "*)" with its message, is ignored.
package hostsfile

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

// Label is what the file says about one label, in the types of netroot.yaml. Paths are absolute or
// empty.
type Label struct {
	Name     string // as netroot.yaml takes it
	Original string // as the file has it
	Line     int    // of its pattern
	Comments []string
	Recipe   string
	Tree     string // NETROOT
	TFTP     string // TFTPBOOT
	RW       bool
	Debug    bool
	Cmdline  string   // EXTRA_CMDLINE, without rootovlcfg=
	Layers   []string // rootovlcfg= of EXTRA_CMDLINE; the first wins
	Qemu     []string // EXTRA_QEMU, cut at blanks as the original does
	Memory   int64    // MiB, from EXTRA_QEMU; 0: not said
}

// Note tells the user of something that was changed or left out.
type Note struct {
	Line int
	Text string
}

// File is a file that was understood.
type File struct {
	Labels []Label
	Notes  []Note
}

// Error is something that was not understood.
type Error struct {
	File string
	Line int // from 1
	Msg  string
}

func (e *Error) Error() string { return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Msg) }

// Limits, so that no file, however odd, takes the machine's time or memory.
const (
	maxFile   = 128 << 10 // bytes; a shell's parser calls itself for each level of nesting
	maxLabels = 1000
	maxValue  = 64 << 10 // bytes of one variable
	maxDepth  = 10       // of cases inside cases
)

// known are the variables that the original reads.
var known = []string{"NETROOT", "RECIPE", "TFTPBOOT", "RW", "DEBUG", "EXTRA_CMDLINE", "EXTRA_QEMU"}

// Parse reads the file called name, for messages, as a shell in the directory dir would: $PWD is
// dir, which must be absolute, and relative paths start there. What is wrong is reported as *Error.
func Parse(name, dir string, src []byte) (*File, error) {
	if len(src) > maxFile {
		return nil, &Error{name, 1, fmt.Sprintf("has %d bytes, more than a hosts file may have", len(src))}
	}
	f := &File{}
	body, err := parse(bytes.ReplaceAll(src, []byte("\r\n"), []byte("\n")))
	if err == nil {
		err = f.evaluate(body, dir)
	}
	if err != nil {
		err.File = name
		return nil, err
	}
	return f, nil
}

// evaluate runs through the statements once for each label, as the original does when it is called
// for that label.
func (f *File) evaluate(body []statement, dir string) *Error {
	found := labelsOf(body, nil)
	switch {
	case len(found) == 0:
		return &Error{Line: 1, Msg: "no label is in it: expected is \"case $label in\" with a pattern for each label"}
	case len(found) > maxLabels:
		return &Error{Line: found[maxLabels].line, Msg: fmt.Sprintf("there are more than %d labels", maxLabels)}
	}
	names := map[string]string{}
	used := map[string]bool{}
	assigned := map[string]int{}
	for _, p := range found {
		e := &evaluation{vars: map[string]string{"PWD": dir, "label": p.name}, lines: map[string]int{}, used: used}
		if err := e.run(body); err != nil {
			return err
		}
		for name, line := range e.lines {
			if old, ok := assigned[name]; !ok || line < old {
				assigned[name] = line
			}
		}
		l, err := f.label(p, e, dir)
		if err != nil {
			return err
		}
		if other, ok := names[l.Name]; ok {
			return &Error{Line: p.line, Msg: fmt.Sprintf("the labels %q and %q would both be called %s: rename one of them", other, p.name, l.Name)}
		}
		names[l.Name] = p.name
		f.Labels = append(f.Labels, l)
	}
	f.unmatched(body, found)
	f.unused(assigned, used)
	f.sortNotes()
	return nil
}

// label makes a Label of the values that the variables have in the end.
func (f *File) label(p pattern, e *evaluation, dir string) (Label, *Error) {
	for _, name := range known {
		if v := e.vars[name]; !utf8.ValidString(v) || strings.ContainsRune(v, utf8.RuneError) || strings.ContainsFunc(v, odd) {
			return Label{}, &Error{Line: e.lines[name], Msg: fmt.Sprintf("%s has bytes that are not text in UTF-8, or control characters: %q", name, v)}
		}
	}
	l := Label{Name: validName(p.name), Original: p.name, Line: p.line, Comments: p.comments}
	if l.Name == "" {
		return Label{}, &Error{Line: p.line, Msg: fmt.Sprintf("the label %q has no letter or digit to be called by", p.name)}
	}
	if l.Name != p.name {
		f.note(p.line, "the label %s is called %s: labels are of lower-case letters and digits", p.name, l.Name)
	}
	path := func(name string) string {
		s := e.vars[name]
		if s != "" && !filepath.IsAbs(s) {
			s = filepath.Join(dir, s)
		}
		return s
	}
	l.Recipe, l.Tree, l.TFTP = path("RECIPE"), path("NETROOT"), path("TFTPBOOT")
	if l.Recipe == "" {
		f.note(p.line, "%s has no RECIPE: write one into netroot.yaml", p.name)
	}
	l.RW, l.Debug = f.yes(e, "RW"), f.yes(e, "DEBUG")
	args := strings.Fields(e.vars["EXTRA_CMDLINE"])
	if strings.Count(strings.Join(args, ""), `"`)%2 != 0 {
		return Label{}, &Error{Line: e.lines["EXTRA_CMDLINE"], Msg: "EXTRA_CMDLINE has a double quote that is not closed"}
	}
	args, l.Layers = f.layers(args, e.lines["EXTRA_CMDLINE"])
	l.Cmdline = strings.Join(args, " ")
	if l.RW && len(l.Layers) > 0 {
		f.note(p.line, "the layers %s of %s are left out: they require memory over the root, and with RW=Y there is none", strings.Join(l.Layers, ","), p.name)
		l.Layers = nil
	}
	l.Qemu, l.Memory = f.qemu(strings.Fields(e.vars["EXTRA_QEMU"]), e.lines["EXTRA_QEMU"])
	return l, nil
}

// yes reports whether a variable is Y, the only value that the original takes for yes.
func (f *File) yes(e *evaluation, name string) bool {
	v := e.vars[name]
	if v != "" && v != "Y" && v != "N" {
		f.note(e.lines[name], "%s=%s is not Y, and so means N, as in the original", name, v)
	}
	return v == "Y"
}

// unused adds a note for each variable that is never read: its name may be misspelt.
func (f *File) unused(assigned map[string]int, used map[string]bool) {
	for name, line := range assigned {
		if !slices.Contains(known, name) && !used[name] {
			f.note(line, "%s is left out: nothing reads it", name)
		}
	}
}

// note adds a note, once.
func (f *File) note(line int, format string, args ...any) {
	n := Note{line, fmt.Sprintf(format, args...)}
	if !slices.Contains(f.Notes, n) {
		f.Notes = append(f.Notes, n)
	}
}

// odd is a character that has no place in a value: a control, but for blanks and ends of lines.
func odd(r rune) bool {
	return r < ' ' && r != '\t' && r != '\n' || r >= 0x7f && r < 0xa0 || r == '\u2028' || r == '\u2029' || r == '\ufeff'
}

// validName makes a name that netroot.yaml takes: lower-case letters and digits, with single dots,
// hyphens or underscores between them.
func validName(s string) string {
	var b strings.Builder
	sep := byte(0)
	for _, c := range []byte(strings.ToLower(s)) {
		switch {
		case c >= 'a' && c <= 'z' || c >= '0' && c <= '9':
			if sep != 0 && b.Len() > 0 {
				b.WriteByte(sep)
			}
			b.WriteByte(c)
			sep = 0
		case sep != 0: // one is enough
		case c == '.' || c == '_':
			sep = c
		default:
			sep = '-'
		}
	}
	return b.String()
}
