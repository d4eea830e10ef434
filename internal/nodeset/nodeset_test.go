package nodeset

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", ""},
		{"n1,n2&n2,n3", "n[2-3]"}, // operators go from left to right
		{"n[1-5]!n[2-3],n3", "n[1,3-5]"},
		{"n1,n01,n001", "n[1,01,001]"},
		{"n[1-3]4", "n[14,24,34]"},
		{"n[001-010/3]", "n[001,004,007,010]"},
		{"a[1-2]b[3-4]", "a[1-2]b[3-4]"},
		{"@rack[1-2]!@odd", "n[2,4,6,8,10]"},
		{"node123456789012345678", "node123456789012345678"}, // more digits than a number has
		{"n*&@label:rack1", "n20"},
	} {
		got, err := Parse(c.text, testGroups)
		if err != nil || got.String() != c.want {
			t.Errorf("%q: got %s, %v; want %s", c.text, got, err, c.want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		"n[1-3":                 `"n[1-3": the bracket is not closed`,
		"n1]":                   `"n1]": a closing bracket without an opening one`,
		"n[1[2]]":               `a range in a range`,
		"n1,,n2":                `has no node or group on one of its sides`,
		"n[5-1]":                `"n[5-1]": range "5-1": it ends before it starts`,
		"n[01-100]":             `its ends have different numbers of leading zeros`,
		"n[1-9/0]":              `the step is 0`,
		"n[a]":                  `write a number, FIRST-LAST or FIRST-LAST/STEP`,
		"n[1-2][3-4]":           `two ranges with nothing between them`,
		"n1 n2":                 `"n1 n2": a blank inside a name: separate nodes by commas`,
		"n1;reboot":             `';' is not a character of a node's name`,
		"n[1-100000]":           `more than 65536 nodes in one expression`,
		"a[1-300]b[1-300]":      `more than 65536 nodes in one expression`,
		"n[1-40000],m[1-40000]": `more than 65536 nodes in one expression`,
		"@all!@drianed":         `unknown group "drianed"`,
		"@:x":                   `the source before the colon has no name`,
		"@label:":               `the group has no name`,
		"x?":                    `"x?": no node has such a name`,
		"n1[8-10]":              `a digit before a range of numbers of different lengths`,
	} {
		got, err := Parse(text, testGroups)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %s, error %v; want error %q", text, got, err, want)
		}
	}
}

func TestNoGroups(t *testing.T) {
	for _, text := range []string{"@a", "n*"} {
		if got, err := Parse(text, nil); err == nil {
			t.Errorf("%q without groups: got %s", text, got)
		}
	}
	failed := errors.New("the source is away")
	if _, err := Parse("n1,@a", func(string, string) (Set, error) { return Set{}, failed }); !errors.Is(err, failed) {
		t.Errorf("got %v, want the error of the groups", err)
	}
}

func TestSet(t *testing.T) {
	s := Of("n10", "n9", "gw", "n9", "r1n2")
	if got := slices.Collect(s.All()); !slices.Equal(got, []string{"gw", "n9", "n10", "r1n2"}) {
		t.Errorf("names are %q", got)
	}
	if s.Len() != 4 || !s.Contains("n9") || s.Contains("n09") || s.Contains("") {
		t.Errorf("%s: Len %d", s, s.Len())
	}
}

// Vectors of names that are no product stay few, and none is lost.
func TestManyDimensions(t *testing.T) {
	var names []string
	for r := range 60 {
		for n := range 60 {
			if (r*31+n*17)%7 != 0 {
				names = append(names, fmt.Sprintf("r%dn%02d", r, n))
			}
		}
	}
	s := Of(names...)
	again, err := Parse(s.String(), nil)
	if err != nil || again.Len() != len(names) || again.Difference(s).Len() != 0 {
		t.Errorf("%d names, read again %d, %v", len(names), again.Len(), err)
	}
	if text := s.String(); len(text) > 6000 {
		t.Errorf("folded to %d bytes", len(text))
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range slices.Concat(alike, stricter, generated(50)) {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text, testGroups)
		if err != nil {
			return
		}
		if s.Len() > MaxNodes {
			t.Fatalf("%d nodes", s.Len())
		}
		if s.Len() > 2000 {
			return // the comparison below would take most of the time
		}
		for _, folded := range []string{s.String(), s.FoldSteps(3)} {
			again, err := Parse(folded, nil)
			if err != nil || again.SymmetricDifference(s).Len() != 0 {
				t.Fatalf("%q is %q, which is read as %s, %v", text, folded, again, err)
			}
		}
	})
}

func BenchmarkParseAndFold(b *testing.B) {
	var names []string
	for i := range 10_000 {
		names = append(names, fmt.Sprintf("n%05d", i*7919%10_000))
	}
	text := strings.Join(names, ",")
	for b.Loop() {
		s, err := Parse(text, nil)
		if err != nil || s.String() != "n[00000-09999]" {
			b.Fatal(s, err)
		}
	}
}
