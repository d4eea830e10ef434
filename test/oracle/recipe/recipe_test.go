// Package recipe compares our parser of definition files, in its strict dialect, with Apptainer's
// parser, on sample files and on generated ones. If one accepts a recipe, the other must accept it
// too, with the same meaning. Where our parser refuses more, Apptainer would fail or misread the
// recipe later: the table allowed has the reasons.
package recipe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/apptainer/apptainer/pkg/build/types"
	"github.com/apptainer/apptainer/pkg/build/types/parser"
	"github.com/google/go-cmp/cmp"

	"netroot/internal/recipe"
)

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard) // Apptainer's parser logs the errors that it returns
	os.Exit(m.Run())
}

// stage is the part of a stage that both parsers return.
type stage struct {
	Header  map[string]string
	Scripts map[string]script // by section, with the name of the app appended
	Labels  map[string]string
	Files   []files
	Apps    []string // in order
}

type script struct {
	Args []string
	Body string
}

// files are the lines of one kind of %files section, in order.
type files struct {
	From  string
	Lines [][2]string
}

var scripts = []string{"pre", "setup", "post", "environment", "runscript", "startscript", "test", "help"}

// theirs parses a text with Apptainer's parser. A panic counts as an error, as does a recipe that
// its build refuses at the start.
func theirs(text []byte) (stages []stage, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	all, err := parser.All(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		if d.Header["bootstrap"] == "" {
			return nil, errors.New("no bootstrap specification found")
		}
		stages = append(stages, fromDefinition(d))
	}
	return stages, nil
}

func fromDefinition(d types.Definition) stage {
	st := stage{Header: map[string]string{}, Scripts: map[string]script{}, Labels: d.ImageData.Labels, Apps: d.AppOrder}
	for key, value := range d.Header {
		// "\n\" can put a line break at its beginning.
		st.Header[key] = strings.TrimSpace(value)
	}
	b, i := d.BuildData, d.ImageData
	for name, s := range map[string]types.Script{
		"pre": b.Pre, "setup": b.Setup, "post": b.Post, "test": b.Test,
		"environment": i.Environment, "runscript": i.Runscript, "startscript": i.Startscript, "help": i.Help,
	} {
		st.add(name, s.Args, s.Script)
	}
	for name, text := range d.CustomData {
		st.add(name, "", text)
	}
	for _, f := range b.Files {
		from, copied := fromArgs(f.Args)
		if !copied {
			continue
		}
		var lines [][2]string
		for _, l := range f.Files {
			lines = append(lines, [2]string{l.Src, l.Dst})
		}
		st.addFiles(from, lines)
	}
	return st
}

// fromArgs returns the stage that Apptainer copies the files of a section from, "" for the host, and
// whether it copies them at all (copyFilesFrom and copyFiles in internal/pkg/build/stage.go).
func fromArgs(args string) (string, bool) {
	args, _, _ = strings.Cut(args, "#")
	words := strings.Fields(args)
	if len(words) == 2 {
		return words[1], true
	}
	return "", args == ""
}

// fromStage returns the same for one of our stages.
func fromStage(s *recipe.Stage) stage {
	st := stage{Header: map[string]string{}, Scripts: map[string]script{}, Labels: map[string]string{}}
	for _, f := range s.Header {
		st.Header[strings.ToLower(f.Key)] = f.Value
	}
	for i, s := range []*recipe.Script{s.Pre, s.Setup, s.Post, s.Environment, s.RunScript, s.StartScript, s.Test, s.Help} {
		if s != nil {
			st.add(scripts[i], strings.Join(s.Args, " "), s.Body)
		}
	}
	for _, l := range s.Labels {
		st.Labels[l.Key] = l.Value
	}
	for _, f := range s.Files {
		st.addFiles(f.From, lines(f.Entries))
	}
	for _, app := range s.Apps {
		st.Apps = append(st.Apps, app.Name)
	}
	// Apptainer keeps the text of app sections only.
	for _, sec := range s.Sections {
		if strings.HasPrefix(sec.Name, "app") {
			name := sec.Name + " " + strings.Fields(sec.Args)[0]
			st.add(name, "", st.Scripts[name].Body+"\n"+sec.Body)
		}
	}
	return st
}

func lines(entries []recipe.FileEntry) (out [][2]string) {
	for _, e := range entries {
		out = append(out, [2]string{e.Src, e.Dst})
	}
	return out
}

// add records a script that is not empty. Only Apptainer keeps blank lines at the end of a section,
// so blank lines do not count here.
func (st *stage) add(name, args, body string) {
	var kept []string
	for line := range strings.Lines(body) {
		if strings.TrimSpace(line) != "" {
			kept = append(kept, strings.TrimRight(line, "\n"))
		}
	}
	args, _, _ = strings.Cut(args, "#")
	if s := (script{strings.Fields(args), strings.Join(kept, "\n")}); len(s.Args) > 0 || s.Body != "" {
		st.Scripts[name] = s
	}
}

// addFiles joins sections of one kind, as Apptainer does with sections that have the same
// arguments.
func (st *stage) addFiles(from string, lines [][2]string) {
	if len(lines) == 0 {
		return
	}
	i := slices.IndexFunc(st.Files, func(f files) bool { return f.From == from })
	if i < 0 {
		i = len(st.Files)
		st.Files = append(st.Files, files{From: from})
	}
	st.Files[i].Lines = append(st.Files[i].Lines, lines...)
}

