package term

import (
	"io"
	"os"
	"strings"
	"unicode/utf8"

	xterm "golang.org/x/term"
)

// Columns returns the present number of columns of the terminal that w is. It is 0 if w is not a
// terminal.
func Columns(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok || !xterm.IsTerminal(int(f.Fd())) {
		return 0
	}
	width, _, err := xterm.GetSize(int(f.Fd()))
	if err != nil || width <= 0 {
		return usualWidth
	}
	return width
}

// usualWidth is the number of columns of a terminal that does not tell its size.
const usualWidth = 80

// Wrap breaks the lines of a text that are longer than width columns. It breaks them at blanks
// only: a longer word, such as a path, stays whole, so that it can be copied. The rest of a line
// begins with the line's own indentation and with indent. A width of 0 is unlimited.
func Wrap(text string, width int, indent string) string {
	if width <= 0 {
		return text
	}
	var b strings.Builder
	for line := range strings.SplitAfterSeq(text, "\n") {
		body := strings.TrimSuffix(line, "\n")
		wrapLine(&b, body, width, indent)
		b.WriteString(line[len(body):])
	}
	return b.String()
}

// wrapLine appends a line to b.
func wrapLine(b *strings.Builder, line string, width int, indent string) {
	margin := line[:len(line)-len(strings.TrimLeft(line, " "))]
	column, empty := 0, true // of the present row; empty: it has no word
	for i, word := range strings.Split(line, " ") {
		n := columnsOf(word)
		if !empty && column+1+n > width {
			b.WriteString("\n" + margin + indent)
			column, empty = columnsOf(margin+indent), true
		} else if i > 0 {
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += n
		empty = empty && word == ""
	}
}

// columnsOf is the width of a text without its escape sequences.
func columnsOf(text string) int {
	return utf8.RuneCountInString(escapes.ReplaceAllString(text, ""))
}

// Facts writes rows of a name and a value, the values aligned. A value that is too long
// for width columns is wrapped; a width of 0 is unlimited.
func Facts(w io.Writer, rows [][2]string, width int) error {
	names := 0
	for _, row := range rows {
		names = max(names, utf8.RuneCountInString(row[0]))
	}
	names += gap
	var b strings.Builder
	for _, row := range rows {
		name := row[0] + strings.Repeat(" ", names-utf8.RuneCountInString(row[0]))
		if width <= 0 {
			b.WriteString(name + row[1] + "\n")
			continue
		}
		value := Wrap(row[1], max(width-names, 1), "")
		b.WriteString(name + strings.ReplaceAll(value, "\n", "\n"+strings.Repeat(" ", names)) + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}
