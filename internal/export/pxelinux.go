package export

import (
	"fmt"
	"slices"
	"strings"
)

// Entry is one entry of pxelinux's configuration (SYSLINUX's doc/syslinux.txt).
type Entry struct {
	Name    string // what a person types, and DEFAULT names: "debian12"
	Title   string // what a menu shows
	Kernel  string // file below the TFTP server's root, or a URL for lpxelinux
	Initrds []string
	Cmdline []string // kernel arguments
}

// Default says whether an entry becomes the one that machines boot by themselves.
type Default int

// The choices.
const (
	DefaultUnlessForeign Default = iota // unless somebody else's DEFAULT is there
	DefaultYes
	DefaultNo
)

// maxAppend is what is left of a kernel's command line when pxelinux has added BOOT_IMAGE=, BOOTIF= and initrd=.
const maxAppend = 2047 - 50

// text renders the entry. IPAPPEND 2 has pxelinux add BOOTIF=, by which a node knows the interface it came from.
func (e Entry) text() (string, error) {
	all := slices.Concat([]string{e.Name, e.Title, e.Kernel}, e.Initrds, e.Cmdline)
	for _, s := range all {
		if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return "", fmt.Errorf("the entry %s of pxelinux: %q is empty or has control characters", e.Name, s)
		}
	}
	initrd, cmdline := strings.Join(e.Initrds, ","), strings.Join(e.Cmdline, " ")
	if n := len(cmdline) + len(initrd) + len(e.Kernel); n > maxAppend {
		return "", fmt.Errorf("the entry %s of pxelinux: the kernel command line has %d bytes and %d fit: shorten cmdline", e.Name, n, maxAppend)
	}
	return fmt.Sprintf("LABEL %s\n    MENU LABEL %s\n    KERNEL %s\n    INITRD %s\n    APPEND %s\n    IPAPPEND 2\n", e.Name, e.Title, e.Kernel, initrd, cmdline), nil
}

// Between these lines is what netroot wrote: an entry, by its name, or the choice of the default. No entry is called so.
const (
	blockBegin   = "# netroot: begin "
	blockEnd     = "# netroot: end "
	defaultBlock = "(default)"
)

// Menu is a pxelinux.cfg/default: lines of others, and blocks of ours between them.
type Menu struct {
	parts []menuPart
}

type menuPart struct {
	block string // the name of a block of ours; empty: a line of somebody else's
	text  string // with its ends of lines, without the marks
}

// ParseMenu cuts the text into lines and blocks. The file is named for errors.
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
			return nil, fmt.Errorf("%s:%d: netroot's block %s, begun in line %d, has no end: put %q where it ends", file, number, open, began, blockEnd+open)
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
		return nil, fmt.Errorf("%s:%d: netroot's block %s has no end: put %q where it ends", file, began, open, blockEnd+open)
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

// Put puts the entry in the place of the one of its name, or behind all others, and tells which DEFAULT of somebody else
// keeps it from being what machines boot, if one does.
func (m *Menu) Put(e Entry, d Default) (foreign string, err error) {
	text, err := e.text()
	if err != nil {
		return "", err
	}
	foreign, others := m.foreign(e.Name)
	if others {
		return "", fmt.Errorf("it has an entry %s already, which is somebody else's: rename that one, or the label", e.Name)
	}
	m.set(e.Name, text, false)
	if d == DefaultNo || d == DefaultUnlessForeign && foreign != "" {
		return foreign, nil
	}
	text = "DEFAULT " + e.Name + "\n"
	if foreign == "" && !m.says("prompt") {
		text += "PROMPT 0\n"
	}
	// Of several DEFAULTs pxelinux takes the last (6.04 was asked), so ours is behind another's, and else comes first.
	m.parts = slices.DeleteFunc(m.parts, func(p menuPart) bool { return p.block == defaultBlock })
	m.set(defaultBlock, text, foreign == "")
	return "", nil
}

// set replaces a block, or adds it at one of the ends.
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

// foreign looks through the lines of others: for their DEFAULT, and for an entry of that name.
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

// says is whether somebody else's line begins with the keyword.
func (m *Menu) says(keyword string) bool {
	return slices.ContainsFunc(m.parts, func(p menuPart) bool {
		word, _, _ := strings.Cut(strings.TrimSpace(strings.ReplaceAll(p.text, "\t", " ")), " ")
		return p.block == "" && strings.EqualFold(word, keyword)
	})
}