// allowed are errors of our parser for recipes that Apptainer's parser accepts, and what happens to
// such a recipe there.
var allowed = []struct{ says, because string }{
	{"Apptainer has no agent", "its build ends with: invalid build source"},
	{"no earlier stage \"", "its build ends with: stage was not found"},
	{"does not name one stage", "it silently ignores the section"},
	{"does not name an earlier stage", "its build ends with: stage was not found"},
	{"Apptainer ignores the section", "it does so silently"},
	{"the invisible character", "it takes the section or the stage as text, if the character is not a blank for it"},
	{"-c requires a program", "its build ends with: missing arguments"},
	{"Apptainer misreads single quotes", "it treats the quote as part of the name"},
	{"Apptainer ends a word at a quote inside it", "it treats one name as two"},
	{"a quote is not closed", "it treats the quote as part of the name, or ignores it"},
	{"no Bootstrap line", "it ignores empty sections before the first stage"},
	{"the name of the app is missing", "it makes an app without a name"},
	{"cannot name an app", "its build ends with: could not open"},
	{"contains a zero byte", "its shell stops there"},
	{"the source is empty", "its cp fails"},
	{"but nothing continues it", "it drops the value, or panics"},
	{"the value begins on the next line", "it treats the value as missing, and the next line as a key"},
	{"which begins a stage", "its build ends with: all must have headers"},
}

func isAllowed(text []byte, err error) bool {
	for _, a := range allowed {
		if strings.Contains(err.Error(), a.says) {
			return true
		}
	}
	// A line that the next line should continue is dropped at the end of a header, whatever its
	// key.
	if e, ok := errors.AsType[*recipe.Error](err); ok && strings.Contains(err.Error(), "unknown key") {
		line, _, _ := strings.Cut(strings.Split(string(text), "\n")[e.Line-1], "#")
		return strings.HasSuffix(strings.TrimSpace(line), "\\")
	}
	// Another part of Apptainer handles these.
	return strings.Contains(err.Error(), "build argument")
}

// compare compares Apptainer's parser with ours in its strict dialect, and returns the difference,
// or "".
func compare(text []byte) string { return difference(text, recipe.Options{Strict: true}) }

func difference(text []byte, opt recipe.Options) string {
	_, refused := theirs(text)
	r, err := recipe.Parse("x.def", text, opt)
	switch {
	case err != nil && refused != nil:
		return ""
	case err != nil:
		if isAllowed(text, err) {
			return ""
		}
		return fmt.Sprintf("Apptainer takes it, ours does not: %v", err)
	case refused != nil:
		return fmt.Sprintf("ours takes it, Apptainer does not: %v", refused)
	}
	// Build arguments are put in by a part that cannot be had from outside: it parses the result
	// once more.
	want, refused := theirs(r.Source)
	if refused != nil {
		return fmt.Sprintf("with build arguments Apptainer refuses it: %v", refused)
	}
	if bytes.Contains(r.Source, []byte("{{")) {
		// Text in %files that is not a build argument, but that Apptainer keeps together as
		// if it were one.
		return ""
	}
	var got []stage
	for _, st := range r.Stages {
		got = append(got, fromStage(st))
	}
	return cmp.Diff(want, got, cmp.Transformer("empty", func(m map[string]string) map[string]string {
		if len(m) == 0 {
			return nil
		}
		return m
	}), cmp.Comparer(func(a, b []string) bool { return slices.Equal(a, b) }))
}

// TestKinds holds the first line of each testdata/kinds/NAME.want against Apptainer's parser. If
// Apptainer takes the input, our default dialect must give it the same meaning; if it takes it
// otherwise, another.
func TestKinds(t *testing.T) {
	const dir = "../../../internal/recipe/testdata/kinds/"
	files, err := filepath.Glob(dir + "*.def")
	if err != nil || len(files) == 0 {
		t.Fatalf("no inputs: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".def"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(strings.TrimSuffix(file, ".def") + ".want")
			if err != nil {
				t.Fatal(err)
			}
			if wrong := compare(text); wrong != "" {
				t.Errorf("strict: %s", wrong)
			}
			_, refused := theirs(text)
			if _, err := recipe.Parse("x.def", text, recipe.Options{Strict: true}); err != nil && strings.Contains(err.Error(), "build argument") {
				refused = err // another part of Apptainer, which cannot be had from outside, does so
			}
			says, _, _ := strings.Cut(string(want), ":")
			same := false
			if refused == nil {
				_, err := recipe.Parse("x.def", text, recipe.Options{})
				same = err == nil && difference(text, recipe.Options{}) == ""
			}
			does := "apptainer takes it otherwise"
			switch {
			case refused != nil:
				does = "apptainer refuses it"
			case same:
				does = "apptainer takes it"
			}
			if does != says {
				t.Errorf("the file says %q, but %s (%v)", says, does, refused)
				if refused == nil {
					t.Log(difference(text, recipe.Options{}))
				}
			}
		})
	}
}

// TestSamples parses the project's recipes and Apptainer's own.
func TestSamples(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/apptainer/apptainer").Output()
	if err != nil {
		t.Fatal(err)
	}
	peer := strings.TrimSpace(string(out))
	n := 0
	for _, pattern := range []string{
		"../../../recipes/*.def", "../../../internal/recipe/testdata/*.def", "../../bootvm/testdata/rpm/*.def", "../../../internal/build/testdata/*.def",
		peer + "/examples/*/Apptainer*", peer + "/pkg/build/types/parser/testdata_*/*/*", peer + "/e2e/testdata/*.def", peer + "/e2e/testdata/*/*.def",
	} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 && !strings.Contains(pattern, "e2e") {
			t.Errorf("%s: %d files, %v", pattern, len(found), err)
		}
		for _, file := range found {
			text, err := os.ReadFile(file)
			if err != nil || filepath.Ext(file) == ".json" {
				continue
			}
			n++
			if wrong := compare(text); wrong != "" {
				t.Errorf("%s: %s", file, wrong)
			}
		}
	}
	t.Logf("%d files", n)
}
