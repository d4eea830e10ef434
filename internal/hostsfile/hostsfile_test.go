package hostsfile

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netroot/internal/config"
)

var update = flag.Bool("update", false, "write the golden files")

// TestYAML: each hosts file in testdata beside the netroot.yaml that it becomes, and what is told
// of it.
func TestYAML(t *testing.T) {
	files, err := filepath.Glob("testdata/*.hosts")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, name := range files {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := Parse(filepath.Base(name), "/srv/live", src)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		got := f.YAML(filepath.Base(name), "/srv/live")
		if _, err := config.Parse("netroot.yaml", []byte(got)); err != nil {
			t.Errorf("%s: not taken: %v\n%s", name, err, got)
		}
		for _, n := range f.Notes {
			got += "#note " + fmt.Sprintf("line %d: %s", n.Line, n.Text) + "\n"
		}
		golden := strings.TrimSuffix(name, ".hosts") + ".yaml"
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatalf("%v: run this test with -update", err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestComments: each comment goes to one arm, the nearest that it is written in, above or beside.
func TestComments(t *testing.T) {
	const src = `# of the file
case $label in # of the case
# above one
one) # beside one
  # in one
  A=1 # beside A
  case $A in # of the inner case
    1) RW=Y ;; # of the inner arm
  esac
  # the end of one
  ;; # after one
(two) ;; three) ;; # after three

# above four
four) A=$(# of a command
true
) ;;
# of nothing
esac # of nothing
`
	f, err := Parse("hosts", "/d", []byte(strings.Replace(src, "A=$(# of a command\ntrue\n)", "A='# no comment'", 1)))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, l := range f.Labels {
		got[l.Name] = l.Comments
	}
	want := map[string][]string{
		"one":   {"above one", "beside one", "in one", "beside A", "of the inner case", "the end of one", "after one"},
		"two":   nil,
		"three": {"after three"},
		"four":  {"above four"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, err := Parse("hosts", "/d", []byte(src)); err == nil || !strings.HasPrefix(err.Error(), "hosts:15: $(# of a command is the output") {
		t.Error(err)
	}
}

// TestValues: what a shell would make of it, for one label.
func TestValues(t *testing.T) {
	for src, want := range map[string]string{
		`RECIPE=a.def`:                 "/d/a.def",
		`RECIPE=$PWD/a`:                "/d/a",
		`base=$PWD; RECIPE=${base}s/a`: "/ds/a",
		`RECIPE=/x/$label.def`:         "/x/one.def",
		`RECIPE='$base'`:               "/d/$base",
		`RECIPE="a b"`:                 "/d/a b",
		`RECIPE="a\"b\\c\$d\e"`:        `/d/a"b\c$d\e`,
		`RECIPE=a\ b'c'"d"`:            "/d/a bcd",
		"RECIPE=a\\\nb":                "/d/ab",
		"RECIPE=\"a\\\nb\"":            "/d/ab",
		`RECIPE=a # not b`:             "/d/a",
		`RECIPE=a#b`:                   "/d/a#b",
		`RECIPE=a$`:                    "/d/a$",
		`A=1 B=2; RECIPE=$A$B`:         "/d/12",
		`export A=1; RECIPE=$A`:        "/d/1",
		`A=1; export A; RECIPE=$A`:     "/d/1",
		"# caf\xe9\nRECIPE=a":          "/d/a",
		`RECIPE=; RECIPE=a$RECIPE`:     "/d/a",
		"RECIPE=a\r\n":                 "/d/a",
		`case $label in o*) RECIPE=o;; one) RECIPE=x;; esac`:                "/d/o",
		`case "${label}" in ?ne) RECIPE=o;; esac`:                           "/d/o",
		`case $label in "o*") RECIPE=o;; *) RECIPE=x; esac`:                 "/d/x",
		`case $label in (two|one) RECIPE=o; esac`:                           "/d/o",
		`A=x; case $A in y) foo;; x) RECIPE=o; esac`:                        "/d/o",
		`case $label in two) RECIPE=$(date);; one) RECIPE=o;; esac`:         "",
		`case $label in one) case $label in *) RECIPE=n;; esac;; esac`:      "/d/n",
		`case $label in one) RECIPE=o;; *) echo "$(x ")" "a" ')')" ;; esac`: "/d/o",
	} {
		f, err := Parse("hosts", "/d", []byte(src+"\ncase $label in one) ;; esac"))
		switch {
		case want == "" && err == nil:
			t.Errorf("%s: taken", src)
		case want != "" && err != nil:
			t.Errorf("%s: %v", src, err)
		case want != "" && f.Labels[indexOf(f, "one")].Recipe != want:
			t.Errorf("%s: %q, want %q", src, f.Labels[indexOf(f, "one")].Recipe, want)
		case want != "" && !strings.Contains(src, "\r"):
			if got := askShell(t, src); got != want {
				t.Errorf("%s: a shell makes %q of it, want %q", src, got, want)
			}
		}
	}
}

// askShell is what a shell called for the label "one" in the directory /d makes of RECIPE, as an
// absolute path.
func askShell(t *testing.T, src string) string {
	t.Helper()
	cmd := exec.Command("sh", "-euc", "label=one PWD=/d\n"+src+"\n"+`printf %s "$RECIPE"`)
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%s: sh: %v", src, err)
	}
	if s := string(out); filepath.IsAbs(s) {
		return s
	}
	return filepath.Join("/d", string(out))
}

func indexOf(f *File, name string) int {
	for i, l := range f.Labels {
		if l.Name == name {
			return i
		}
	}
	return -1
}

func TestErrors(t *testing.T) {
	const labels = "\ncase $label in one) ;; esac"
	for src, want := range map[string]string{
		"":                                    "1: no label",
		"RW=Y\n":                              "1: no label",
		"A=1\nRECIPE=$(date)" + labels:        "2: $(date) is the output of a command",
		"RECIPE=\"x$(a (b) c)y\"" + labels:    "1: `foo(` must be followed",
		"RECIPE=`date`" + labels:              "1: `date` is the output of a command",
		"RECIPE=${A:-x}" + labels:             "1: ${A:-x} is more than a variable's name",
		"RECIPE=$1" + labels:                  "1: $1 is known only to a running shell",
		"RECIPE=$HOME/x" + labels:             "1: $HOME is not set before this line",
		"RECIPE=~/x" + labels:                 "1: ~ is a user's home directory",
		"RECIPE=$'x'" + labels:                "1: $ before a quote",
		"\n\n. ./other" + labels:              `3: "." is a command`,
		"if true; then RW=Y; fi" + labels:     `1: "if" is a command`,
		"f() { RW=Y; }" + labels:              `1: "f()" is a command`,
		"A=(1 2)" + labels:                    "1: A=( makes an array",
		"A=1|cat" + labels:                    `1: "A=1|cat" is more than an assignment`,
		"A=x>y" + labels:                      `1: "A=x>y" is more than an assignment`,
		"cat <<EOF\nx\nEOF" + labels:          `1: "cat" is a command`,
		"A='x" + labels:                       "1: reached EOF without closing quote `'`",
		"\nA=\"x" + labels:                    "2: reached EOF without closing quote `\"`",
		"A=$(x":                               "1: reached EOF without matching `$(`",
		"A=${x":                               "1: reached EOF without matching `${`",
		"A=`x":                                "1: reached EOF without closing quote",
		"A+=x" + labels:                       "1: A+= is not understood",
		"A[1]=x" + labels:                     "1: A[ is part of an array",
		"export -n A" + labels:                `1: "export" is a command`,
		"A=1 env" + labels:                    `1: "env" is a command`,
		"! A=1" + labels:                      `1: "!" is a command`,
		"A=1 &" + labels:                      `1: "A=1 &" is more`,
		"A=$((1+1))" + labels:                 "1: $((1+1)) is not understood",
		"A=<(ls)" + labels:                    "1: <(ls) is not understood",
		"case $label in one) A=1;& two) esac": "1: \";&\" goes on with the next arm",
		"case $label in @(a|b)) ;; one) esac": "1: @(a|b) is a pattern with a choice",
		"case $label in one) RW=Y":            "1: `case` statement must end with `esac`",
		"case $label on one) esac":            "1: `case x` must be followed by `in`",
		"case $label in\none\nesac":           "2: case patterns must be separated",
		"case $label in ) esac":               "1: case patterns must consist of words",
		"RW=Y\n;;":                            "2: `;;` can only be used in a case",
		"RW=Y\nesac":                          "2: `esac` can only be used to end",
		"case $label in one[12]) esac":        "1: no label",
		"case $label in a[b]) ;; one) esac":   "1: a pattern has a choice",
		"case $label in one|ONE) esac":        `1: the labels "one" and "ONE" would both be called one`,
		"case $label in --) esac":             `1: the label "--" has no letter`,
		"EXTRA_CMDLINE='a=\"b'" + labels:      "1: EXTRA_CMDLINE has a double quote",
		"RECIPE=a\x01b" + labels:              "1: RECIPE has bytes",
		"RECIPE=\xff" + labels:                "1: RECIPE has bytes",
		"A=" + strings.Repeat("x", 1<<20):     "1: has 1048578 bytes",
		"A=x\n" + strings.Repeat("A=$A$A\n", 64) + labels:                 "18: a value has more than",
		strings.Repeat("case a in *) ", 20) + strings.Repeat("esac ", 20): "1: there are more than 10 cases",
	} {
		_, err := Parse("hosts", "/d", []byte(src))
		bad := (*Error)(nil)
		if !errors.As(err, &bad) || !strings.HasPrefix(err.Error(), "hosts:"+want) {
			t.Errorf("%.60q: %v, want %q", src, err, want)
		}
	}
}

func TestScalar(t *testing.T) {
	for in, want := range map[string]string{
		"debian12": "debian12", "a/b.def": "a/b.def", "": `""`, "yes": `"yes"`, "12": `"12"`, "a: b": `"a: b"`, `a"\b`: `"a\"\\b"`, "a#b": `"a#b"`, "null": `"null"`, "-a": `"-a"`, "é": `"é"`,
	} {
		if got := scalar(in); got != want {
			t.Errorf("%q: %s, want %s", in, got, want)
		}
	}
}

// FuzzParse: whatever it takes, netroot.yaml takes, and it says the same.
func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.hosts")
	for _, name := range files {
		src, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(src))
	}
	f.Add("EXTRA_CMDLINE='rootovlcfg=a,b,,../c x=\"a rootovlcfg=d\" rootovlcfg=b,e'\ncase $label in a) ;; b) RW=Y ;; esac")
	f.Add("EXTRA_CMDLINE='rootovlcfg=\" \"'\ncase $label in 0)esac")
	f.Add("A='b'\"$PWD\"`c`$(d) e\ncase ${label} in (a|b*) EXTRA_QEMU=\"-m 4G -x \\\" # z\" # c\n;; esac")
	f.Fuzz(func(t *testing.T, src string) {
		h, err := Parse("hosts", "/d", []byte(src))
		if err != nil {
			return
		}
		text := h.YAML("hosts", "/d")
		c, err := config.Parse("/d/netroot.yaml", []byte(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if len(c.Labels) != len(h.Labels) {
			t.Fatalf("%d labels of %d\n%s", len(c.Labels), len(h.Labels), text)
		}
		for _, l := range h.Labels {
			got := c.Labels[l.Name]
			if got == nil || !slices.Equal(got.Layers, l.Layers) || got.RW != l.RW || got.Debug != l.Debug || !cmp.Equal(got.Qemu, l.Qemu) ||
				strings.Join(got.Cmdline, " ") != l.Cmdline || l.Recipe != "" && got.Recipe != filepath.Clean(l.Recipe) || l.Tree != "" && got.Tree != filepath.Clean(l.Tree) {
				t.Fatalf("%+v became %+v\n%s", l, got, text)
			}
		}
	})
}

// TestUnmatchedPatterns: a pattern that gives no label is named, and one that only adds to labels, or
// stands for all others, is not.
func TestUnmatchedPatterns(t *testing.T) {
	const src = `case $label in
one|two) RW=N ;;
t*) DEBUG=Y ;;
web?|db*) DEBUG=Y ;;
x[0-9]) DEBUG=Y ;;
*) DEBUG=N ;;
esac
case $label in
o*) DEBUG=Y ;;
*) DEBUG=N ;;
esac
`
	f, err := Parse("hosts", "/d", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, n := range f.Notes {
		if name, ok := strings.CutPrefix(n.Text, "the pattern "); ok {
			name, _, _ = strings.Cut(name, " ")
			got = append(got, fmt.Sprintf("%d %s", n.Line, name))
		}
	}
	if want := []string{"4 db*", "4 web?", "5 x[0-9]"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
