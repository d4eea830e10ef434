package recipe

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden compares the recipes in testdata with the expected results of Parse and Print.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.def")
	if err != nil || len(files) == 0 {
		t.Fatalf("no recipes: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			r, err := Parse(filepath.Base(file), src, Options{})
			if err != nil {
				t.Fatal(err)
			}
			var asJSON, asText bytes.Buffer
			enc := json.NewEncoder(&asJSON)
			enc.SetEscapeHTML(false)
			enc.SetIndent("", "\t")
			if err := enc.Encode(r); err != nil {
				t.Fatal(err)
			}
			if err := r.Print(&asText); err != nil {
				t.Fatal(err)
			}
			base := strings.TrimSuffix(file, ".def")
			golden(t, base+".json", asJSON.Bytes())
			golden(t, base+".txt", asText.Bytes())
			roundTrip(t, r, Options{})
		})
	}
}

func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Errorf("%s (-want +got; run with -update to write it):\n%s", file, diff)
	}
}

// roundTrip parses the output of Format, and the Source that Parse returns.
func roundTrip(t *testing.T, r *Recipe, opt Options) {
	t.Helper()
	opt.Args = nil
	again, err := Parse(r.Name, r.Format(), opt)
	if err != nil {
		t.Fatalf("the output of Format is refused: %v\n%s", err, r.Format())
	}
	lines := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".Line" }, cmp.Ignore())
	if diff := cmp.Diff(r.Stages, again.Stages, lines, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the output of Format is another recipe (-first +second):\n%s\n%s", diff, r.Format())
	}
	same, err := Parse(r.Name, r.Source, opt)
	if err != nil {
		t.Fatalf("the source after substitution is refused: %v\n%s", err, r.Source)
	}
	if diff := cmp.Diff(r.Stages, same.Stages); diff != "" {
		t.Errorf("the source after substitution is another recipe (-first +second):\n%s", diff)
	}
}

// TestStrictRefuses applies Apptainer's rules to the recipes that only the default dialect accepts.
// Two of them use features that Singularity removed in 2018.
func TestStrictRefuses(t *testing.T) {
	for file, want := range map[string]string{
		"centos7.def":  "centos7.def:19: unknown section %end; remove it: a section ends where the next one begins",
		"centos8.def":  "centos8.def:18: unknown section %wheel; ",
		"fedora32.def": "fedora32.def:11: a word that begins with % is indented, ",
		"crlf.def":     "crlf.def:1: header: the file begins with a byte order mark, ",
		"stages.def":   "stages.def:30: unknown section %nothing; ",
		"apps.def":     "apps.def:1: header: there are keys before the Bootstrap line (line 2), ",
	} {
		src, err := os.ReadFile("testdata/" + file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = Parse(file, src, Options{Strict: true}); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", file, err, want)
		}
	}
}

