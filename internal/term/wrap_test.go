package term

import (
	"strings"
	"testing"
)

func TestWrap(t *testing.T) {
	for _, test := range []struct {
		text  string
		width int
		want  string
	}{
		{"one two three", 0, "one two three"},
		{"one two three", 7, "one two\n  three"},
		{"one two three\n", 13, "one two three\n"},
		{"a b\n  - c d e\n\nf", 6, "a b\n  - c\n    d\n    e\n\nf"},
		{"größer größe", 12, "größer größe"},
		{"see /a/path/that/is/long for it", 10, "see\n  /a/path/that/is/long\n  for it"},
		{"\x1b[33mwarning\x1b[0m: x", 10, "\x1b[33mwarning\x1b[0m: x"},
		{"a  b c", 6, "a  b c"},
	} {
		if got := Wrap(test.text, test.width, "  "); got != test.want {
			t.Errorf("%q in %d columns: %q, want %q", test.text, test.width, got, test.want)
		}
	}
}

func TestFacts(t *testing.T) {
	rows := [][2]string{{"image", "tiny@1"}, {"time", "1 s (%post 1 s, pack 2 s)"}}
	for width, want := range map[int]string{
		0:  "image  tiny@1\ntime   1 s (%post 1 s, pack 2 s)\n",
		20: "image  tiny@1\ntime   1 s (%post 1\n       s, pack 2 s)\n",
	} {
		var b strings.Builder
		if err := Facts(&b, rows, width); err != nil || b.String() != want {
			t.Errorf("%d columns: %v\n%s", width, err, b.String())
		}
	}
}
