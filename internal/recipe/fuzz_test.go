package recipe

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// FuzzParse checks that no text makes Parse panic, that every error has a fix, and that a parsed
// recipe survives Format.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.def")
	if err != nil {
		f.Fatal(err)
	}
	kinds, err := filepath.Glob("testdata/kinds/*.def")
	if err != nil {
		f.Fatal(err)
	}
	files = append(files, kinds...)
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src, false)
		f.Add(src, true)
	}
	for _, src := range []string{
		"Bootstrap: a\nInclude: a\\n\\\n\\\nb \\\n#c\n%post\n<<A <<-'B'\n%test\nA\n\tB\n",
		"From:#\nbootstrap: X\nboot\\\n",
		"Bootstrap: a\n%arguments\nA=%post\n%pre\n{{A}}\n#{{A}}{{A}}\n",
	} {
		f.Add([]byte(src), false)
		f.Add([]byte(src), true)
	}
	f.Fuzz(func(t *testing.T, src []byte, strict bool) {
		opt := Options{Strict: strict}
		r, err := Parse("x.def", src, opt)
		if err != nil {
			if e := (*Error)(nil); !errors.As(err, &e) || e.Fix == "" {
				t.Fatalf("%#v is not an *Error with a fix", err)
			}
			return
		}
		if err := r.Print(io.Discard); err != nil {
			t.Fatal(err)
		}
		for _, w := range r.Warnings {
			_ = w.String()
		}
		roundTrip(t, r, opt)
	})
}
