package hostsfile

import (
	"fmt"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// YAML renders the file as a netroot.yaml in the directory dir. From is what the header names as
// its origin.
func (f *File) YAML(from, dir string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("# Made by \"netroot import\" from %s. docs/netroot.yaml.md describes every key.", printable(from))
	tftp := f.tftp()
	if tftp != "" {
		line("#")
		line("# TFTPBOOT was %s; to fill it:", printable(relative(dir, tftp)))
		line("#     netroot export pxelinux LABEL --server ADDRESS -o %s", printable(relative(dir, tftp)))
	}
	line("")
	line("labels:")
	for i, l := range f.Labels {
		if i > 0 {
			line("")
		}
		l.yaml(line, dir, tftp)
	}
	return b.String()
}

// tftp is the TFTPBOOT of all labels, if it is one.
func (f *File) tftp() string {
	dir := f.Labels[0].TFTP
	for _, l := range f.Labels {
		if l.TFTP != dir {
			return ""
		}
	}
	return dir
}

func (l Label) yaml(line func(string, ...any), dir, tftp string) {
	for _, c := range l.Comments {
		line("  # %s", printable(c))
	}
	if l.Original != l.Name {
		line("  # was called %s", printable(l.Original))
	}
	line("  %s:", scalar(l.Name))
	path := func(key, value string) {
		if value != "" {
			line("    %s: %s", key, scalar(relative(dir, value)))
		}
	}
	path("recipe", l.Recipe)
	path("tree", l.Tree)
	if l.RW {
		line("    rw: true")
	}
	if l.Debug {
		line("    debug: true")
	}
	if l.Cmdline != "" {
		line("    cmdline: %s", scalar(l.Cmdline))
	}
	list := func(key string, values []string, text func(string) string) {
		if len(values) == 0 {
			return
		}
		var words []string
		for _, v := range values {
			words = append(words, text(v))
		}
		line("    %s: [%s]", key, strings.Join(words, ", "))
	}
	list("layers", l.Layers, scalar)
	list("qemu", l.Qemu, quote)
	if l.Memory > 0 {
		line("    vm:")
		line("      memory: %dM", l.Memory)
	}
	if l.TFTP != "" && l.TFTP != tftp {
		line("    # TFTPBOOT was %s: netroot export pxelinux %s --server ADDRESS -o %[1]s", printable(relative(dir, l.TFTP)), l.Name)
	}
}

// relative is the path as seen from dir where it lies below it.
func relative(dir, path string) string {
	rel, err := filepath.Rel(dir, path)
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return path
	}
	return rel
}

// scalar is s as it is where YAML reads it as that text, and else in quotes.
func scalar(s string) string {
	plain := s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-") == ""
	first := byte(' ')
	if plain {
		first = s[0]
	}
	word := strings.ToLower(s)
	if !plain || strings.IndexByte("-.0123456789", first) >= 0 || strings.Contains(" y n yes no on off true false null nan ", " "+word+" ") {
		return quote(s)
	}
	return s
}

// quote is s in double quotes, with the escapes of YAML 1.2, 5.7.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ': // what odd leaves of them
			fmt.Fprintf(&b, "\\x%02x", r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// printable makes any text the rest of a comment.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if odd(r) || r == '\t' || r == '\n' || r == utf8.RuneError {
			return ' '
		}
		return r
	}, s)
}
