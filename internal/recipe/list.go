package recipe

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"netroot/internal/nearest"
)

// files parses a %files section with its "from STAGE".
func (p *parser) files(b *block) (f FilesBlock, err error) {
	f.Line = b.line
	if f.From, err = p.from(b); err != nil {
		return f, err
	}
	f.Entries, err = p.entries(b)
	return f, err
}

// from returns the stage that a %files section copies from, "" for the host. Two words mean the
// stage that the second one names: Apptainer does not read the first, so "FROM stage" and "form
// stage" do, too. Anything else is an error: Apptainer ignores such a section, and a file of the host
// must not be copied where one of a stage may be meant.
func (p *parser) from(b *block) (string, error) {
	const fix = "write %files from STAGE, and each file on its own line"
	args := strings.Fields(p.uncomment(b.args))
	given := strings.Join(args, " ")
	switch {
	case len(args) == 0:
		return "", nil
	case len(args) != 2:
		return "", p.fail(b.line, "%files", fmt.Sprintf("%q does not name one stage", given), fix)
	case args[0] == "from":
		return args[1], p.checkEarlier(b.line, args[1])
	case !strings.EqualFold(args[0], "from") && !slices.Contains(p.earlier, args[1]):
		return "", p.fail(b.line, "%files", fmt.Sprintf("%q does not name an earlier stage", given), fix)
	}
	p.warn(b.line, "%files", fmt.Sprintf("%q means \"from %s\"", given, args[1]), "write %files from "+args[1])
	return args[1], p.checkEarlier(b.line, args[1])
}

// checkEarlier refuses the name of a stage that does not begin before this one.
func (p *parser) checkEarlier(line int, name string) error {
	if slices.Contains(p.earlier, name) {
		return nil
	}
	fix := `give an earlier stage that name with "Stage: ` + name + `"`
	if like := nearest.Name(name, p.earlier); like != "" {
		fix = fmt.Sprintf("did you mean %s?", like)
	}
	return p.fail(line, "%files", fmt.Sprintf("there is no earlier stage %q", name), fix)
}

func (p *parser) entries(b *block) ([]FileEntry, error) {
	entries := []FileEntry{}
	for i, text := range b.body {
		line := b.first + i
		if isIdle(text) {
			continue
		}
		words, err := p.words(text)
		switch {
		case errors.Is(err, errOpenQuote):
			return nil, p.fail(line, b.section(), err.Error(), `close it, or put a name that holds a quote between quotes of the other kind`)
		case errors.Is(err, errInnerQuote):
			return nil, p.fail(line, b.section(), err.Error(), "put the whole name in quotes")
		case err != nil:
			return nil, p.fail(line, b.section(), err.Error(), `write "`)
		case words[0] == "":
			return nil, p.fail(line, b.section(), "the source is empty", "name a file")
		}
		e := FileEntry{Src: words[0], Line: line}
		if len(words) > 1 {
			e.Dst = words[1]
		}
		if at := expandable.FindString(e.Dst); at != "" {
			p.warn(line, b.section(), fmt.Sprintf("%q in the destination is not expanded, so the name contains it literally", at), "write the name out")
		}
		switch {
		case p.strict && e.Dst == "#":
			p.warn(line, b.section(), `Apptainer uses the "#" after the source as the destination`, "write the comment on its own line")
		case len(words) > 2 && !strings.HasPrefix(words[2], "#"):
			p.warn(line, b.section(), fmt.Sprintf("%q is ignored: a line has one source and one destination", strings.Join(words[2:], " ")), "put a name that contains blanks in quotes")
		}
		entries = append(entries, e)
	}
	return entries, nil
}

// expandable matches what a shell would expand, and what %files expands only in a source.
var expandable = regexp.MustCompile(`^~|\$\{?\w+\}?|[*?]|\[[^\]]*\]|\{[^}]*,[^}]*\}`)

var (
	errOpenQuote   = errors.New("a quote is not closed")
	errSingleQuote = errors.New("Apptainer misreads single quotes")
	errInnerQuote  = errors.New("Apptainer ends a word at a quote inside it")
)

// words splits a line of %files, which is neither blank nor a comment, at blanks. Quotes of both
// kinds keep blanks together and are removed.
func (p *parser) words(text string) ([]string, error) {
	var words []string
	var word strings.Builder
	open := false // a word has begun; it may be empty, as in ""
	text = strings.TrimSpace(text)
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case isBlank(c):
			if open {
				words = append(words, word.String())
				word.Reset()
				open = false
			}
		case c == '#' && !open && !p.strict:
			return words, nil
		case c == '\'' && p.strict:
			return nil, errSingleQuote
		case c == '\'' || c == '"':
			end := strings.IndexByte(text[i+1:], c)
			if end < 0 {
				return nil, errOpenQuote
			}
			if after := i + 2 + end; p.strict && (open || after < len(text) && !isBlank(text[after])) {
				return nil, errInnerQuote
			}
			word.WriteString(text[i+1 : i+1+end])
			open = true
			i += 1 + end
		default:
			word.WriteByte(c)
			open = true
		}
	}
	if open {
		words = append(words, word.String())
	}
	return words, nil
}

// isBlank reports whether a byte separates words: the \s of a regular expression (RE2) on one line.
func isBlank(c byte) bool { return c == ' ' || c == '\t' || c == '\f' || c == '\r' }

// labels parses "KEY value" lines. There is no quoting, and a '#' after a value is part of the
// value.
func (p *parser) labels(b *block) []Pair {
	blanks := " \t"
	if p.strict {
		blanks = " "
	}
	var pairs []Pair
	for i, text := range b.body {
		if isIdle(text) {
			continue
		}
		pair := Pair{Key: strings.TrimSpace(text), Line: b.first + i}
		if at := strings.IndexAny(pair.Key, blanks); at >= 0 {
			pair.Key, pair.Value = strings.TrimSpace(pair.Key[:at]), strings.TrimSpace(pair.Key[at:])
		}
		pairs = append(pairs, pair)
	}
	return pairs
}

// assignments parses "KEY=value" lines: %arguments, or a file of build arguments.
func (p *parser) assignments(b *block) []Pair {
	var pairs []Pair
	for i, text := range b.body {
		if isIdle(text) {
			continue
		}
		key, value, ok := strings.Cut(text, "=")
		if key = strings.TrimSpace(key); !ok || key == "" {
			section := ""
			if b.name != "" {
				section = b.section()
			}
			p.warn(b.first+i, section, fmt.Sprintf("%q is skipped, because it is not KEY=VALUE", strings.TrimSpace(text)), "")
			continue
		}
		pairs = append(pairs, Pair{Key: key, Value: strings.TrimSpace(value), Line: b.first + i})
	}
	return pairs
}

// setPairs adds pairs. A later pair replaces an earlier one with the same key.
func setPairs(all, more []Pair) []Pair {
	for _, pair := range more {
		if i := slices.IndexFunc(all, func(o Pair) bool { return o.Key == pair.Key }); i >= 0 {
			all[i] = pair
			continue
		}
		all = append(all, pair)
	}
	return all
}
