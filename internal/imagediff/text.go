package imagediff

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"

	"netroot/internal/term"
)

var signs = map[Op]string{Added: "+", Removed: "-", Changed: "~"}

// Print prints the difference for people: packages, files and parts under headings, one line each,
// with + for added, - for removed and ~ for changed. An added or removed directory stands for
// everything in it.
func (d *Diff) Print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s -> %s\n", d.From, d.To)
	for _, f := range d.Facts {
		fmt.Fprintf(&b, "%s: %s -> %s\n", f.Name, shorten(f.Old), shorten(f.New))
	}
	if d.Empty() {
		b.WriteString("the same packages, files and parts\n")
	}
	if len(d.Packages) > 0 {
		heading(&b, "packages", d.Packages, func(p Package) Op { return p.Op })
		for _, p := range d.Packages {
			fmt.Fprintf(&b, "%s %s %s\n", signs[p.Op], p.Name, change(p.Op, p.Old, p.New))
		}
	}
	if len(d.Files) > 0 {
		heading(&b, "files", d.Files, func(f File) Op { return f.Op })
		printFiles(&b, d.Files)
	}
	if len(d.Parts) > 0 {
		heading(&b, "parts", d.Parts, func(p Part) Op { return p.Op })
		for _, p := range d.Parts {
			fmt.Fprintf(&b, "%s %s %s\n", signs[p.Op], p.Role, change(p.Op, term.Size(p.OldSize), term.Size(p.NewSize)))
		}
	}
	for _, n := range d.Notes {
		fmt.Fprintf(&b, "\n%s\n", n)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// shorten shortens a digest to a distinctive length; an empty text gets a word.
func shorten(s string) string {
	if hex, ok := strings.CutPrefix(s, "sha256:"); ok {
		return hex[:min(12, len(hex))]
	}
	if s == "" {
		return "none"
	}
	return s
}

func heading[T any](b *strings.Builder, what string, list []T, op func(T) Op) {
	count := map[Op]int{}
	for _, x := range list {
		count[op(x)]++
	}
	var parts []string
	for _, o := range []Op{Added, Removed, Changed} {
		if count[o] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count[o], o))
		}
	}
	fmt.Fprintf(b, "\n%s: %s\n", what, strings.Join(parts, ", "))
}

// change returns the only value, or the old and the new one.
func change(op Op, old, young string) string {
	switch op {
	case Added:
		return young
	case Removed:
		return old
	}
	return old + " -> " + young
}

func printFiles(b *strings.Builder, files []File) {
	for i := 0; i < len(files); i++ {
		f := files[i]
		stat := f.New
		if f.Op == Removed {
			stat = f.Old
		}
		name := Name(f.Path, stat)
		if f.Op == Changed {
			fmt.Fprintf(b, "~ %s  %s\n", name, strings.Join(explain(f), ", "))
			continue
		}
		below := 0
		for stat.Type == "directory" && i+1 < len(files) && strings.HasPrefix(files[i+1].Path, f.Path+"/") {
			below++
			i++
		}
		fmt.Fprintf(b, "%s %s%s\n", signs[f.Op], name, describe(stat, below))
	}
}

// Name returns a path for people: with a slash after directories, and quoted if it has characters
// that control a terminal.
func Name(path string, s *Stat) string {
	name := printable(path)
	if s.Type == "directory" && path != "/" {
		name += "/"
	}
	return name
}

// describe describes an added or removed file.
func describe(s *Stat, below int) string {
	switch {
	case below > 0:
		return fmt.Sprintf("  and %d below", below)
	case s.Link != "":
		return "  another name of " + printable(s.Link)
	case s.Type == "file":
		return "  " + term.Size(s.Size)
	case s.Type == "link":
		return " -> " + printable(s.Target)
	case s.Type == "directory":
		return ""
	}
	return strings.TrimRight("  "+s.Type+" "+s.Device, " ")
}

// explain returns how a file changed.
func explain(f File) []string {
	var out []string
	for _, what := range f.Differs {
		a, b := "", ""
		switch what {
		case "type":
			a, b = f.Old.Type, f.New.Type
		case "mode":
			a, b = f.Old.Mode, f.New.Mode
		case "owner":
			a, b = fmt.Sprintf("%d:%d", f.Old.UID, f.Old.GID), fmt.Sprintf("%d:%d", f.New.UID, f.New.GID)
		case "target":
			a, b = printable(f.Old.Target), printable(f.New.Target)
		case "link":
			a, b = shorten(printable(f.Old.Link)), shorten(printable(f.New.Link))
		case "device":
			a, b = f.Old.Device, f.New.Device
		case "content":
			if f.Old.Size != f.New.Size {
				a, b = term.Size(f.Old.Size), term.Size(f.New.Size)
			}
		}
		if a != b {
			what += " " + a + " -> " + b
		}
		out = append(out, what)
	}
	return out
}

// printable quotes a name that has characters that control a terminal.
func printable(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(name)
	}
	return name
}