// TestErrors has recipes with one error each. If want is empty, that dialect accepts the recipe,
// and warn is part of the first warning of the default dialect.
func TestErrors(t *testing.T) {
	const head = "Bootstrap: scratch\n"
	tests := []struct {
		name, src          string
		want, strict, warn string
	}{
		{name: "empty", src: "\n# nothing\n", want: "x.def: the file has no stage", strict: "x.def: the file has no stage"},
		{name: "binary", src: "hsqs\n\x00\x01", want: "x.def:2: not a text file", strict: "x.def:2: not a text file"},
		{name: "no header", src: "\n%post\ntrue\n", want: "x.def:2: header: there is no Bootstrap line", strict: "x.def:2: header: there is no Bootstrap line"},
		{name: "empty bootstrap", src: "Bootstrap: # yum\n", want: "x.def:1: header: there is no Bootstrap line", strict: "x.def:1: header: there is no Bootstrap line"},
		{name: "no colon", src: head + "From base\n", want: `x.def:2: header: "From base" has no colon; write "Key: value"`, strict: `x.def:2: header: "From base" has no colon`},
		{name: "key", src: head + "MirorURL: http://x\n", want: `x.def:2: header: unknown key "MirorURL"; did you mean MirrorURL?`, strict: `x.def:2: header: unknown key "MirorURL"; did you mean MirrorURL?`},
		{name: "far key", src: head + "Colour: red\n", want: `x.def:2: header: unknown key "Colour"; use one of Bootstrap, `, strict: `x.def:2: header: unknown key "Colour"; use one of`},
		{name: "numbered key", src: head + "otherurl7: http://x\n"},
		{name: "unnumbered key", src: head + "OtherURL: http://x\n", want: `x.def:2: header: unknown key "OtherURL"`, strict: `x.def:2: header: unknown key "OtherURL"`},
		{name: "old key", src: head + "MetaLink: http://x\n", strict: `x.def:2: header: unknown key "MetaLink"`},
		{name: "agent case", src: "Bootstrap: Yum\n", strict: `x.def:1: header: Apptainer has no agent "Yum"`},
		{name: "key twice", src: head + "From: a\nFROM: b\n", warn: "x.def:3: header: From is already in line 2"},
		{name: "continued by nothing", src: head + "Include: a \\\n\nFrom: b\n", strict: `x.def:2: header: the line ends with \`, warn: `x.def:2: header: the line ends with \`},
		{name: "continued by the end", src: head + "Include: a \\\n%post\n", strict: `x.def:2: header: the line ends with \`, warn: `x.def:2: header: the line ends with \`},
		{name: "continued by a comment", src: head + "Include: a \\\n# b\nc\n", strict: `x.def:2: header: the line ends with \`},
		{name: "begun on the next line", src: head + "Include: \\\na\n", strict: "x.def:2: header: the value begins on the next line"},
		{name: "section in header", src: head + "%pst\ntrue\n", want: "x.def:2: header: unknown section %pst; did you mean %post?", strict: "x.def:2: unknown section %pst; did you mean %post?"},
		{name: "section in script", src: head + "%pre\n%psot\n", want: "x.def:3: %pre: unknown section %psot; did you mean %post? (put text", strict: "x.def:3: unknown section %psot; did you mean %post?"},
		{name: "text in script", src: head + "%pre\n%wheel\n", strict: "x.def:3: unknown section %wheel; use one of", warn: "x.def:3: %pre: %wheel is not a section and is treated as text, which Apptainer refuses"},
		{name: "section in list", src: head + "%files\na\n%psot\n", want: "x.def:4: %files: unknown section %psot; did you mean %post?", strict: "x.def:4: unknown section %psot"},
		{name: "section after end", src: head + "%pre\n%end\n%psot\n", want: "x.def:4: unknown section %psot; did you mean %post?", strict: "x.def:3: unknown section %end"},
		{name: "text after end", src: head + "%pre\n%end\n\nlost\n", strict: "x.def:3: unknown section %end", warn: "x.def:5: text after %end"},
		{name: "tab after name", src: head + "%post\t-u\n", strict: "x.def:2: a tab follows %post,"},
		{name: "app case", src: head + "%AppRun x\n", strict: "x.def:2: Apptainer requires app sections in lower case, not %AppRun; write %apprun"},
		{name: "app name", src: head + "%apprun\n", want: "x.def:2: %apprun: the name of the app is missing; write %apprun NAME", strict: "x.def:2: %apprun: the name of the app is missing"},
		{name: "app path", src: head + "%apprun ../x\n", want: `x.def:2: %apprun: "../x" cannot name an app`, strict: `x.def:2: %apprun: "../x"`},
		{name: "no program", src: head + "%post -c # bash\n", want: "x.def:2: %post: -c requires a program; write", strict: "x.def:2: %post: -c requires a program"},
		{name: "large", src: head + "%post\n" + strings.Repeat("# line\n", 10000), strict: "x.def:2: %post: the section is larger than 64 KiB"},
		{name: "quote", src: head + "%files\nit's\n", want: "x.def:3: %files: a quote is not closed; close it", strict: `x.def:3: %files: Apptainer misreads single quotes; write "`},
		{name: "quote in a word", src: head + "%files\na\"b c\"d e\n", strict: "x.def:3: %files: Apptainer ends a word at a quote inside it; put the whole name in quotes"},
		{name: "quote before a word", src: head + "%files\n\"a b\"c e\n", strict: "x.def:3: %files: Apptainer ends a word at a quote inside it"},
		{name: "empty source", src: head + "%files\n\"\" b\n", want: "x.def:3: %files: the source is empty", strict: "x.def:3: %files: the source is empty"},
		{name: "three files", src: head + "%files\na b c\n", warn: `x.def:3: %files: "c" is ignored`},
		{name: "files arguments", src: head + "%files to there\n", want: `x.def:2: %files: "to there" does not name an earlier stage; write %files from`, strict: `x.def:2: %files: "to there" does not name`},
		{name: "from nothing", src: head + "%files from # build\n", want: `x.def:2: %files: "from" does not name one stage`, strict: `x.def:2: %files: "from" does not`},
		{name: "from unknown", src: "Bootstrap: scratch\nStage: build\n" + head + "%files from biuld\n", want: `x.def:4: %files: there is no earlier stage "biuld"; did you mean build?`, strict: `x.def:4: %files: there is no earlier stage "biuld"`},
		{name: "from itself", src: head + "Stage: one\n%files from one\n", want: `x.def:3: %files: there is no earlier stage "one"; give an earlier stage`, strict: `x.def:3: %files: there is no earlier stage "one"`},
		{name: "stage twice", src: head + "Stage: a\n" + head + "Stage: a\n", warn: `x.def:3: header: stage "a" already begins in line 1`},
		{name: "argument", src: head + "From: {{ BAES }}\n%arguments\nBASE=x\n", want: "x.def:2: header: build argument BAES is not defined; did you mean BASE?", strict: "x.def:2: header: build argument BAES"},
		{name: "argument in script", src: head + "%post\n\necho {{X}}\n", want: "x.def:4: %post: build argument X is not defined; use --build-arg X=VALUE", strict: "x.def:4: %post: build argument X"},
		{name: "argument of another stage", src: head + "%arguments\nX=1\n" + head + "%post\n{{X}}\n", want: "x.def:6: %post: build argument X is not defined", strict: "x.def:6: %post: build argument X"},
		{name: "nested twice", src: head + "%arguments\nA={{B}}\nB={{C}}\nC=c\n%post\n{{A}}\n", want: "x.def:7: %post: {{C}} remains", strict: "x.def:7: %post: {{C}} remains"},
		{name: "bad argument", src: head + "%arguments\nA\n", warn: `x.def:3: %arguments: "A" is skipped`},
		{name: "argument in remark", src: head + "%post\nls # {{ X }}\n", warn: "x.def:3: %post: a build argument after a #"},
		{name: "argument in comment", src: head + "%post\n # {{ X }}\n"},
		{name: "hidden section", src: head + "%post\ncat <<A\n%files\nA\n", warn: "x.def:4: %post: text of the here-document that begins in line 3; Apptainer would begin section %files here"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r, err := Parse("x.def", []byte(test.src), Options{})
			checkError(t, "default", err, test.want)
			if r != nil {
				got := ""
				if len(r.Warnings) > 0 {
					got = r.Warnings[0].String()
				}
				if !strings.HasPrefix(got, test.warn) || (test.warn == "" && got != "") {
					t.Errorf("warning\n  %s\nwant\n  %s", got, test.warn)
				}
				roundTrip(t, r, Options{})
			}
			r, err = Parse("x.def", []byte(test.src), Options{Strict: true})
			checkError(t, "strict", err, test.strict)
			if r != nil {
				roundTrip(t, r, Options{Strict: true})
			}
		})
	}
}

