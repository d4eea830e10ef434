package build

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netroot/internal/recipe"
)

// labelled writes the metadata of a recipe into a tree and returns the labels.
func labelled(t *testing.T, dir, text string, adjust func(*metadata)) (labels map[string]string, warnings []string) {
	t.Helper()
	r, err := recipe.Parse("x.def", []byte(text), recipe.Options{})
	must(t, err)
	m := metadata{
		recipe: r, stage: r.Stages[0], created: time.Date(2026, 11, 2, 3, 4, 5, 0, time.UTC), version: "1.2",
		warn: func(format string, args ...any) { warnings = append(warnings, fmt.Sprintf(format, args...)) },
	}
	if adjust != nil {
		adjust(&m)
	}
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	must(t, m.write(root))
	list, err := os.ReadFile(filepath.Join(dir, labelsFile))
	must(t, err, json.Unmarshal(list, &labels))
	return labels, warnings
}

func TestLabels(t *testing.T) {
	dir := t.TempDir()
	lay(t, dir, map[string]string{".build.labels": "# a comment\nPosted  by %post \nBare\nBoth post\n\n"})
	got, warnings := labelled(t, dir, "Bootstrap: scratch\nOSVersion: 9\n%labels\nA 1\nBoth recipe\n%help\nh\n", nil)
	const s = "org.label-schema."
	want := map[string]string{
		"A": "1", "Posted": "by %post", "Bare": "", "Both": "post",
		s + "schema-version": "1.0", s + "build-arch": runtime.GOARCH, s + "build-date": "Monday_2_November_2026_3:4:5_UTC",
		s + "usage": "/.singularity.d/runscript.help", s + "usage.singularity.runscript.help": "/.singularity.d/runscript.help",
		s + "usage.singularity.deffile.bootstrap": "scratch", s + "usage.singularity.deffile.osversion": "9", s + "usage.netroot.version": "1.2",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("labels (-want +got):\n%s", d)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], `Both is already "post"`) {
		t.Errorf("warnings %q", warnings)
	}
	if _, err := os.Lstat(filepath.Join(dir, ".build.labels")); !os.IsNotExist(err) {
		t.Errorf(".build.labels is left: %v", err)
	}

	// In a tree that already has labels, they stay, except for those of the build.
	text := "Bootstrap: localimage\nFrom: x\n%labels\nA 2\nNew n\n%help\nother\n"
	got, warnings = labelled(t, dir, text, func(m *metadata) { m.update = true })
	if got["A"] != "1" || got["New"] != "n" || got["Bare"] != "" || got[s+"usage.singularity.deffile.bootstrap"] != "scratch" || len(warnings) != 2 {
		t.Errorf("%v, %q", got, warnings)
	}
	got, warnings = labelled(t, dir, text, func(m *metadata) { m.force = true })
	if got["A"] != "2" || got[s+"usage.singularity.deffile.bootstrap"] != "localimage" || len(warnings) != 0 {
		t.Errorf("with force: %v, %q", got, warnings)
	}
	help, err := os.ReadFile(filepath.Join(dir, helpFile))
	if err != nil || string(help) != "other\n\n" {
		t.Errorf("help %q, %v", help, err)
	}
}

func TestHistoryAndEnvironment(t *testing.T) {
	dir := t.TempDir()
	recipes := []string{
		"Bootstrap: scratch\n%environment\nA=1\n", "Bootstrap: localimage\nFrom: x\n%environment\nA=2\n",
		"Bootstrap: localimage\nFrom: x\n%environment\nA=2\n", "Bootstrap: scratch\n%environment\nA=3\n",
	}
	for _, text := range recipes {
		labelled(t, dir, text, nil)
	}
	for name, want := range map[string]string{
		recipeFile: recipes[3], historyDir + "/Apptainer0": recipes[0], historyDir + "/Apptainer1": recipes[1],
		metaDir + "/env/90-environment.sh": "#!/bin/sh\n\nA=1\n\n\nA=2\n\n\nA=3\n\n",
	} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	if list, err := os.ReadDir(filepath.Join(dir, historyDir)); err != nil || len(list) != 2 {
		t.Errorf("history %v, %v", list, err)
	}
}

