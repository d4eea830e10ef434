package recipe

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBuildArguments(t *testing.T) {
	const src = `Bootstrap: scratch
From: {{A}}-{{ B }}
%arguments
A=default
B=<{{ A }}>
%post {{SHELL}}
#!{{ SHELL }}
x#{{ A }}
`
	r := parse(t, src, Options{Args: map[string]string{"A": "given", "SHELL": "-u"}})
	st := r.Stages[0]
	if from, _ := st.Header.Get("From"); from != "given-<given>" {
		t.Errorf("From is %q", from)
	}
	if diff := cmp.Diff([]Pair{{"A", "default", 4}, {"B", "<given>", 5}}, st.Arguments); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(Script{Args: []string{"-u"}, Body: "#!-u\nx#given\n", Line: 6}, *st.Post); diff != "" {
		t.Error(diff)
	}
	want := strings.NewReplacer("{{A}}-{{ B }}", "given-<given>", "{{ A }}", "given", "{{SHELL}}", "-u", "{{ SHELL }}", "-u").Replace(src)
	if diff := cmp.Diff(want, string(r.Source)); diff != "" {
		t.Errorf("source:\n%s", diff)
	}
	roundTrip(t, r, Options{})
}

// TestArgumentAfterHash checks that text after a '#' is left alone, as in Apptainer, with and
// without a blank before it, and that the reader is told.
func TestArgumentAfterHash(t *testing.T) {
	const src = "Bootstrap: scratch\n%post\nx#y {{ A }}\ns/a/#b {{ item }}/\n#!{{ A }}\n%arguments\nA=1\n"
	for _, strict := range []bool{false, true} {
		r := parse(t, src, Options{Strict: strict})
		if body := r.Stages[0].Post.Body; body != "x#y {{ A }}\ns/a/#b {{ item }}/\n#!1\n" {
			t.Errorf("strict %v: %q", strict, body)
		}
		if len(r.Warnings) != 2 || r.Warnings[1].String() != "x.def:4: %post: a build argument after a # is not replaced" {
			t.Errorf("strict %v: warnings %v", strict, r.Warnings)
		}
	}
}

func TestGivenArguments(t *testing.T) {
	const src = "Bootstrap: scratch\n%arguments\nUSED=1\n%post\n{{ USED }}\n"
	for _, test := range []struct {
		src, want string
		args      map[string]string
	}{
		{src, "x.def: unused build arguments: A, B; the recipe uses USED", map[string]string{"B": "", "A": "", "USED": "x"}},
		{"Bootstrap: scratch\n", "x.def: unused build arguments: A; the recipe has no build arguments", map[string]string{"A": ""}},
		{src, "x.def: the value of build argument USED is not one line of text", map[string]string{"USED": "a\n%post"}},
		{src, "", map[string]string{"USED": "%test"}},
	} {
		_, err := Parse("x.def", []byte(test.src), Options{Args: test.args})
		checkError(t, "default", err, test.want)
	}
}

func TestParseArgs(t *testing.T) {
	args, warnings, err := ParseArgs("args", []byte("# comment\r\nA = 1=2 \r\n\nbad\nB=\nA=3"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"A": "3", "B": ""}, args); diff != "" {
		t.Error(diff)
	}
	if len(warnings) != 1 || warnings[0].String() != `args:4: "bad" is skipped, because it is not KEY=VALUE` {
		t.Errorf("warnings: %v", warnings)
	}
	if _, _, err := ParseArgs("args", []byte("A=\x00")); err == nil {
		t.Error("a binary file was read")
	}
}
