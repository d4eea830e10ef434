package nodeset

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// clusterShell has ClusterShell read expressions: a JSON list on standard input, a list of answers
// on standard output.
const clusterShell = `
import json, sys
from ClusterShell.NodeSet import NodeSet, NodeSetException
from ClusterShell.NodeUtils import GroupResolver, GroupSource
question = json.load(sys.stdin)
resolver = GroupResolver(GroupSource("site", question["groups"]))
resolver.add_source(GroupSource("label", question["labels"]))
def answer(text):
    try:
        nodes = NodeSet(text, resolver=resolver)
        steps = NodeSet(text, resolver=resolver, autostep=3)
        return {"folded": str(nodes), "names": list(nodes), "steps": str(steps)}
    except NodeSetException as e:
        return {"error": str(e)}
json.dump([answer(t) for t in question["texts"]], sys.stdout)
`

type answer struct {
	Folded, Steps, Error string
	Names                []string
}

// askClusterShell skips the test where ClusterShell is not installed.
func askClusterShell(t *testing.T, groups, labels map[string]string, texts []string) []answer {
	t.Helper()
	python := "/usr/bin/python3" // Debian's own, which has its packages
	if _, err := os.Stat(python); err != nil {
		python = "python3"
	}
	if exec.Command(python, "-c", "import ClusterShell").Run() != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("python3-clustershell is not installed: run make setup")
		}
		t.Skip("python3-clustershell is not installed")
	}
	question, err := json.Marshal(map[string]any{"groups": groups, "labels": labels, "texts": texts})
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(python, "-c", clusterShell)
	command.Stdin = bytes.NewReader(question)
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err != nil {
		t.Fatalf("ClusterShell: %v", err)
	}
	var answers []answer
	if err := json.Unmarshal(out, &answers); err != nil {
		t.Fatal(err)
	}
	return answers
}

var siteGroups = map[string]string{
	"all": "n[1-20],gw,r[1-4]n[01-12]", "rack1": "n[1-5]", "rack2": "n[6-10]", "odd": "n[1-19/2]", "dotted.name": "n1",
}
var siteLabels = map[string]string{"debian12": "n[1-3]", "rack1": "n20"}

func testGroups(source, name string) (Set, error) {
	groups := map[string]map[string]string{"": siteGroups, "site": siteGroups, "label": siteLabels}[source]
	if name == "*" {
		if all, ok := groups["all"]; ok {
			return Parse(all, nil)
		}
		var set Set
		for _, text := range groups {
			nodes, err := Parse(text, nil)
			if err != nil {
				return Set{}, err
			}
			set = set.Union(nodes)
		}
		return set, nil
	}
	text, ok := groups[name]
	if !ok {
		return Set{}, fmt.Errorf("unknown group %q", name)
	}
	return Parse(text, nil)
}

// Expressions that netroot refuses, where ClusterShell takes them for something that nobody meant.
var stricter = []string{
	"n1 n2", "n[1-2] [3-4]", "n1;n2", "(n1)", "n{1,2}", "n[+1]", "n[1_0]", "n[-1]", "n[1-2]@x", "é[1-2]",
	"n1[8-10]", "n1[8,10]", "n1[008-010,5]", "n[0,9-24]0", "@nosuch", "@label:nosuch", "@rack1!@nosuch", "x*", "@rack*",
}

// Expressions that both read alike, or both refuse.
var alike = []string{
	"", " ", "n1", "n", "n1,n2", "n1, n2", " n1 ", "n1-4", "n[1-5]", "n[5-1]", "n[01-03]", "n[01-3]", "n[1-010]", "n[1-3]4", "n1[0-3]",
	"n[1-3][4-5]", "n[1-10/3]", "n[001-010/2]", "n[1-3/0]", "n[1-3/-1]", "n[]", "n[1", "n1]", "n[a-b]", "n[1-]", "n[1:3]",
	"n1,n01,n001", "n[1,01,001]", "n[8,08-11]", "n[9,10,010]", "n[99,100,099,0100]", "n[0,00,000]", "n[08-99],n100", "n[98-102,098]",
	"n1,n2&n2,n3", "n[1-5]!n[2-3],n3", "n[1-3]^n[2-4],n9", "n1&n2", "n1^n1", "n1!n1", ",", "n1,", "n1,,n2", "n1!", "!n1", "&n1", "n1^",
	"b1,a1,n10,n9", "n1-ib,n1,n2", "a1b,a1a,a1", "A1,a1,Z", "n,n1x1,n1,nx", "1a,2a,3a", "x--1,x-2", "1", "[1-3]", "n1.d1,n2.d1,n2.d2",
	"a[1-2]b[3-4]", "a[1-2]-ib[3-4]c", "n1x1,n1x2,n2x1", "n[1-3]x[1-3]!n2x2", "n1x01,n1x1,n2x01", "n[1-2]x[1-2],n3x1",
	"r[1-4]n[01-12]!r2n05", "n10x1,n9x2,n9x1", "r[1-2]n[1-2]c[1-2]", "r[1-2]n[1-2]c[1-2]!r1n1c1",
	"@rack1", "@rack[1-2]", "@rack[1-2]!@rack1", "@rack1&@odd", "@label:debian12", "@label:*", "@*", "@all", "@site:all!@rack1", "@dotted.name",
	"*", "n1*", "n?", "n[1-2]?", "*!@rack1", "g?", "@label:debian[12]", "n[1,3,5,7]", "n[1-3,5,7,9]", "n[1,11,21,31]",
	"n[8-12]0", "n[0-10]0", "n[0-9]0", "n[1-9/2]0", "n0[9-10]", "n1[08-12]",
}