// The recipe in the tree has the names of build arguments and not their values.
func TestRecipeAsWritten(t *testing.T) {
	const text = "Bootstrap: scratch\n%arguments\nUSER=robot\n%post\nfetch {{ USER }}:{{ TOKEN }}\n"
	dir := t.TempDir()
	r, err := recipe.Parse("x.def", []byte(text), recipe.Options{Args: map[string]string{"TOKEN": "hunter2", "USER": "me"}})
	must(t, err)
	labelled(t, dir, "Bootstrap: scratch\n", func(m *metadata) { m.recipe, m.stage = r, r.Stages[0] })
	if got, err := os.ReadFile(filepath.Join(dir, recipeFile)); err != nil || string(got) != text {
		t.Errorf("the recipe in the tree is %q, %v", got, err)
	}
	if !strings.Contains(r.Stages[0].Post.Body, "me:hunter2") || bytes.Equal(r.Source, r.Written) {
		t.Errorf("the arguments were not replaced: %q", r.Source)
	}
}

func TestExecutable(t *testing.T) {
	for _, tc := range []struct{ body, args, want string }{
		{"echo\n", "", "#!/bin/sh\n\necho\n\n"},
		{"echo\n", "-e -u", "#!/bin/sh -e -u\n\necho\n\n"},
		{"#!/bin/bash\necho\n", "", "#!/bin/bash\n\necho\n\n"},
		{"\n\n  #!/usr/bin/python3 -I\nprint()\n", "-u", "#!/usr/bin/python3 -I -u\n\nprint()\n\n"},
		{"# no #!\n", "", "#!/bin/sh\n\n# no #!\n\n"},
		{"", "", "#!/bin/sh\n\n\n"},
	} {
		if got := string(executable(&recipe.Script{Body: tc.body, Args: strings.Fields(tc.args)})); got != tc.want {
			t.Errorf("%q: %q, want %q", tc.body, got, tc.want)
		}
	}
	if executable(nil) != nil {
		t.Error("no section has become a program")
	}
}

// TestBaseEnvironment checks that existing files of a tree that was made before stay, and that
// nothing is written through a link.
func TestBaseEnvironment(t *testing.T) {
	for _, tc := range []struct {
		name         string
		keep, strict bool
		want         map[string]string
	}{
		{"new", false, false, map[string]string{"hosts": "mine", "resolv": "", "exec": "#!/bin/sh", "env": "#!/bin/sh"}},
		{"strict", false, true, map[string]string{"hosts": "", "resolv": "", "exec": "#!/bin/sh", "env": "#!/bin/sh"}},
		{"kept", true, false, map[string]string{"hosts": "mine", "resolv": "nameserver 192.0.2.1", "exec": "theirs", "env": "#!/bin/sh"}},
	} {
		dir := t.TempDir()
		outside := filepath.Join(t.TempDir(), "f")
		lay(t, "/", map[string]string{outside: "outside"})
		lay(t, dir, map[string]string{
			"etc/hosts": "mine", "etc/resolv.conf": "nameserver 192.0.2.1", metaDir + "/actions/exec": "theirs", "home": "-> var/home",
			".run": "-> elsewhere", metaDir + "/runscript": "-> " + outside,
		})
		root, err := os.OpenRoot(dir)
		must(t, err, baseEnvironment(root, tc.keep, tc.strict), root.Close())
		got := map[string]string{}
		for short, name := range map[string]string{"hosts": "etc/hosts", "resolv": "etc/resolv.conf", "exec": metaDir + "/actions/exec", "env": metaDir + "/env/95-apps.sh"} {
			text, err := os.ReadFile(filepath.Join(dir, name))
			must(t, err)
			got[short], _, _ = strings.Cut(string(text), "\n")
		}
		if d := cmp.Diff(tc.want, got); d != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, d)
		}
		if target, _ := os.Readlink(filepath.Join(dir, ".run")); target != "elsewhere" {
			t.Errorf("%s: /.run leads to %s", tc.name, target)
		}
		if text, _ := os.ReadFile(outside); string(text) != "outside" {
			t.Errorf("%s: a link was written through", tc.name)
		}
	}
}

// TestAppsOfABase checks that the variables of an app that the tree already has are kept.
func TestAppsOfABase(t *testing.T) {
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	for range 2 {
		for _, name := range []string{"base", "my-own"} {
			must(t, makeApps(root, []recipe.App{{Name: name}}, nil))
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, appsBaseEnv))
	must(t, err)
	for _, once := range []string{"SCIF_APPROOT_base=", `SCIF_APPDATA_my_own="/scif/data/my-own"`} {
		if n := strings.Count(string(text), once); n != 1 {
			t.Errorf("%s is there %d times:\n%s", once, n, text)
		}
	}
	if err := makeApps(root, []recipe.App{{Name: "a b", Line: 3}}, nil); err == nil || !strings.Contains(err.Error(), "line 3: ") {
		t.Errorf("error %v", err)
	}
}
