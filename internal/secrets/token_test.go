package secrets

import (
	"math/rand/v2"
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
		if diff := cmp.Diff(test.want, anyToken([]byte(test.text))); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
	want := []string{"/root/.bash_history:2 token", "/srv/deploy.sh:1 token"}
	dir := plant(t, map[string]string{
		"root/.bash_history":    "ls\ncurl -H 'Authorization: token gh" + "p_" + draw(letters, 36) + "'\n",
		"srv/deploy.sh":         "TOKEN=glp" + "at-" + draw(letters, 20) + "\n",
		"usr/share/doc/x/x.txt": "gh" + "p_" + draw(letters, 36) + "\n",
	})
	if diff := cmp.Diff(want, scan(t, dir)); diff != "" {
		t.Error(diff)
	}
}
