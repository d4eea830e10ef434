package recipe

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestKinds has one small input for each kind of thing that public definition files do. Beside
// NAME.def, NAME.want says in its first line what Apptainer does with it (one of apptainerDoes, and
// why), then what each dialect makes of it: an error, or the warnings and the output of Print.
// test/oracle holds the first line against Apptainer's own parser.
func TestKinds(t *testing.T) {
	files, err := filepath.Glob("testdata/kinds/*.def")
	if err != nil || len(files) == 0 {
		t.Fatalf("no inputs: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".def"), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			name := strings.TrimSuffix(file, ".def") + ".want"
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			first, _, _ := strings.Cut(string(want), "\n")
			if word, why, _ := strings.Cut(first, ": "); !slices.Contains(apptainerDoes, word) || why == "" {
				t.Errorf("%s begins with %q; want one of %q, and why", name, first, apptainerDoes)
			}
			usual, strict := verdict(t, src, Options{}), verdict(t, src, Options{Strict: true})
			if strict == usual {
				strict = "as by default\n"
			}
			golden(t, name, []byte(first+"\n\ndefault: "+usual+"\nstrict: "+strict))
		})
	}
}

// apptainerDoes are the words for what Apptainer does with an input: it takes it with the meaning
// that it has in the default dialect, it takes it with another, or it refuses it.
var apptainerDoes = []string{"apptainer takes it", "apptainer takes it otherwise", "apptainer refuses it"}

// verdict describes what a dialect makes of a text.
func verdict(t *testing.T, src []byte, opt Options) string {
	r, err := Parse("x.def", src, opt)
	if err != nil {
		checkError(t, "", err, err.Error())
		return fmt.Sprintf("error: %v\n", err)
	}
	roundTrip(t, r, opt)
	var out bytes.Buffer
	for _, w := range r.Warnings {
		fmt.Fprintf(&out, "warning: %v\n", w)
	}
	if err := r.Print(&out); err != nil {
		t.Fatal(err)
	}
	for i, st := range r.Stages {
		for _, name := range append(textSections, scriptSections...) {
			if !strings.HasPrefix(name, "app") && *st.script(name) != nil {
				fmt.Fprintf(&out, "stage %d, %%%s: %q\n", i+1, name, (*st.script(name)).Body)
			}
		}
	}
	return out.String()
}
