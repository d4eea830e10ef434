package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"netroot/internal/term"
)

// say prints a message for people to standard error.
func (e *env) say(format string, args ...any) { say(e.stderr, fmt.Sprintf(format, args...)) }

// say prints a message, with the name of the program before each of its lines that is not
// indented. A terminal gets it wrapped.
func say(w io.Writer, text string) {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i, line := range lines {
		if i == 0 || line != "" && line[0] != ' ' && line[0] != '\t' {
			lines[i] = "netroot: " + line
		}
	}
	fmt.Fprintln(w, term.Wrap(strings.Join(lines, "\n"), term.Columns(w), "  "))
}

// sayCommand is say for a command of the shell. A terminal gets it wrapped in such a way that it can
// be copied.
func (e *env) sayCommand(before, command string) {
	const indent, end = "  ", " \\"
	width := term.Columns(e.stderr)
	if width == 0 {
		e.say("%s %s", before, command)
		return
	}
	wrapped := term.Wrap(indent+command, max(width-len(end), 1), indent)
	e.say("%s", before)
	fmt.Fprintln(e.stderr, strings.ReplaceAll(wrapped, "\n", end+"\n"))
}

// print writes a text to standard output. A terminal gets it wrapped, the rest of a line two columns
// to the right.
func (e *env) print(text string) error { return e.printIndented(text, 2) }

func (e *env) printIndented(text string, indent int) error {
	_, err := io.WriteString(e.stdout, term.Wrap(text, term.Columns(e.stdout), strings.Repeat(" ", indent)))
	return err
}

// wrapped is print for what writes itself.
func (e *env) wrapped(write func(io.Writer) error) error {
	var b strings.Builder
	if err := write(&b); err != nil {
		return err
	}
	return e.print(b.String())
}

// json writes the one document of a command with --json.
func (e *env) json(v any) error {
	e.answered = true
	return term.JSON(e.stdout, v)
}

// table prints rows, on a terminal as many columns as it has room for unless wide.
func (e *env) table(rows [][]string, wide bool) error {
	width := 0
	if !wide {
		width = term.Columns(e.stdout)
	}
	return term.Table(e.stdout, term.Fit(rows, width))
}

// wideFlag gives a command that prints a table the flag for table's wide.
func wideFlag(cmd *cobra.Command, wide *bool) {
	cmd.Flags().BoolVar(wide, "wide", false, "all columns, even if the terminal is too narrow")
}

// jsonEvents is the annotation of a command whose --json prints an event a line instead of one
// document.
const jsonEvents = "events"

// failure is what a command with --json prints to standard output instead of its document.
type failure struct {
	Error string `json:"error"`
}

// fail reports the error with which a command ended: a message for people, and with --json an
// object as well.
func (e *env) fail(cmd *cobra.Command, args []string, err error) {
	say(e.stderr, err.Error())
	_, events := cmd.Annotations[jsonEvents]
	switch {
	case !wantsJSON(cmd, args), e.answered:
	case events:
		term.JSONLine(e.stdout, term.Event{Time: time.Now(), Kind: term.Failed, Error: err.Error()}) // stderr has it, too
	default:
		term.JSON(e.stdout, failure{err.Error()}) // the same
	}
}

// wantsJSON tells whether a command was to print JSON, also when its flags could not be read.
func wantsJSON(cmd *cobra.Command, args []string) bool {
	flag := cmd.Flags().Lookup("json")
	switch {
	case flag == nil && !cmd.HasSubCommands():
		return false
	case flag != nil && flag.Changed:
		return flag.Value.String() == "true"
	}
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	return slices.Contains(args, "--json")
}
