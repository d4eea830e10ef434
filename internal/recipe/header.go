package recipe

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"netroot/internal/nearest"
)

// These are the keys of a header in their usual spelling: Apptainer's keys, and those of
// Singularity 2. OtherURL also takes a number.
var (
	headerKeys = []string{"Bootstrap", "From", "IncludeCmd", "MirrorURL", "UpdateURL", "OSVersion", "Include",
		"Library", "Registry", "Namespace", "Stage", "Product", "User", "RegCode", "ProductPGP", "RegisterURL",
		"Modules", "Fingerprints", "ConfURL", "SetOpt", "Target", "Frontend", "Filename", "BuildArgs"}
	oldHeaderKeys = []string{"MetaLink", "UpdateMetaLink", "GPG"}
)

const otherURL = "OtherURL"

// header reads the keys of a stage.
func (p *parser) header(b *block) (Header, error) {
	var h Header
	for i := 0; i < len(b.body); i++ {
		line, text := b.first+i, b.body[i]
		if isIdle(text) {
			continue
		}
		key, value, ok := strings.Cut(text, ":")
		if !ok {
			return nil, p.fail(line, headerSection, fmt.Sprintf("%q has no colon", strings.TrimSpace(text)), `write "Key: value", or end the previous line with \ to continue it`)
		}
		key, err := p.key(line, strings.TrimSpace(key))
		if err != nil {
			return nil, err
		}
		value, i, err = p.value(b, i, value)
		if err != nil {
			return nil, err
		}
		f := Field{Key: key, Value: value, Line: line}
		if at := h.index(key); at >= 0 {
			p.warn(line, headerSection, fmt.Sprintf("%s is already in line %d; the later value counts", key, h[at].Line), "")
			h[at] = f
			continue
		}
		h = append(h, f)
	}
	if i := h.index("Bootstrap"); i > 0 {
		f := h[i]
		h = slices.Insert(slices.Delete(h, i, i+1), 0, f)
	}
	return h, nil
}

// key returns the usual spelling of a key.
func (p *parser) key(line int, key string) (string, error) {
	known := headerKeys
	if !p.strict {
		known = slices.Concat(headerKeys, oldHeaderKeys)
	}
	for _, k := range known {
		if strings.EqualFold(k, key) {
			return k, nil
		}
	}
	if n := len(otherURL); len(key) > n && strings.EqualFold(key[:n], otherURL) && strings.Trim(key[n:], "0123456789") == "" {
		return otherURL + key[n:], nil
	}
	fix := "use one of " + strings.Join(known, ", ") + " and OtherURL with a number"
	if like := nearest.Name(key, known); like != "" {
		fix = fmt.Sprintf("did you mean %s?", like)
	}
	return "", p.fail(line, headerSection, fmt.Sprintf("unknown key %q", key), fix)
}

// value reads the text after the colon and the lines that continue it: '\' at the end joins the
// next line without a blank, `\n\` joins it with a line break. It returns the index of the last
// line that it read. Where Apptainer panics, drops the value or treats it as missing, the default
// dialect takes the text literally.
func (p *parser) value(b *block, i int, value string) (string, int, error) {
	line := b.first + i
	value = p.uncomment(value)
	for strings.HasSuffix(value, `\`) {
		if head, ok := strings.CutSuffix(value, `\n\`); ok {
			value = head + "\n"
		} else {
			value = strings.TrimSuffix(value, `\`)
		}
		if value == "" && p.strict {
			return "", i, p.fail(line, headerSection, "the value begins on the next line, so Apptainer treats it as missing", "begin the value on this line")
		}
		i++
		for !p.strict && i < len(b.body) && strings.HasPrefix(strings.TrimSpace(b.body[i]), "#") {
			i++
		}
		next := ""
		if i < len(b.body) {
			next = p.uncomment(b.body[i])
		}
		if next != "" {
			value += next
			continue
		}
		const msg, fix = `the line ends with \ but nothing continues it`, `remove the \`
		if p.strict {
			return "", i, p.fail(b.first+i-1, headerSection, msg+" (Apptainer panics or drops it)", fix)
		}
		p.warn(b.first+i-1, headerSection, msg, fix)
		value = strings.TrimRightFunc(value, func(r rune) bool { return r == '\\' || unicode.IsSpace(r) })
	}
	return strings.TrimSpace(value), i, nil
}

// uncomment removes a comment and the blanks around the remaining text. Apptainer cuts at any '#',
// even in a URL.
func (p *parser) uncomment(text string) string {
	text = strings.TrimSpace(text)
	for i := range len(text) {
		if text[i] == '#' && (p.strict || i == 0 || text[i-1] == ' ' || text[i-1] == '\t') {
			return strings.TrimSpace(text[:i])
		}
	}
	return text
}
