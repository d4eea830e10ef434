package export

import (
	"fmt"
	"slices"
	"strings"
)

// Entry is an entry in the configuration of pxelinux (SYSLINUX's doc/syslinux.txt).
type Entry struct {
	Name    string // name that a user types and that DEFAULT refers to: "debian12"
	Title   string // title in a menu
	Kernel  string // file below the TFTP server's root, or for lpxelinux a URL
	Initrds []string
	Cmdline []string // kernel arguments
}

// Default says whether an entry becomes the default, which machines boot without a choice.
type Default int

// These are the choices.
const (
	DefaultUnlessForeign Default = iota // unless the file already has another DEFAULT
	DefaultYes
	DefaultNo
)

// maxAppend is the space for the kernel command line that is left when pxelinux has added
// BOOT_IMAGE=, BOOTIF= and initrd=.
const maxAppend = 2047 - 50

// text renders the entry. IPAPPEND 2 makes pxelinux add BOOTIF=, which tells a node the interface
// that it booted from.
func (e Entry) text() (string, error) {
	all := slices.Concat([]string{e.Name, e.Title, e.Kernel}, e.Initrds, e.Cmdline)
	for _, s := range all {
		if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return "", fmt.Errorf("pxelinux entry %s: %q is empty or has control characters", e.Name, s)
		}
	}
	initrd, cmdline := strings.Join(e.Initrds, ","), strings.Join(e.Cmdline, " ")
	if n := len(cmdline) + len(initrd) + len(e.Kernel); n > maxAppend {
		return "", fmt.Errorf("pxelinux entry %s: the kernel command line has %d bytes, but the limit is %d: shorten cmdline", e.Name, n, maxAppend)
	}
	return fmt.Sprintf("LABEL %s\n    MENU LABEL %s\n    KERNEL %s\n    INITRD %s\n    APPEND %s\n    IPAPPEND 2\n", e.Name, e.Title, e.Kernel, initrd, cmdline), nil
}

// These lines surround what netroot wrote: an entry, with its name, or the default. No entry has
// the name of the default block.
const (
	blockBegin   = "# netroot: begin "
	blockEnd     = "# netroot: end "
	defaultBlock = "(default)"
)

// Menu is a pxelinux.cfg/default: lines of other authors, and netroot's blocks between them.
type Menu struct {
	parts []menuPart
}

type menuPart struct {
	block string // name of netroot's block; empty: a line of another author
	text  string // text with its line ends, without the marks
}

// ParseMenu splits the text into lines and blocks. file is used in errors.
func ParseMenu(file, text string) (*Menu, error) {
	m := &Menu{}
	open, began := "", 0
	number := 0
	for line := range strings.Lines(text) {
		number++
		bare := strings.TrimSpace(line)
		begin, isBegin := strings.CutPrefix(bare, strings.TrimSpace(blockBegin)+" ")
		end, isEnd := strings.CutPrefix(bare, strings.TrimSpace(blockEnd)+" ")
		switch {
		case isBegin && open != "" || isEnd && end != open:
			return nil, fmt.Errorf("%s:%d: netroot's block %s, which begins in line %d, has no end: add %q at its end", file, number, open, began, blockEnd+open)
		case isBegin:
			open, began = begin, number
			m.parts = append(m.parts, menuPart{block: begin})
		case isEnd:
			open = ""
		case open != "":
			m.parts[len(m.parts)-1].text += line
		default:
			m.parts = append(m.parts, menuPart{text: line})
		}
	}
	if open != "" {
		return nil, fmt.Errorf("%s:%d: netroot's block %s has no end: add %q at its end", file, began, open, blockEnd+open)
	}
	return m, nil
}

// Text renders the menu.
func (m *Menu) Text() string {
	var b strings.Builder
	for _, p := range m.parts {
		if p.block == "" {
			b.WriteString(p.text)
			continue
		}
		if s := b.String(); s != "" && !strings.HasSuffix(s, "\n") {
			b.WriteByte('\n')
		}
		b.WriteString(blockBegin + p.block + "\n" + p.text)
		if !strings.HasSuffix(p.text, "\n") {
			b.WriteByte('\n')
		}
		b.WriteString(blockEnd + p.block + "\n")
	}
	return b.String()
}

// Put replaces the entry with the same name, or adds the entry at the end. foreign is another
// author's DEFAULT, if it stays the default.
func (m *Menu) Put(e Entry, d Default) (foreign string, err error) {
	text, err := e.text()
	if err != nil {
		return "", err
	}
	foreign, others := m.foreign(e.Name)
	if others {
		return "", fmt.Errorf("it already has an entry %s, which netroot did not write: rename that entry, or the label", e.Name)
	}
	m.set(e.Name, text, false)
	if d == DefaultNo || d == DefaultUnlessForeign && foreign != "" {
		return foreign, nil
	}
	text = "DEFAULT " + e.Name + "\n"
	if foreign == "" && !m.hasKeyword("prompt") {
		text += "PROMPT 0\n"
	}
	// Of several DEFAULTs pxelinux uses the last (tested with 6.04), so ours is after another
	// one, and otherwise at the beginning.
	m.parts = slices.DeleteFunc(m.parts, func(p menuPart) bool { return p.block == defaultBlock })
	m.set(defaultBlock, text, foreign == "")
	return "", nil
}

// set replaces a block, or adds it at the beginning or the end.
func (m *Menu) set(name, text string, first bool) {
	i := slices.IndexFunc(m.parts, func(p menuPart) bool { return p.block == name })
	switch {
	case i >= 0:
		m.parts[i].text = text
	case first:
		m.parts = slices.Insert(m.parts, 0, menuPart{name, text})
	default:
		m.parts = append(m.parts, menuPart{name, text})
	}
}

// foreign searches the lines of other authors for their DEFAULT, and for an entry with the name.
func (m *Menu) foreign(name string) (fallback string, taken bool) {
	for _, p := range m.parts {
		word, rest, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(p.text, "\t", " ")), " ")
		switch {
		case p.block != "":
		case strings.EqualFold(word, "default"):
			fallback = strings.TrimSpace(rest)
		case strings.EqualFold(word, "label") && strings.TrimSpace(rest) == name:
			taken = true
		}
	}
	return fallback, taken
}

// hasKeyword reports whether a line of another author begins with the keyword.
func (m *Menu) hasKeyword(keyword string) bool {
	return slices.ContainsFunc(m.parts, func(p menuPart) bool {
		word, _, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(p.text, "\t", " ")), " ")
		return p.block == "" && strings.EqualFold(word, keyword)
	})
}