// generated makes expressions that any of us might write, always the same ones.
func generated(n int) []string {
	r := rand.New(rand.NewPCG(1, 2))
	pick := func(words ...string) string { return words[r.IntN(len(words))] }
	ranges := func() string {
		var parts []string
		for range 1 + r.IntN(3) {
			first := 1 + r.IntN(12)
			last := first + r.IntN(105)
			part := fmt.Sprint(first)
			switch r.IntN(4) {
			case 0:
				part = fmt.Sprintf("%03d-%03d", first, last)
			case 1:
				part = fmt.Sprintf("%d-%d", first, last)
			case 2:
				part = fmt.Sprintf("%d-%d/%d", first, last, 1+r.IntN(5))
			}
			parts = append(parts, part)
		}
		return "[" + strings.Join(parts, ",") + "]"
	}
	operand := func() string {
		switch r.IntN(7) {
		case 3:
			return fmt.Sprintf("n1[%d-%d]", 10+r.IntN(40), 50+r.IntN(50)) + pick("", "-ib", "0")
		case 0:
			return pick("@rack1", "@rack2", "@odd", "@label:debian12", "@*", "n1*", "@rack[1-2]")
		case 1:
			return fmt.Sprintf("r%dn%s", 1+r.IntN(3), fmt.Sprintf("[%d-%d]", 1, 1+r.IntN(5)))
		case 2:
			return pick("n", "m", "gw") + fmt.Sprint(r.IntN(30)) + pick("", "", "-ib")
		default:
			return pick("n", "n", "m") + ranges() + pick("", "", "", "-ib", "0")
		}
	}
	texts := make([]string, n)
	for i := range texts {
		texts[i] = operand()
		for range r.IntN(4) {
			texts[i] += pick(",", ",", "!", "&", "^", ", ", " ! ") + operand()
		}
	}
	return texts
}

func TestClusterShell(t *testing.T) {
	texts := slices.Concat(alike, generated(600))
	for i, want := range askClusterShell(t, siteGroups, siteLabels, texts) {
		got, err := Parse(texts[i], testGroups)
		if (err != nil) != (want.Error != "") {
			t.Errorf("%q: got error %v, ClusterShell %q", texts[i], err, want.Error)
			continue
		}
		if err != nil {
			continue
		}
		if !slices.Equal(sorted(got.All()), sorted(slices.Values(want.Names))) {
			t.Errorf("%q: got %s, ClusterShell %s", texts[i], got, want.Folded)
			continue
		}
		if got.String() != want.Folded {
			t.Errorf("%q: folded to %s, by ClusterShell to %s", texts[i], got, want.Folded)
		}
		if got.FoldSteps(3) != want.Steps {
			t.Logf("%q: folded with steps to %s, by ClusterShell to %s", texts[i], got.FoldSteps(3), want.Steps)
		}
		if again, err := Parse(got.FoldSteps(3), nil); err != nil || again.String() != got.String() {
			t.Errorf("%q: folded with steps to %s, which is read as %s, %v", texts[i], got.FoldSteps(3), again, err)
		}
	}
}

func TestStricterThanClusterShell(t *testing.T) {
	for i, theirs := range askClusterShell(t, siteGroups, siteLabels, stricter) {
		if theirs.Error != "" {
			t.Errorf("%q: ClusterShell refuses it now: %s", stricter[i], theirs.Error)
		}
		if got, err := Parse(stricter[i], testGroups); err == nil {
			t.Errorf("%q: read as %s", stricter[i], got)
		}
	}
}

func sorted(names func(func(string) bool)) []string {
	all := slices.Collect(names)
	slices.Sort(all)
	return all
}
