package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
)

// TestHelpFits: the help of each command fits a terminal of 80 columns, and shows a flag that is
// true or false by its name.
func TestHelpFits(t *testing.T) {
	root := newRoot(&env{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard})
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Name() == "help" || c.Name() == "completion" {
			return
		}
		var help bytes.Buffer
		c.SetOut(&help)
		if err := c.Help(); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(help.String()) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > helpWidth {
				t.Errorf("%s --help has a line of %d columns: %s", c.CommandPath(), n, line)
			}
			if strings.Contains(line, "[=true|false]") {
				t.Errorf("%s --help: %s", c.CommandPath(), line)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
}

func TestWrapParagraphs(t *testing.T) {
	const text = "one two three\nfour\n\n  as it is, however long\nfive six"
	const want = "one two\nthree four\n\n  as it is, however long\nfive six"
	if got := wrapParagraphs(text, 10); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestWrapWords(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"", ""},
		{"one two three", "one two|three"},
		{"a-word-that-is-too-long to fit", "a-word-that-is-too-long|to fit"},
	} {
		if got := strings.Join(wrapWords(test.text, 8), "|"); got != test.want {
			t.Errorf("%q: %q, want %q", test.text, got, test.want)
		}
	}
}

// commands calls do with every command that users see.
func commands(c *cobra.Command, do func(*cobra.Command)) {
	do(c)
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			commands(sub, do)
		}
	}
}

// TestSuperfluousArguments holds all commands to exit status 2 for an argument that they do not
// expect.
func TestSuperfluousArguments(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	commands(newRoot(&env{}), func(c *cobra.Command) {
		if c.HasAvailableSubCommands() || c.Name() == "exec" || c.Name() == "build" {
			return
		}
		if strings.Contains(c.Use, "...") || strings.Contains(c.CommandPath(), "completion") {
			return // takes any number
		}
		args := append(strings.Fields(c.CommandPath())[1:], "--state", dir, "a", "b", "c")
		var said strings.Builder
		if code := run(t.Context(), args, strings.NewReader(""), &said, &said); code != exitUsage {
			t.Errorf("netroot %s: exit status %d: %s", strings.Join(args, " "), code, said.String())
		}
	})
}
