package config

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSplitShell asks a shell what the words are.
func TestSplitShell(t *testing.T) {
	for _, line := range []string{
		"",
		"  -smp 2\t-cpu  max ",
		`-name 'two words' -append "a b"`,
		`-smbios type=1,serial="my node",uuid='x y'z`,
		`"" '' a""b`,
		`a\ b \"c\" \\ '\n' "\n \$x \" \\ '"`,
		`'it'\''s' "it's"`,
	} {
		out, err := exec.Command("sh", "-c", `eval "set -- $1"; for w; do printf '%s\037' "$w"; done`, "sh", line).Output()
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for word := range strings.SplitAfterSeq(string(out), "\037") {
			if word, ok := strings.CutSuffix(word, "\037"); ok {
				want = append(want, word)
			}
		}
		got, err := splitShell(line)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%q: %v\n%s", line, err, diff)
		}
	}
	if got, err := splitShell("a\n'b\nc'\r\n"); err != nil || !cmp.Equal(got, []string{"a", "b\nc"}) {
		t.Errorf("over lines: %q, %v", got, err)
	}
	for line, want := range map[string]string{`a 'b`: "quote ' is not closed", `"a`: `quote " is not closed`, `a\`: "backslash", `"a\`: "backslash"} {
		if got, err := splitShell(line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %q, %v", line, got, err)
		}
	}
}
