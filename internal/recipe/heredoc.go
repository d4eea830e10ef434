package recipe

import (
	"regexp"
	"strings"
)

// heredoc is a here-document that a line of shell opens.
type heredoc struct {
	word string // the line that ends it
	tabs bool   // "<<-": tabs before the word are ignored
	line int    // line of the "<<"
}

func (h heredoc) endedBy(text string) bool {
	if h.tabs {
		text = strings.TrimLeft(text, "\t")
	}
	return text == h.word
}

// heredocs tracks the here-documents of scripts. The package comment describes how it recognizes
// them, and why it is careful.
type heredocs struct {
	last, lastTabs map[string]int // line text (without leading tabs) -> last such line
	pending        []heredoc      // open here-document, and those after it on its line
	begun          int            // line of the here-document that inside reported last
}

// index prepares heredocs for a file.
func (d *heredocs) index(lines []string) {
	d.last, d.lastTabs = make(map[string]int), make(map[string]int)
	for i, text := range lines {
		d.last[text] = i + 1
		d.lastTabs[strings.TrimLeft(text, "\t")] = i + 1
	}
}

// open records the here-documents that a line opens.
func (d *heredocs) open(n int, text string) {
	for _, h := range findHeredocs(text) {
		h.line = n
		d.pending = append(d.pending, h)
	}
	d.drop(n)
}

// inside reports whether a line is text or the end of a here-document.
func (d *heredocs) inside(n int, text string) bool {
	if len(d.pending) == 0 {
		return false
	}
	h := d.pending[0]
	d.begun = h.line
	if h.endedBy(text) {
		d.pending = d.pending[1:]
		d.drop(n)
	}
	return true
}

// drop removes the here-documents that no line after n ends.
func (d *heredocs) drop(n int) {
	for len(d.pending) > 0 {
		h, last := d.pending[0], d.last
		if h.tabs {
			last = d.lastTabs
		}
		if last[h.word] > n {
			return
		}
		d.pending = d.pending[1:]
	}
}

// heredocWord matches the text after "<<". A word can be bare, quoted, or follow a backslash.
var heredocWord = regexp.MustCompile(`^(-?)[ \t]*(?:'([\w.-]+)'|"([\w.-]+)"|\\?([\w.-]+))`)

// findHeredocs finds the here-documents in one line. It ignores the lines before: a quote that is
// not closed on the line does not count, so it finds the here-documents of both `x="$(cat <<EOF`
// and `' file <<EOF`.
func findHeredocs(text string) []heredoc {
	var found []heredoc
	for i := 0; i < len(text); i++ {
		rest := text[i:]
		switch c := text[i]; {
		case c == '\\':
			i++
		case c == '\'' || c == '"':
			i += max(0, closingQuote(rest))
		case c == '#' && (i == 0 || strings.IndexByte(" \t;&|(", text[i-1]) >= 0):
			return found
		case strings.HasPrefix(rest, "<<<"):
			i += 2
		case strings.HasPrefix(rest, "<<"):
			i++
			m := heredocWord.FindStringSubmatch(rest[2:])
			if m == nil {
				continue
			}
			i += len(m[0])
			if i+1 == len(text) || strings.IndexByte(" \t;&|<>()", text[i+1]) >= 0 {
				found = append(found, heredoc{word: m[2] + m[3] + m[4], tabs: m[1] != ""})
			}
		}
	}
	return found
}

// closingQuote returns the index of the quote that closes the one at s[0], or -1.
func closingQuote(s string) int {
	for i := 1; i < len(s); i++ {
		switch {
		case s[i] == s[0]:
			return i
		case s[i] == '\\' && s[0] == '"':
			i++
		}
	}
	return -1
}
