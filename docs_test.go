package netroot_test

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
)

// page is a page of documentation. Its lines are numbered from 1, as index 0 is
// left empty.
type page struct {
	path  string
	lines []string
	code  []bool // of each line: it is in a fenced or indented block of code
}

// pages are README.md and those of docs.
func pages(t *testing.T) []page {
	t.Helper()
	names, err := filepath.Glob("docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	if len(names) == 0 {
		t.Fatal("there is no page in docs")
	}
	var all []page
	for _, name := range append(names, "README.md") {
		all = append(all, readPage(t, name))
	}
	return all
}

func readPage(t *testing.T, name string) page {
	t.Helper()
	p := page{path: name, lines: []string{""}, code: []bool{false}}
	fenced := false
	for line := range strings.Lines(readText(t, name)) {
		line = strings.TrimRight(line, "\n")
		fence := strings.HasPrefix(line, "```")
		if fence {
			fenced = !fenced
		}
		p.lines = append(p.lines, line)
		p.code = append(p.code, fenced || fence || strings.HasPrefix(line, "    "))
	}
	return p
}

func readText(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// prose are the pages, and the other texts of the project whose form is held. ARCHITECTURE.md is
// a table for the most part.
func prose(t *testing.T) []page {
	t.Helper()
	all := pages(t)
	for _, name := range []string{"CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "findings/README.md"} {
		all = append(all, readPage(t, name))
	}
	return all
}

// TestProseIsWrapped holds prose to 100 columns. Tables and code cannot be
// wrapped.
func TestProseIsWrapped(t *testing.T) {
	for _, p := range prose(t) {
		for i, line := range p.lines {
			if n := utf8.RuneCountInString(line); n > 100 && !p.code[i] && !strings.HasPrefix(line, "|") {
				t.Errorf("%s:%d has %d columns; wrap it at 100", p.path, i, n)
			}
		}
	}
}

// sentenceEnd is the end of a sentence with the beginning of the next behind it; the point of a
// listNumber is not one.
var (
	sentenceEnd = regexp.MustCompile("[a-z0-9)`\\]][.?!] +[A-Z`]")
	listNumber  = regexp.MustCompile(`^[# ]*\d+\. `)
)

// TestSentencesBeginLines holds prose to one sentence a line, so that differences are those of
// sentences.
func TestSentencesBeginLines(t *testing.T) {
	for _, p := range prose(t) {
		for i, line := range p.lines {
			if at := sentenceEnd.FindString(listNumber.ReplaceAllString(line, "")); at != "" && !p.code[i] && !strings.HasPrefix(line, "|") {
				t.Errorf("%s:%d has a second sentence, at %q; begin a line with it", p.path, i, at)
			}
		}
	}
}

// TestReadmeNamesEveryPage holds the list of pages in README.md against the files.
func TestReadmeNamesEveryPage(t *testing.T) {
	_, list, found := strings.Cut(readText(t, "README.md"), "\n## Read on\n")
	if !found {
		t.Fatal("README.md has no section Read on")
	}
	for _, p := range append(prose(t), page{path: "ARCHITECTURE.md"}) {
		if p.path != "README.md" && !strings.Contains(list, p.path) {
			t.Errorf("README.md does not list %s under Read on", p.path)
		}
	}
}

var benchProgram = regexp.MustCompile(`(?m)^\t\$\(GO\) run (\./test/bench/\w+)`)

// TestBenchProgramsAreDescribed holds docs/performance.md against what "make bench" runs.
func TestBenchProgramsAreDescribed(t *testing.T) {
	programs := benchProgram.FindAllStringSubmatch(readText(t, "Makefile"), -1)
	if len(programs) == 0 {
		t.Fatal("Makefile runs no benchmark")
	}
	text := readText(t, "docs/performance.md")
	for _, m := range programs {
		if !strings.Contains(text, "`go run "+m[1]) {
			t.Errorf("docs/performance.md does not describe %s, which make bench runs", m[1])
		}
	}
}

var pageName = regexp.MustCompile(`\bdocs/[a-z.]+\.md\b|\b[A-Z]{4,}\.md\b`)

// TestNamedPagesExist follows the names of pages in pages and in the source.
func TestNamedPagesExist(t *testing.T) {
	texts := map[string]string{}
	for _, p := range pages(t) {
		texts[p.path] = strings.Join(p.lines, "\n")
	}
	for _, s := range sources(t) {
		texts[s.path] = readText(t, s.path)
	}
	for path, text := range texts {
		for _, name := range pageName.FindAllString(text, -1) {
			if _, err := os.Stat(name); err != nil {
				t.Errorf("%s names %s, which does not exist", path, name)
			}
		}
	}
}

var codeSpan = regexp.MustCompile("`([^`]+)`")

// TestMessagesAreInTheSource holds the messages that docs/troubleshooting.md
// quotes against the source: what a user searches for must be what is printed.
func TestMessagesAreInTheSource(t *testing.T) {
	var said strings.Builder
	for _, s := range sources(t) {
		if !s.test {
			said.WriteString(readText(t, s.path))
		}
	}
	source := strings.NewReplacer(`\"`, `"`, "%%", "%").Replace(said.String())
	p := readPage(t, "docs/troubleshooting.md")
	found, messages := 0, false
	for i, line := range p.lines {
		if !strings.HasPrefix(line, "|") {
			messages = false
			continue
		}
		first := strings.Split(strings.ReplaceAll(line, `\|`, "\x00"), "|")[1]
		if strings.TrimSpace(first) == "message" {
			messages = true
			continue
		}
		if !messages {
			continue
		}
		for _, span := range codeSpan.FindAllStringSubmatch(first, -1) {
			found++
			for part := range strings.SplitSeq(strings.ReplaceAll(span[1], "\x00", "|"), "…") {
				if !strings.Contains(source, strings.TrimSpace(part)) {
					t.Errorf("%s:%d quotes %q, which nothing in the source says", p.path, i, strings.TrimSpace(part))
				}
			}
		}
	}
	if found == 0 {
		t.Fatalf("%s quotes no message: the form of its tables has changed", p.path)
	}
}

// TestEveryKeyIsDescribed holds docs/netroot.yaml.md against the reference
// configuration, which is a test input of package config.
func TestEveryKeyIsDescribed(t *testing.T) {
	type mapping = map[string]any
	var reference struct {
		Rest   mapping            `yaml:",inline"`
		Labels map[string]mapping `yaml:"labels"`
	}
	if err := yaml.Unmarshal([]byte(readText(t, "internal/config/testdata/reference.yaml")), &reference); err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{"labels": true}
	for key := range reference.Rest {
		keys[key] = true
	}
	for _, label := range reference.Labels {
		for key := range label {
			keys[key] = true
		}
	}
	headings := map[string]bool{}
	inKeys := false
	for _, line := range readPage(t, "docs/netroot.yaml.md").lines {
		if heading, ok := strings.CutPrefix(line, "## "); ok {
			inKeys = heading == "KEYS"
		}
		if heading, ok := strings.CutPrefix(line, "### "); ok && inKeys {
			headings[heading] = true
		}
	}
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if !headings[key] {
			t.Errorf("docs/netroot.yaml.md does not describe the key %s", key)
		}
	}
	for _, heading := range slices.Sorted(maps.Keys(headings)) {
		if !keys[heading] {
			t.Errorf("docs/netroot.yaml.md describes the key %s, which the reference configuration does not have", heading)
		}
	}
}

