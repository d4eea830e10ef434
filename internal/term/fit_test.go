package term

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestFit(t *testing.T) {
	rows := [][]string{
		{"", "IMAGE", "SIZE", "SYSTEM"},
		{"*", "debian12@0123456789ab", "410 MiB", "Debian GNU/Linux 12 (bookworm)"},
		{"", "größe", "1 B"},
	}
	for width, want := range map[int]string{
		0:  "*  debian12@0123456789ab  410 MiB  Debian GNU/Linux 12 (bookworm)",
		80: "*  debian12@0123456789ab  410 MiB  Debian GNU/Linux 12 (bookworm)",
		65: "*  debian12@0123456789ab  410 MiB  Debian GNU/Linux 12 (bookworm)",
		64: "*  debian12@0123456789ab  410 MiB  Debian GNU/Linux 12 (bookwor…",
		42: "*  debian12@0123456789ab  410 MiB",
		30: "*  debian12@0123456789ab",
		12: "*  debian12…",
		1:  "*",
	} {
		var b strings.Builder
		if err := Table(&b, Fit(rows, width)); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
		if got := strings.TrimRight(lines[1], " "); got != want {
			t.Errorf("width %d: %q, want %q", width, got, want)
		}
		for _, line := range lines {
			if n := utf8.RuneCountInString(strings.TrimRight(line, " ")); width > 0 && n > width {
				t.Errorf("width %d: %q has %d characters", width, line, n)
			}
		}
	}
	if got := Fit([][]string{{"abcdefghij"}}, 5); got[0][0] != "abcd…" {
		t.Errorf("a first column that is too wide: %q", got)
	}
}
