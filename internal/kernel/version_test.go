package kernel

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// debianOrdered has pairs of which the first is older; the versions of an "=" pair are equal.
var debianOrdered = [][2]string{
	{"6.1.0-9-amd64", "6.1.0-10-amd64"},
	{"6.1.0-56-amd64", "6.1.0-56-cloud-amd64"},
	{"5.10.0-35-amd64", "6.1.0-9-amd64"},
	{"6.9.7-amd64", "6.12.38+deb13-amd64"},
	{"6.12.9-amd64", "6.12.9+bpo-amd64"},
	{"6.12.38+deb13-amd64", "6.12.48+deb13-amd64"},
	{"6.8.0-9-generic", "6.8.0-31-generic"},
	{"4.19.0-27-amd64", "4.19.0-27-rt-amd64"},
	{"6.12~rc7-amd64", "6.12-amd64"},
	{"1.0~", "1.0"},
	{"1.0", "1.0a"},
	{"1.0a", "1.0+"},
	{"1", "1-1"},
	{"1.2", "1.10"},
	{"1-a-1", "1-b-1"},
}

var rpmOrdered = [][2]string{
	{"1.9", "1.10"},
	{"1.0", "1.0.1"},
	{"1.0~rc1", "1.0"},
	{"1.0~rc1", "1.0~rc2"},
	{"1.0", "1.0^git1"},
	{"1.0^git1", "1.0.1"},
	{"1.0~rc1^git1", "1.0~rc2"},
	{"1.0~rc1", "1.0~rc1^git1"},
	{"1.0a", "1.0.1"},
	{"a", "1"},
	{"a", "b"},
	{"A", "a"},
	{"2", "10"},
	{"503.el9", "503.11.1.el9"},
	{"5.fc9", "5.fc10"},
}

var rpmEqual = [][2]string{{"1.0", "1_0"}, {"1.0", "1.0."}, {"1.010", "1.10"}, {"", ""}, {"", "."}, {"1.0~~", "1.0~~"}}

var releaseOrdered = [][2]string{
	{"5.14.0-70.13.1.el9_0.x86_64", "5.14.0-503.11.1.el9_5.x86_64"},
	{"5.14.0-503.el9.x86_64", "5.14.0-503.11.1.el9_5.x86_64"},
	{"4.18.0-553.el8_10.x86_64", "5.14.0-70.el9.x86_64"},
	{"6.9.12-200.fc40.x86_64", "6.11.4-301.fc41.x86_64"},
	{"6.11.4-301.fc41.x86_64+debug", "6.11.4-301.fc41.x86_64"},
	{"6.11.4-301.fc41.x86_64", "6.11.5-300.fc41.x86_64+debug"},
	{"0-rescue-0123456789abcdef", "3.10.0-1160.el7.x86_64"},
	{"6.9-100.x86_64", "6.9.1-1.x86_64"},
	{"linux", "6.9.7-arch1-1"},
}

func checkOrder(t *testing.T, compare func(a, b string) int, ordered [][2]string, want int) {
	t.Helper()
	for _, p := range ordered {
		if got := compare(p[0], p[1]); got != want {
			t.Errorf("%q and %q: %d, want %d", p[0], p[1], got, want)
		}
		if got := compare(p[1], p[0]); got != -want {
			t.Errorf("%q and %q: %d, want %d", p[1], p[0], got, -want)
		}
	}
}

func TestVersionOrder(t *testing.T) {
	checkOrder(t, compareDebian, debianOrdered, -1)
	checkOrder(t, rpmVercmp, rpmOrdered, -1)
	checkOrder(t, rpmVercmp, rpmEqual, 0)
	checkOrder(t, compareRPM, releaseOrdered, -1)
}

// randomPairs returns pairs of similar versions with the characters of an alphabet.
func randomPairs(alphabet string, n int) [][2]string {
	r := rand.New(rand.NewPCG(1, 2))
	text := func(n int) string {
		var b strings.Builder
		for range r.IntN(n) {
			b.WriteByte(alphabet[r.IntN(len(alphabet))])
		}
		return b.String()
	}
	var pairs [][2]string
	for range n {
		head := "1" + text(4)
		pairs = append(pairs, [2]string{head + text(4), head + text(4)})
	}
	return pairs
}

func needTool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s is needed as an oracle: install the package %s", name, name)
		}
		t.Skipf("%s is not installed", name)
	}
	return path
}

func TestDpkgAgrees(t *testing.T) {
	dpkg := needTool(t, "dpkg")
	for _, p := range append(randomPairs("019a~.+-", 120), debianOrdered...) {
		if strings.HasSuffix(p[0], "-") || strings.HasSuffix(p[1], "-") {
			continue // dpkg refuses an empty revision
		}
		op := map[int]string{-1: "lt", 0: "eq", 1: "gt"}[cmp.Compare(compareDebian(p[0], p[1]), 0)]
		if out, err := exec.Command(dpkg, "--compare-versions", p[0], op, p[1]).CombinedOutput(); err != nil {
			t.Errorf("dpkg does not find that %q %s %q: %v %s", p[0], op, p[1], err, out)
		}
	}
}

func TestRPMAgrees(t *testing.T) {
	rpm := needTool(t, "rpm")
	// The versions have no hyphen, because rpm.vercmp takes the text after a hyphen as the
	// release.
	pairs := append(randomPairs("019ab~^._+", 1000), rpmOrdered...)
	var lua strings.Builder
	for _, p := range pairs {
		fmt.Fprintf(&lua, "print(rpm.vercmp(%q, %q) .. \" \") ", p[0], p[1])
	}
	out, err := exec.Command(rpm, "--eval", "%{lua:"+lua.String()+"}").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	answers := strings.Fields(string(out))
	if len(answers) != len(pairs) {
		t.Fatalf("rpm answered %d of %d questions: %s", len(answers), len(pairs), out)
	}
	for i, p := range pairs {
		if got := fmt.Sprint(rpmVercmp(p[0], p[1])); got != answers[i] {
			t.Errorf("%q and %q: %s, rpm says %s", p[0], p[1], got, answers[i])
		}
	}
}

func FuzzCompare(f *testing.F) {
	for _, p := range append(debianOrdered, rpmOrdered...) {
		f.Add(p[0], p[1])
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		for name, compare := range map[string]func(a, b string) int{"debian": compareDebian, "rpm": compareRPM} {
			if compare(a, b) != -compare(b, a) || compare(a, a) != 0 {
				t.Errorf("%s order of %q and %q is inconsistent", name, a, b)
			}
		}
	})
}
