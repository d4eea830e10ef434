package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/cpuguy83/go-md2man/v2/md2man"
)

// docPages are the manual pages that are made of pages in docs: files and subjects that belong to
// no verb.
var docPages = []struct{ page, source, name string }{
	{"netroot.yaml.5", "netroot.yaml.md", ""}, // the source has a section NAME itself
	{"netroot-recipe.5", "recipe.md", "definition files, as netroot reads them"},
	{"netroot-layers.7", "layers.md", "files that are laid over the root of some machines"},
	{"netroot-boot.7", "boot.md", "the boot of a node, step by step"},
	{"netroot-transports.7", "transports.md", "how roots reach nodes"},
	{"netroot-troubleshooting.7", "troubleshooting.md", "from a symptom to its cause and a command"},
}

// TestDocPages holds those pages against their sources.
func TestDocPages(t *testing.T) {
	for _, p := range docPages {
		source, err := os.ReadFile(filepath.Join("../../docs", p.source))
		if err != nil {
			t.Fatal(err)
		}
		want := docPage(p.page, p.name, string(source))
		path := filepath.Join(manDir, p.page)
		if *update {
			if err := os.WriteFile(path, want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != string(want) {
			t.Errorf("%s is not what docs/%s says; run this test with -update (%v)", path, p.source, err)
		}
	}
}

var (
	firstTitle = regexp.MustCompile(`(?m)\A# .*\n`)
	section    = regexp.MustCompile(`(?m)^## (.*)$`)
	link       = regexp.MustCompile(`\[([^\]]+)\]\([^)]+\)`)
)

// docPage makes a manual page of a page in docs: its sections become those of the manual.
func docPage(page, name, source string) []byte {
	title, number := strings.TrimSuffix(page, filepath.Ext(page)), strings.TrimPrefix(filepath.Ext(page), ".")
	source = firstTitle.ReplaceAllString(source, "")
	if name != "" {
		source = "## NAME\n\n" + title + " - " + name + "\n\n## DESCRIPTION\n" + source
	}
	source = section.ReplaceAllStringFunc(source, func(s string) string { return strings.ToUpper(s) })
	source = link.ReplaceAllString(source, "$1")
	source = narrow(source)
	head := strings.ToUpper(title) + " " + number + " \"Nov 2026\" \"netroot\" \"netroot\"\n=====\n\n"
	return md2man.Render([]byte(head + source))
}

// narrow turns tables that no terminal of 80 columns has room for into lists: the first cell, and
// below it the others behind the names of their columns.
func narrow(source string) string {
	const room = 66 // beside the indentation of a section and the borders of the cells
	lines := strings.Split(source, "\n")
	var out []string
	for i := 0; i < len(lines); i++ {
		var table [][]string
		widest := []int{}
		for ; i < len(lines) && strings.HasPrefix(lines[i], "|"); i++ {
			row := cells(lines[i])
			for c, text := range row {
				if c == len(widest) {
					widest = append(widest, 0)
				}
				widest[c] = max(widest[c], len(text))
			}
			table = append(table, row)
		}
		total := 0
		for _, w := range widest {
			total += w
		}
		switch {
		case len(table) > 2 && total > room:
			for _, row := range table[2:] {
				out = append(out, row[0])
				for c, text := range row[1:] {
					if len(row) > 2 && text != "" {
						text = "*" + table[0][c+1] + ":* " + text
					}
					out = append(out, ": "+strings.ReplaceAll(text, `\|`, "|"))
				}
				out = append(out, "")
			}
		default:
			for _, row := range table {
				out = append(out, "| "+strings.Join(row, " | ")+" |")
			}
		}
		if i < len(lines) {
			out = append(out, lines[i])
		}
	}
	return strings.Join(out, "\n")
}

// cells are those of one line of a table; a bar behind a backslash is part of a cell.
func cells(line string) []string {
	const bar = "\x00"
	line = strings.ReplaceAll(strings.Trim(strings.TrimSpace(line), "|"), `\|`, bar)
	var out []string
	for cell := range strings.SplitSeq(line, "|") {
		out = append(out, strings.ReplaceAll(strings.TrimSpace(cell), bar, `\|`))
	}
	return out
}
