// Command summary reads the output of "go test -json" and prints, at the end of a test run, how
// many tests ran, which of them were skipped and why, and which failed. It runs nothing itself.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// event is one line of test2json (go doc cmd/test2json).
type event struct {
	Action, Package, Test, Output string
}

type tally struct {
	passed, failed, skipped int
	skips, failures         []string
	last                    map[string]string // test to its last line of output
	failedInside            map[string]bool   // packages with a failed test
}

func main() {
	t := tally{last: map[string]string{}, failedInside: map[string]bool{}}
	for _, name := range os.Args[1:] {
		if err := t.read(name); err != nil {
			fmt.Fprintln(os.Stderr, "summary:", err)
			os.Exit(1)
		}
	}
	t.print(os.Stdout)
	if t.failed > 0 || t.passed == 0 {
		os.Exit(1)
	}
}

func (t *tally) read(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) == nil {
			t.add(e)
		}
	}
	return lines.Err()
}

func (t *tally) add(e event) {
	id := e.Package + " " + e.Test
	switch {
	case e.Action == "output":
		if text := strings.TrimSpace(e.Output); text != "" && !strings.HasPrefix(text, "---") && !strings.HasPrefix(text, "===") {
			t.last[id] = text
		}
	case e.Test == "":
		// A package that fails without a failed test did not build, or crashed.
		if e.Action == "fail" && !t.failedInside[e.Package] {
			t.failed++
			t.failures = append(t.failures, e.Package+": "+t.last[id])
		}
	case e.Action == "pass":
		t.passed++
	case e.Action == "skip":
		t.skipped++
		t.skips = append(t.skips, id+": "+t.last[id])
	case e.Action == "fail":
		t.failed++
		t.failedInside[e.Package] = true
		t.failures = append(t.failures, id+": "+t.last[id])
	}
}

func (t *tally) print(w io.Writer) {
	for _, part := range []struct {
		title string
		lines []string
	}{{"skipped", t.skips}, {"failed", t.failures}} {
		if len(part.lines) > 0 {
			fmt.Fprintf(w, "\n%s:\n  %s\n", part.title, strings.Join(part.lines, "\n  "))
		}
	}
	fmt.Fprintf(w, "\n%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped)
}
