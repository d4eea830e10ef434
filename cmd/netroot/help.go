package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// helpWidth is the width of help texts in columns: that of a terminal nobody has enlarged.
const helpWidth = 80

// flagColumn is where the descriptions of flags start. A flag that is longer has its description
// below it.
const flagColumn = 26

// setHelp has the help of a command and of all commands below it fit the width.
func setHelp(root *cobra.Command) {
	cobra.AddTemplateFunc("flagUsages", flagUsages)
	template := root.UsageTemplate()
	for _, flags := range []string{".LocalFlags", ".InheritedFlags"} {
		template = strings.ReplaceAll(template, "{{"+flags+".FlagUsages | trimTrailingWhitespaces}}", "{{flagUsages "+flags+" | trimTrailingWhitespaces}}")
	}
	root.SetUsageTemplate(template)
	wrapLong(root)
}

// wrapLong wraps the long text of a command and of all commands below it.
func wrapLong(c *cobra.Command) {
	c.Long = wrapParagraphs(c.Long, helpWidth)
	for _, sub := range c.Commands() {
		wrapLong(sub)
	}
}

// wrapParagraphs wraps each paragraph of a text. Lines that begin with a blank stay as they are.
func wrapParagraphs(text string, width int) string {
	var out, paragraph []string
	end := func() {
		if len(paragraph) > 0 {
			out = append(out, wrapWords(strings.Join(paragraph, " "), width)...)
		}
		paragraph = nil
	}
	for line := range strings.SplitSeq(text, "\n") {
		if line == "" || line[0] == ' ' || line[0] == '\t' {
			end()
			out = append(out, line)
			continue
		}
		paragraph = append(paragraph, line)
	}
	end()
	return strings.Join(out, "\n")
}

// flagUsages lists flags with their descriptions. Unlike pflag's own list it is wrapped, and a flag
// that is true or false is shown by its name alone.
func flagUsages(flags *pflag.FlagSet) string {
	var b strings.Builder
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, text := pflag.UnquoteUsage(f)
		left := "      --" + f.Name
		if f.Shorthand != "" {
			left = "  -" + f.Shorthand + ", --" + f.Name
		}
		if f.Value.Type() != "bool" && value != "" {
			left += " " + value
		}
		if shown := defaultText(f); shown != "" {
			text += " (default " + shown + ")"
		}
		if len(left)+2 > flagColumn {
			b.WriteString(left + "\n")
			left = ""
		}
		for _, line := range wrapWords(text, helpWidth-flagColumn) {
			fmt.Fprintf(&b, "%-*s%s\n", flagColumn, left, line)
			left = ""
		}
	})
	return b.String()
}

// defaultText is the default of a flag where it tells the reader something.
func defaultText(f *pflag.Flag) string {
	switch f.DefValue {
	case "", "false", "0", "[]", "0s":
		return ""
	}
	if f.Value.Type() == "string" {
		return fmt.Sprintf("%q", f.DefValue)
	}
	return f.DefValue
}

// wrapWords cuts a text into lines of at most so many bytes, at blanks. A longer word has a line of
// its own.
func wrapWords(text string, width int) []string {
	lines := []string{""}
	for word := range strings.FieldsSeq(text) {
		last := &lines[len(lines)-1]
		switch {
		case *last == "":
			*last = word
		case len(*last)+1+len(word) <= width:
			*last += " " + word
		default:
			lines = append(lines, word)
		}
	}
	return lines
}
