// Package recipes_test holds the ready recipes and the labels of the example configuration together: every recipe is
// read, its scripts are shell, and what it asks for without a default is what it says it asks for. It builds none of
// them. test/bootvm builds and boots debian12, and builds rocky9, rocky9-hpcnode, fedora and centos7 of packages made up
// for the test; the others are built by hand alone, from their distribution's mirrors.
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

// asked are values for the build arguments that have no default.
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
				t.Error("it has no test section, which would hold it to what it promises")
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

// read parses a recipe with its label's arguments and those of asked that it wants. Each of the latter must be told of
// in the recipe's comment.
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
	missing := regexp.MustCompile(`build argument (\w+) is not defined; give --build-arg`)
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
			t.Errorf("%s wants %s and does not say what it is", filepath.Base(file), m[1])
		}
		given[m[1]] = asked[m[1]]
	}
}

// checkShell has a shell read a script without running it.
func checkShell(t *testing.T, name, body string) {
	t.Helper()
	cmd := exec.Command("sh", "-n")
	cmd.Stdin = strings.NewReader(body)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", name, err, out)
	}
}
