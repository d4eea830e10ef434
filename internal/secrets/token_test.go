package secrets

import (
	"math/rand/v2"
	"regexp/syntax"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	digits  = "0123456789"
	hex     = digits + "abcdef"
	letters = digits + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + "abcdefghijklmnopqrstuvwxyz"
)

// draw returns a random part for a token. The tokens of these tests belong to nobody, and are
// assembled here, so that tools that search this source for tokens find none.
func draw(alphabet string, n int) string {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	out := make([]byte, n)
	for i := range out {
		out[i] = alphabet[r.IntN(len(alphabet))]
	}
	return string(out)
}

// tokens are the lines of a text with tokens.
func tokens(text string) []int {
	var lines []int
	for _, f := range inspect("srv/x", nil, []byte(text)) {
		lines = append(lines, f.Line)
	}
	return lines
}

// TestFormats: of each format, an example that is made here is found, and one that is too short, or
// is a part of a word, is not.
func TestFormats(t *testing.T) {
	for _, f := range tokenFormats {
		if f.mark == awsID.mark || f.mark == awsTemporary.mark {
			continue // TestTokens has the pair that they are half of
		}
		parsed, err := syntax.Parse(f.pattern.String(), syntax.Perl)
		if err != nil {
			t.Fatal(err)
		}
		r := rand.New(rand.NewPCG(7, uint64(len(f.mark))))
		token := generate(r, parsed)
		if !strings.HasPrefix(token, f.mark) {
			t.Fatalf("%s: generated %q", f.mark, token)
		}
		if got := tokens("x: '" + token + "'\n"); len(got) != 1 {
			t.Errorf("%s (%s): the token is not found", f.mark, f.what)
		}
		for what, text := range map[string]string{
			"a part of a word": "a" + token,
			"too short":        token[:len(f.mark)+10],
			"all one letter":   f.mark + strings.Map(func(c rune) rune { return oneLetter(c) }, token[len(f.mark):]),
		} {
			if got := tokens(text); got != nil {
				t.Errorf("%s (%s): %s is found in %q", f.mark, f.what, what, text)
			}
		}
	}
}

func oneLetter(c rune) rune {
	switch {
	case c >= '0' && c <= '9':
		return '0'
	case c >= 'a' && c <= 'z':
		return 'a'
	case c >= 'A' && c <= 'Z':
		return 'A'
	}
	return c
}

// generate makes a text that an expression matches, as short as it allows.
func generate(r *rand.Rand, x *syntax.Regexp) string {
	var b strings.Builder
	switch x.Op {
	case syntax.OpLiteral:
		b.WriteString(string(x.Rune))
	case syntax.OpCharClass:
		var all []rune
		for i := 0; i < len(x.Rune); i += 2 {
			for c := x.Rune[i]; c <= x.Rune[i+1]; c++ {
				all = append(all, c)
			}
		}
		b.WriteRune(all[r.IntN(len(all))])
	case syntax.OpRepeat, syntax.OpPlus, syntax.OpStar, syntax.OpQuest:
		for range map[syntax.Op]int{syntax.OpRepeat: x.Min, syntax.OpPlus: 9}[x.Op] {
			b.WriteString(generate(r, x.Sub[0]))
		}
	default: // a concatenation, a group, an anchor
		for _, sub := range x.Sub {
			b.WriteString(generate(r, sub))
		}
	}
	return b.String()
}

func TestTokens(t *testing.T) {
	awsID, awsSecret := "AK"+"IA"+draw("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16), draw(letters+"/+", 40)
	for _, test := range []struct {
		name, text string
		want       []int
	}{
		{"classic", "export TOKEN=gh" + "p_" + draw(letters, 36) + "\n", []int{1}},
		{"of an app, in a URL", "\n\nurl = https://x-access-token:gh" + "s_" + draw(letters, 36) + "@git.example.org/a/b\n", []int{3}},
		{"fine-grained", `{"token": "github` + "_pat_" + draw(letters, 22) + "_" + draw(letters, 59) + `"}`, []int{1}},
		{"at the file's beginning and end", "gh" + "o_" + draw(letters, 36), []int{1}},
		{"GitLab", "password: glp" + "at-" + draw(letters+"-_", 20), []int{1}},
		{"GitLab, routable", "a\nglp" + "at-" + draw(letters+"-_", 27) + ".01." + draw(digits, 7) + "\n", []int{2}},
		{"Slack", "xo" + "xb-" + draw(digits, 12) + "-" + draw(digits, 12) + "-" + draw(letters, 24) + "\nxa" + "pp-1-" + "A0" + draw(digits, 9) + "-" + draw(digits, 13) + "-" + draw(hex, 64), []int{1, 2}},
		{"two in a line", "gh" + "p_" + draw(letters, 36) + " gh" + "o_" + draw(letters, 36), []int{1}},
		{"AWS", "AWS_ACCESS_KEY_ID=" + awsID + "\nregion=x\nAWS_SECRET_ACCESS_KEY='" + awsSecret + "'\n", []int{3}},
		{"AWS, JSON", `{"AccessKeyId": "` + awsID + `", "SecretAccessKey": "` + awsSecret + `"}`, []int{1}},

		{"AWS, the id alone", "AWS_ACCESS_KEY_ID=" + awsID + "\n", nil},
		{"AWS, the other half alone", "secret_key=" + awsSecret + "\n", nil},
		{"AWS, a digest in its place", "id=" + awsID + "\nsecret_key=" + draw(hex, 64) + "\n", nil},
		{"AWS's manual", "aws_access_key_id = AK" + "IAIOSFODNN7EXAMPLE\naws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCY" + "EXAMPLEKEY\n", nil},
		{"too short", "gh" + "p_" + draw(letters, 35) + "\nglp" + "at-" + draw(letters, 19) + "\nxo" + "xb-12-" + draw(letters, 20), nil},
		{"within a word", "Xgh" + "p_" + draw(letters, 36) + " my_glp" + "at-" + draw(letters, 20), nil},
		{"goes on", "github" + "_pat_" + draw(letters, 22) + "_" + draw(letters, 60), nil},
		{"placeholders", "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\nglpat-your-access-token-goes-here\nghp_" + "abababababababababababababababababababab", nil},
		{"what finds them", `re.compile("gh[pousr]_[A-Za-z0-9]{36}|glpat-[A-Za-z0-9_-]{20}|xox[abp]-")`, nil},
		{"binary", "\x00gh" + "p_" + draw(letters, 36), nil},
	} {
		if diff := cmp.Diff(test.want, tokens(test.text)); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
	want := []string{"/root/.bash_history:2 token", "/srv/deploy.sh:1 token", "/usr/share/doc/x/x.txt:1 token"}
	dir := plant(t, map[string]string{
		"root/.bash_history":    "ls\ncurl -H 'Authorization: token gh" + "p_" + draw(letters, 36) + "'\n",
		"srv/deploy.sh":         "TOKEN=glp" + "at-" + draw(letters, 20) + "\n",
		"usr/share/doc/x/x.txt": "gh" + "p_" + draw(letters, 36) + "\n",
	})
	if diff := cmp.Diff(want, scanned(t, dir)); diff != "" {
		t.Error(diff)
	}
}
