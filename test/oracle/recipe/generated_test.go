package recipe

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// These are the pieces of generated recipes: common text, and common mistakes.
var (
	keys = []string{
		"From: debian:12", "OSVersion: bookworm", "MirrorURL: http://m.example/x", "MIRRORURL: http://m.example/#frag", "UpdateURL :x", "OtherURL3: y",
		"Include: a b \\\n  c d", "Include: a\\\nb", "Include: a\\n\\\n b", "Include: a \\", "Include: a\\", "Include: \\", "  c d", "Include: a\\n\\", "otherurl: z", "MetaLink: m", "Stage: one", "Stage: two", "# a comment", "",
		"   ", "no colon", "Setopt: k=v # why", "Include:", "fingerprints: AB,CD", "GPG: file:///k", ":", "Include: b \\\r", "From: x:y:z", "Library: a\\\\",
	}
	heads = []string{"Bootstrap: scratch", "bootstrap: docker", "BootStrap: debootstrap", "Bootstrap:  yum # x", "Bootstrap: Yum", "Bootstrap:", " Bootstrap: x", "Bootstrap : x"}
	names = []string{
		"%post", "%post", "%pre", "%setup", "%files", "%files", "%files from one", "%files from none", "%files from one two", "%files x", "%files FROM one", "%files  # x", "%files x one", "%environment", "%labels",
		"%runscript", "%startscript", "%test", "%help", "%arguments", "%POST", "%%post", "%post -c /bin/bash", "%post -u # x", "%post -c", "%post\t-c x",
		"%runscript -x", "%end", "%", "% post", "  %post", "%wheel ALL=(ALL) ALL", "%apprun a", "%appinstall a", "%appinstall b", "%appfiles a", "%applabels a", "%appenv",
		"%APPRUN a", "%apphelp a b", "%appinstall a -x", "%appinstall a#b", "%files ", "%labels  x",
	}
	texts = []string{
		"echo hello", "  touch /x", "# comment", "", "\t", "a b", "a", "KEY value with blanks", "K\tv", "\"a b\" /c", "'a b' c", "a # b", "a b # c", "{{ X }}", "X=1", "x{{ y }}z w",
		"cat <<EOF", "EOF", "#%post", "%{macro}", "a \"b", "\"\" x", "a\\ b c", "${HOME}/x /y", "trailing  ", "\u00e9\u4e16", "Bootstrap: scratch", "bootstrap:x", "crlf\r",
		"a\"b c\"d e", "a\fb", "a\f", "*.txt /new/", "a\u00a0b c", "k  v", "=", "#", "a #b",
	}
)

// generate returns a recipe. Most recipes are almost right.
func generate(rnd *rand.Rand) string {
	pick := func(from []string) string { return from[rnd.IntN(len(from))] }
	usual := func(from []string, n int) string { // mostly one of the first n
		if rnd.IntN(4) > 0 {
			return from[rnd.IntN(n)]
		}
		return pick(from)
	}
	var b strings.Builder
	line := func(s string) { b.WriteString(s + "\n") }
	if rnd.IntN(8) == 0 {
		line(pick(keys))
	}
	for range 1 + rnd.IntN(3) {
		line(usual(heads, 4))
		for range rnd.IntN(4) {
			line(usual(keys, 9))
		}
		for range rnd.IntN(5) {
			line(usual(names, 19))
			for range rnd.IntN(5) {
				line(usual(texts, 16))
			}
		}
	}
	if rnd.IntN(4) == 0 {
		return strings.TrimSuffix(b.String(), "\n")
	}
	return b.String()
}

func TestGenerated(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	taken, wrong := 0, 0
	const n = 20_000
	for range n {
		text := generate(rnd)
		if _, err := theirs([]byte(text)); err == nil {
			taken++
		}
		if d := compare([]byte(text)); d != "" {
			if wrong++; wrong > 10 {
				t.Fatal("and so on")
			}
			t.Errorf("%q\n%s\n%s", text, text, d)
		}
	}
	t.Logf("%d recipes, of which Apptainer takes %d", n, taken)
	if taken < n/20 {
		t.Errorf("Apptainer takes only %d of %d: they compare too little", taken, n)
	}
}

func FuzzStrict(f *testing.F) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		f.Add([]byte(generate(rnd)))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if d := compare(text); d != "" {
			t.Error(d)
		}
	})
}