var (
	command = regexp.MustCompile(`(?:^|[;&(] *|\$ )(?:sudo )?netroot((?: [a-z]+)+)([^;|]*)`)
	option  = regexp.MustCompile(`(?:^| )--([a-z][a-z-]+)`)
)

// TestCommandsExist holds the commands that pages show against the manual pages,
// which a test of cmd/netroot holds against the program.
func TestCommandsExist(t *testing.T) {
	checked := 0
	check := func(place, text string) {
		text, _, _ = strings.Cut(strings.TrimSpace(text), " #")
		for _, m := range command.FindAllStringSubmatch(text, -1) {
			words := strings.Fields(m[1])
			manual := ""
			for n := len(words); n > 0 && manual == ""; n-- {
				name := "docs/man/netroot-" + strings.Join(words[:n], "-") + ".1"
				if _, err := os.Stat(name); err == nil {
					manual = readText(t, name)
				}
			}
			if words[0] == "completion" || words[0] == "help" {
				continue // cobra's own have no page
			}
			if manual == "" {
				t.Errorf("%s: there is no command netroot %s", place, strings.Join(words, " "))
				continue
			}
			checked++
			ours, _, _ := strings.Cut(m[2], " -- ")
			ours, _, _ = strings.Cut(ours, "'")
			for _, o := range option.FindAllStringSubmatch(ours, -1) {
				if !strings.Contains(strings.ReplaceAll(manual, `\-`, "-"), "--"+o[1]) {
					t.Errorf("%s: netroot %s has no option --%s", place, strings.Join(words, " "), o[1])
				}
			}
		}
	}
	for _, p := range pages(t) {
		for i, line := range p.lines {
			if p.code[i] {
				check(p.path, line)
				continue
			}
			for _, span := range codeSpan.FindAllStringSubmatch(line, -1) {
				check(p.path, span[1])
			}
		}
	}
	if checked == 0 {
		t.Fatal("no command was recognised")
	}
}

var required = regexp.MustCompile(`(?m)^\t(\S+) v\S+$`)

// TestDependenciesHaveReasons holds the table in docs/design.md against go.mod.
func TestDependenciesHaveReasons(t *testing.T) {
	design := readText(t, "docs/design.md")
	_, table, _ := strings.Cut(design, "## Direct dependencies\n")
	table, _, _ = strings.Cut(table, "\n`test/oracle`")
	rows := map[string]bool{}
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) < 2 || !strings.Contains(cells[1], ".") {
			continue
		}
		if len(cells) < 4 || strings.TrimSpace(cells[2]) == "" || strings.TrimSpace(cells[3]) == "" {
			t.Errorf("docs/design.md: no purpose or reason: %s", strings.TrimSpace(line))
		}
		rows[strings.TrimSpace(cells[1])] = true
	}
	for _, m := range required.FindAllStringSubmatch(readText(t, "go.mod"), -1) {
		if !rows[m[1]] {
			t.Errorf("docs/design.md does not give the reason for %s", m[1])
		}
		delete(rows, m[1])
	}
	for _, left := range slices.Sorted(maps.Keys(rows)) {
		t.Errorf("docs/design.md gives a reason for %s, which go.mod does not require directly", left)
	}
}
