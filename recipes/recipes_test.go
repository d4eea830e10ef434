// Package recipes_test checks the ready recipes and the labels of the example configuration: a
// label builds every recipe, the recipe's scripts are valid shell, and its comment describes each
// build argument without a default. It does not build the recipes. test/bootvm builds and boots
// debian11, debian12, debian13 and, in make soak, debiansid. It builds rocky9, rocky9-hpcnode,
// fedora and centos7 from packages made for the test; the other recipes are only built by hand,
// from the mirrors of their distributions.
package recipes_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"netroot/internal/bootstrap"
	"netroot/internal/config"
	"netroot/internal/recipe"
)

// asked has values for the build arguments that have no default.
var asked = map[string]string{"MIRROR": "https://mirror.example/pub", "KEY": "https://mirror.example/key", "EPEL": "https://mirror.example/epel/9"}

func TestLabels(t *testing.T) {
	cfg, err := config.Load("../netroot.yaml")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, name := range cfg.Names() {
		t.Run(name, func(t *testing.T) {
			l, err := cfg.Label(name)
			if err != nil {
				t.Fatal(err)
			}
			used[filepath.Base(l.Recipe)] = true
			r := read(t, l.Recipe, l.BuildArgs)
			for _, w := range r.Warnings {
				t.Errorf("%s", w)
			}
			if len(r.Stages) != 1 {
				t.Fatalf("%d stages", len(r.Stages))
			}
			st := r.Stages[0]
			if _, err := bootstrap.For(st.Agent()); err != nil {
				t.Error(err)
			}
			for name, script := range map[string]*recipe.Script{"%pre": st.Pre, "%post": st.Post, "%test": st.Test} {
				if script != nil {
					checkShell(t, name, script.Body)
				}
			}
			if st.Test == nil {
				t.Error("the recipe has no test section")
			}
		})
	}
	files, err := filepath.Glob("*.def")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !used[f] {
			t.Errorf("no label builds %s", f)
		}
	}
}

// read parses a recipe with its label's arguments and those of asked that it requires. The comment
// of the recipe must describe each of the latter.
func read(t *testing.T, file string, args map[string]string) *recipe.Recipe {
	t.Helper()
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	given := map[string]string{}
	for k, v := range args {
		given[k] = v
	}
	missing := regexp.MustCompile(`build argument (\w+) is not defined; use --build-arg`)
	for {
		r, err := recipe.Parse(file, src, recipe.Options{Args: given})
		if err == nil {
			return r
		}
		m := missing.FindStringSubmatch(err.Error())
		if m == nil || asked[m[1]] == "" || given[m[1]] != "" {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(strings.Split(string(src), "\n"), func(line string) bool {
			return strings.HasPrefix(line, "#   "+m[1]+" ")
		}) {
			t.Errorf("%s requires %s, but its comment does not describe it", filepath.Base(file), m[1])
		}
		given[m[1]] = asked[m[1]]
	}
}

// checkShell checks the syntax of a script with a shell, without running it.
func checkShell(t *testing.T, name, body string) {
	t.Helper()
	cmd := exec.Command("sh", "-n")
	cmd.Stdin = strings.NewReader(body)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", name, err, out)
	}
}
