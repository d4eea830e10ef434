package nearest

import "testing"

func TestName(t *testing.T) {
	keys := []string{"recipe", "tree", "transport", "rw", "debug", "cmdline", "qemu", "overlay"}
	for _, tt := range []struct{ want, name string }{
		{"recipe", "recipe"},
		{"recpie", "recipe"},
		{"Recipe", "recipe"},
		{"trasnport", "transport"},
		{"cmd_line", "cmdline"},
		{"cmdlines", "cmdline"},
		{"r", "rw"},
		{"ro", "rw"},
		{"wr", "rw"},
		{"teer", "tree"},
		{"qemu_args", ""},
		{"password", ""},
		{"", ""},
	} {
		if got := Name(tt.want, keys); got != tt.name {
			t.Errorf("Name(%q) = %q, want %q", tt.want, got, tt.name)
		}
	}
	if got := Name("anything", nil); got != "" {
		t.Errorf("Name of nothing = %q", got)
	}
	if got := Hint("debain12", []string{"rocky9", "debian12"}); got != `; did you mean "debian12"?` {
		t.Errorf("Hint = %q", got)
	}
	if got := Hint("zzz", keys); got != "" {
		t.Errorf("Hint = %q", got)
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		d    int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0},
		{"abc", "acb", 1}, {"abc", "abd", 1}, {"kitten", "sitting", 3}, {"abcd", "dcba", 3},
	} {
		if got := distance(tt.a, tt.b); got != tt.d {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.a, tt.b, got, tt.d)
		}
		if got := distance(tt.b, tt.a); got != tt.d {
			t.Errorf("distance(%q, %q) = %d, want %d", tt.b, tt.a, got, tt.d)
		}
	}
}
