package secrets

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the tables of docs/security.md")

const (
	page       = "../../docs/security.md"
	tableBegin = "<!-- from the rules of internal/secrets: go test ./internal/secrets -update -->\n"
	tableEnd   = "<!-- end -->\n"
)

// TestDocs holds the tables of docs/security.md to the rules.
func TestDocs(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(text), tableBegin)
	old, after, ok2 := strings.Cut(rest, tableEnd)
	if !ok1 || !ok2 {
		t.Fatalf("%s has no place for the tables: %q to %q", page, tableBegin, tableEnd)
	}
	now := "\n" + tables() + "\n"
	if old == now {
		return
	}
	if !*update {
		t.Fatalf("%s is not as the rules are: run go test ./internal/secrets -update", page)
	}
	if err := os.WriteFile(page, []byte(before+tableBegin+now+tableEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// tables lists the rules and the formats in Markdown.
func tables() string {
	var b strings.Builder
	b.WriteString("| kind | in | what counts |\n| --- | --- | --- |\n")
	type row struct {
		kind  Kind
		what  string
		files []string
	}
	var rows []*row
	for _, r := range rules {
		at := slices.IndexFunc(rows, func(x *row) bool { return x.kind == r.kind && x.what == r.check.what })
		if at < 0 {
			at = len(rows)
			rows = append(rows, &row{kind: r.kind, what: r.check.what})
		}
		file := "`/" + r.pattern + "`"
		if anywhere, ok := strings.CutPrefix(r.pattern, "**/"); ok {
			file = "`" + anywhere + "`"
		}
		rows[at].files = append(rows[at].files, file)
	}
	for _, r := range rows {
		name := r.kind.Name()
		if r.kind.Warning() {
			name += " (a warning)"
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", name, strings.Join(r.files, ", "), strings.ReplaceAll(r.what, "|", `\|`))
	}
	b.WriteString("\nIn files of any name:\n\n| kind | format |\n| --- | --- |\n")
	var keys, services []string
	marks := map[string][]string{}
	for _, f := range keyFormats {
		keys = append(keys, f.what)
	}
	for _, f := range tokenFormats {
		if marks[f.what] == nil {
			services = append(services, f.what)
		}
		marks[f.what] = append(marks[f.what], "`"+f.mark+"`")
	}
	for _, s := range services {
		marks[s] = []string{s + " (" + strings.Join(marks[s], ", ") + ")"}
	}
	for i, s := range services {
		services[i] = marks[s][0]
	}
	fmt.Fprintf(&b, "| %s | %s |\n", PrivateKey.Name(), strings.Join(keys, ", "))
	fmt.Fprintf(&b, "| %s | %s |\n", Token.Name(), strings.Join(services, ", "))
	fmt.Fprintf(&b, "| %s | files of mount.cifs(8): `username=`, `password=`, `domain=` and nothing else |\n", Password.Name())
	return b.String()
}