func checkError(t *testing.T, dialect string, err error, want string) {
	t.Helper()
	if (err == nil) != (want == "") || err != nil && !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%s: error\n  %v\nwant\n  %s", dialect, err, want)
	}
	if e := (*Error)(nil); err != nil && (!errors.As(err, &e) || e.Fix == "") {
		t.Errorf("%s: %#v is not an *Error with a fix", dialect, err)
	}
}

func TestHereDocuments(t *testing.T) {
	// Each script is put before "%test"; hidden means that the script contains %test as text.
	tests := []struct {
		script string
		hidden bool
	}{
		{"cat <<EOF\n%test\nEOF", true},
		{"cat <<EOF >/dev/null; ls\n%test\nEOF", true},
		{"cat << 'EOF'\n%test\nEOF", true},
		{"cat <<\"END-1.x\"\n%test\nEND-1.x", true},
		{"cat <<\\EOF\n%test\nEOF", true},
		{"cat <<-EOF\n%test\n\t\tEOF", true},
		{"x=\"$(cat <<EOF\n%test\nEOF\n)\"", true},
		{"' file <<EOF\n%test\nEOF", true},
		{"cat <<A <<'B'\nA\n%test\nB", true},
		{"cat <<'A' <<'B'\nA\n%test\nB", true},
		{"echo 'a' \"b\\\"\" <<EOF\n%test\nEOF", true},
		{"echo $# <<EOF\n%test\nEOF", true},

		{"cat <<EOF\nEOF\n%test\nEOF", false},
		{"cat <<EOF\n%test\n\tEOF", false},
		{"cat <<EOF\n%test\nEOF ", false},
		{"cat <<EOF\n%test\n", false},
		{"cat <<<EOF\n%test\nEOF", false},
		{"# cat <<EOF\n%test\nEOF", false},
		{"ls # <<EOF\n%test\nEOF", false},
		{"ls;# <<EOF\n%test\nEOF", false},
		{"echo '<<EOF'\n%test\nEOF", false},
		{"echo \"a <<EOF\"\n%test\nEOF", false},
		{"echo \\<<EOF\n%test\nEOF", false},
		{"echo $((1<<EOF]))\n%test\nEOF", false},
		{"echo <<\n%test\nEOF", false},
	}
	for _, test := range tests {
		src := []byte("Bootstrap: scratch\n%post\n" + test.script + "\n")
		r, err := Parse("x.def", src, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if hidden := r.Stages[0].Test == nil; hidden != test.hidden {
			t.Errorf("%q: hidden is %v", test.script, hidden)
		}
		roundTrip(t, r, Options{})
		if r, err = Parse("x.def", src, Options{Strict: true}); err != nil || r.Stages[0].Test == nil {
			t.Errorf("%q: strict mode sees no %%test (%v)", test.script, err)
		}
	}
}

// TestControlCharacters checks that a recipe cannot control the terminal that shows it.
func TestControlCharacters(t *testing.T) {
	var out bytes.Buffer
	r := parse(t, "Bootstrap: scratch\nFrom: a\x1b[2Jb\n%post\n%\x1b[2J\n", Options{})
	if err := r.Print(&out); err != nil {
		t.Fatal(err)
	}
	if s := out.String() + r.Warnings[0].String(); strings.Contains(s, "\x1b") || !strings.Contains(s, "a\ufffd[2Jb") {
		t.Errorf("%q", s)
	}
}

// TestHereDocumentOfHelp checks that only scripts have here-documents.
func TestHereDocumentOfHelp(t *testing.T) {
	r := parse(t, "Bootstrap: scratch\n%help\nuse <<EOF\n%post\nEOF\n", Options{})
	if r.Stages[0].Post == nil {
		t.Error("a section was swallowed by %help")
	}
}

func parse(t *testing.T, src string, opt Options) *Recipe {
	t.Helper()
	r, err := Parse("x.def", []byte(src), opt)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestHeaderValues(t *testing.T) {
	tests := []struct{ lines, want, strict string }{
		{"From:  http://x/#frag  # why", "http://x/#frag", "http://x/"},
		{"From:", "", ""},
		{"from:#x", "", ""},
		{"FROM: a \\\n   b", "a b", "a b"},
		{"From: a\\\n   b", "ab", "ab"},
		{"From: a\\n\\\n   b:c", "a\nb:c", "a\nb:c"},
		{" From : a # b \\", "a", "a"},
		{"From: a \\ # b\nc", "a c", "a c"},
		{"From: a\\n\\\n\\n\\\nBoot", "a\n\nBoot", "a\n\nBoot"},
	}
	for _, test := range tests {
		for dialect, want := range map[bool]string{false: test.want, true: test.strict} {
			r := parse(t, "Bootstrap: scratch\n"+test.lines+"\n", Options{Strict: dialect})
			got, ok := r.Stages[0].Header.Get("fRoM")
			if !ok || got != want {
				t.Errorf("%q, strict %v: %q, want %q", test.lines, dialect, got, want)
			}
			roundTrip(t, r, Options{Strict: dialect})
		}
	}
	if _, ok := parse(t, "Bootstrap: scratch\n", Options{}).Stages[0].Header.Get("From"); ok {
		t.Error("a key that is not there was found")
	}
}

func TestFilesWords(t *testing.T) {
	tests := []struct{ line, src, dst string }{
		{"a", "a", ""},
		{"  a\tb  ", "a", "b"},
		{`"a b" 'c d'`, "a b", "c d"},
		{`a" "b c'"'d`, "a b", `c"d`},
		{`*.{a,b} /x/`, "*.{a,b}", "/x/"},
		{`a\ b`, `a\`, "b"},
		{"a # b", "a", ""},
		{"a#b #c", "a#b", ""},
		{`a "#"`, "a", "#"},
		{`a ""`, "a", ""},
	}
	for _, test := range tests {
		r := parse(t, "Bootstrap: scratch\n%files\n"+test.line+"\n", Options{})
		if got := r.Stages[0].Files[0].Entries[0]; got.Src != test.src || got.Dst != test.dst {
			t.Errorf("%s: %q -> %q", test.line, got.Src, got.Dst)
		}
	}
	r := parse(t, "Bootstrap: scratch\n%files\na # b\n", Options{Strict: true})
	if got := r.Stages[0].Files[0].Entries[0]; got.Dst != "#" || len(r.Warnings) != 1 {
		t.Errorf("strict: %+v, warnings %v", got, r.Warnings)
	}
}

func TestStrictLabels(t *testing.T) {
	r := parse(t, "Bootstrap: scratch\n%labels\nA\tb c\n", Options{Strict: true})
	if got := r.Stages[0].Labels[0]; got.Key != "A\tb" || got.Value != "c" {
		t.Errorf("a TAB separates: %+v", got)
	}
}

func TestShell(t *testing.T) {
	for args, want := range map[string]string{
		"":                        "/bin/sh -ex",
		"-u":                      "/bin/sh -ex -u",
		"-c /bin/bash":            "/bin/bash -ex",
		"-c bash -o pipefail # x": "bash -ex -o pipefail",
		"-c /usr/bin/python3 -u":  "/usr/bin/python3 -u",
	} {
		r := parse(t, "Bootstrap: scratch\n%post "+args+"\n", Options{})
		if got := strings.Join(r.Stages[0].Post.Shell(), " "); got != want {
			t.Errorf("%q: %q, want %q", args, got, want)
		}
	}
	for args, want := range map[string]string{
		"":                 "/bin/sh -ex",
		"-u":               "/bin/sh -ex -u",
		"-c /bin/bash":     "/bin/bash",
		"-c /bin/bash -e":  "/bin/bash -e",
		"-c /bin/python3 ": "/bin/python3",
	} {
		r := parse(t, "Bootstrap: scratch\n%setup\n%post "+args+"\n", Options{Strict: true})
		if got := strings.Join(r.Stages[0].Post.Shell(), " "); got != want {
			t.Errorf("strict, %q: %q, want %q", args, got, want)
		}
	}
}
