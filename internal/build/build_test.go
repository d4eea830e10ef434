package build

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	diff "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"netroot/internal/sandbox"
)

var update = flag.Bool("update", false, "write the golden files")

func TestMain(m *testing.M) {
	sandbox.Main()
	os.Exit(m.Run())
}

func TestEverySection(t *testing.T) {
	s := newSite(t)
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	lay(t, s.dir, map[string]string{
		"conf/a.conf": "a\n", "conf/b.conf": "b\n", "conf/with blank": "w\n", "conf/.hidden.conf": "h\n",
		"conf/dir/x": "x\n", "conf/dir/link": "-> x", "conf/capable": "c\n",
	})
	capable := filepath.Join(s.dir, "conf/capable")
	// cap_net_bind_service=ep; struct vfs_cap_data, linux/capability.h
	must(t, unix.Setxattr(capable, "security.capability", []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	must(t, os.Chmod(capable, 0o2755|fs.ModeSetgid), os.Chown(filepath.Join(s.dir, "conf/dir"), 5, 6))
	noted := unix.Setxattr(filepath.Join(s.dir, "conf/dir/x"), "user.note", []byte("n"), 0)
	if noted != nil {
		t.Skip("no user attributes here: ", noted)
	}
	def, err := os.ReadFile("testdata/full.def")
	must(t, err)
	s.build(t, string(def), nil)

	got := listing(t, s.tree)
	const golden = "testdata/full.golden"
	if *update {
		must(t, os.WriteFile(golden, []byte(got), 0o644))
	}
	want, err := os.ReadFile(golden)
	must(t, err)
	if d := diff.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); d != "" {
		t.Errorf("the tree (-want +got):\n%s", d)
	}
	if text, err := os.ReadFile(filepath.Join(s.dir, "pre.out")); err != nil || len(text) > 0 {
		t.Errorf("%%pre saw %q, %v; want an empty tree", text, err)
	}
	var phases []string
	for line := range strings.Lines(s.out.String()) {
		if name, detail, _ := strings.Cut(strings.TrimSpace(line), ": "); !strings.Contains(line, " in ") && name != "warning" {
			phases = append(phases, strings.TrimSpace(name+" "+strings.Fields(detail + " .")[0]))
		}
	}
	order := []string{
		"bootstrap devel", "%setup devel", "%post devel", "metadata devel", "%test devel",
		"%pre final", "bootstrap final", "%app final", "%files from final", "%setup final", "%files final", "%post final", "metadata final", "%test final",
		"secrets .",
		"kernel .", "initramfs " + release, "pack squashfs,", "store " + s.store.Dir(), "tree " + s.tree,
	}
	if d := diff.Diff(order, phases); d != "" {
		t.Errorf("order (-want +got):\n%s", d)
	}
}

// TestActions runs the scripts that implement apptainer exec, run, shell and test.
func TestActions(t *testing.T) {
	s := newSite(t)
	s.build(t, tiny+`
%environment
export COLOUR=blue
%runscript
echo "run $COLOUR $*"
%startscript
echo started
%apprun one
echo "one $ONE $SCIF_APPNAME $*"
%appenv one
export ONE=1
%apptest one
exit 7
`, nil)
	for _, tc := range []struct {
		argv []string
		env  string
		want string
		code int
	}{
		{[]string{"/.exec", "/bin/sh", "-c", "echo $COLOUR $LD_LIBRARY_PATH"}, "", "blue /.singularity.d/libs\n", 0},
		{[]string{"/.exec", "sh", "-c", "echo $PATH"}, "SING_USER_DEFINED_APPEND_PATH=/opt", "/bin:/opt\n", 0},
		{[]string{"/.run", "a", "b c"}, "", "run blue a b c\n", 0},
		{[]string{"/singularity", "x"}, "COLOUR=red", "run red x\n", 0},
		{[]string{"/.run", "a"}, "APPTAINER_APPNAME=one", "one 1 one a\n", 0},
		{[]string{"/.run", "a"}, "SINGULARITY_APPNAME=one", "one 1 one a\n", 0},
		{[]string{"/.run"}, "APPTAINER_APPNAME=two", "", 1},
		{[]string{"/bin/sh", "-c", "readonly SINGULARITY_APPNAME; . /.singularity.d/env/95-apps.sh; echo $APPTAINER_APPNAME $ONE"}, "SINGULARITY_APPNAME=one", "one 1\n", 0},
		{[]string{"/.test"}, "", "", 0},
		{[]string{"/.test"}, "APPTAINER_APPNAME=one", "", 7},
		{[]string{"/.shell", "-c", "echo $SHELL"}, "", "/bin/sh\n", 0},
		{[]string{"/.singularity.d/startscript"}, "", "started\n", 0},
	} {
		var out bytes.Buffer
		box := sandbox.Sandbox{Root: s.tree, Env: []string{"PATH=/bin", tc.env}, Stdout: &out}
		err := box.Run(t.Context(), tc.argv)
		code := 0
		if exit := (*sandbox.ExitError)(nil); errors.As(err, &exit) {
			code = exit.Code
		} else if err != nil {
			t.Fatal(err)
		}
		if code != tc.code || out.String() != tc.want {
			t.Errorf("%s %q: status %d, %q; want %d, %q", tc.env, tc.argv, code, out.String(), tc.code, tc.want)
		}
	}
}

func TestSectionsChosen(t *testing.T) {
	s := newSite(t)
	text := tiny + `
%pre
touch pre
%post
touch /post
%test
exit 1
%labels
K v
%environment
export E=1
%runscript
echo r
%help
h
%appinstall a
touch /a
`
	all := []string{"pre", "post", "K", "E=1", "echo r", "help", "a", "scif"}
	for _, tc := range []struct{ sections, want string }{
		{"pre,setup,files", "pre"},
		{"setup,files,post", "post"},
		{"setup,files,labels,help,runscript,environment", "K E=1 echo-r help"},
		{"setup,files,apps", "a scif"},
	} {
		os.Remove(filepath.Join(s.dir, "pre"))
		chosen, err := ParseSections(strings.Split(tc.sections, ","))
		must(t, err)
		s.build(t, text, func(o *Options) { o.Sections = chosen })
		read := func(name string) string {
			text, err := os.ReadFile(filepath.Join(s.tree, metaDir, name))
			if err != nil {
				return ""
			}
			return string(text)
		}
		exists := func(path string) bool { _, err := os.Lstat(path); return err == nil }
		is := map[string]bool{
			"pre": exists(filepath.Join(s.dir, "pre")), "post": exists(s.tree + "/post"), "a": exists(s.tree + "/a"), "scif": exists(s.tree + "/scif"),
			"K": strings.Contains(read("labels.json"), `"K": "v"`), "E=1": strings.Contains(read("env/90-environment.sh"), "E=1"),
			"echo r": strings.Contains(read("runscript"), "echo r"), "help": read("runscript.help") != "",
		}
		var got []string
		for _, what := range all {
			if is[what] {
				got = append(got, strings.ReplaceAll(what, " ", "-"))
			}
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%s did %q, want %q", tc.sections, got, tc.want)
		}
	}
	if _, err := ParseSections([]string{"post", "labels "}); err != nil {
		t.Error(err)
	}
	if _, err := ParseSections([]string{"lables"}); err == nil || !strings.Contains(err.Error(), `did you mean "labels"?`) {
		t.Errorf("error %v", err)
	}
	if none, err := ParseSections([]string{"none"}); err != nil || none.has("post") {
		t.Errorf("none: %v, %v", none, err)
	}
}

// TestBroken makes each part of a build fail and checks that the old tree and image stay.
func TestBroken(t *testing.T) {
	s := newSite(t)
	s.build(t, tiny+"%post\necho old > /etc/old\n", nil)
	before, image := listing(t, s.tree), imageOf(t, s)
	for _, tc := range []struct {
		name, text  string
		phase, want string
		adjust      func(*Options)
	}{
		{name: "pre", text: "Bootstrap: scratch\n%pre\necho said >&2; exit 3\n", phase: "%pre", want: "%pre: said (exit status 3)"},
		{name: "agent", text: "Bootstrap: localimage\nFrom: none\n%pre\ntrue\n", phase: "bootstrap", want: "no such file or directory"},
		{name: "agent's name", text: tiny + "\nBootstrap: debotstrap\n", want: `did you mean "debootstrap"?`},
		{name: "setup", text: "Bootstrap: scratch\n%setup\nfalse\n", phase: "%setup", want: "exit status 1"},
		{name: "files", text: "Bootstrap: scratch\n%files\nbin/busybox /x\nnone /y\n%setup\ntrue\n", phase: "%files", want: "line 4: none: no such file on the host"},
		{name: "files at once", text: "Bootstrap: scratch\n\nBootstrap: scratch\n%files\nnone /y\n", want: "%files: no such file on the host: none"},
		{name: "strict files", text: "Bootstrap: scratch\n%files\nbin /dir\nbin/busybox /dir/bin\n", phase: "%files", want: "exit status 1", adjust: func(o *Options) {
			o.Strict = true
			lay(t, s.dir, map[string]string{"bin/bin/busybox/x": ""})
		}},
		{name: "files from", text: "Bootstrap: scratch\nStage: one\n\nBootstrap: scratch\n%files from one\n/nothing\n", phase: "%files from", want: "no such file in that stage: /nothing"},
		{name: "app", text: "Bootstrap: scratch\n%apprun a\"b\ntrue\n", phase: "%app", want: "cannot name an app"},
		{name: "appfiles", text: "Bootstrap: scratch\n%pre\ntrue\n%appfiles a\nnone\n", phase: "%app", want: "app a: line 5: none: no such file"},
		{name: "no shell", text: "Bootstrap: scratch\n%post\ntrue\n", phase: "%post", want: "the tree has no /bin/sh"},
		{name: "post", text: tiny + "%post\nset +x\nsetsid sleep 604.5 &\necho last words; exit 9\n", phase: "%post", want: "%post: last words (exit status 9)"},
		{name: "appinstall", text: tiny + "%appinstall a\nexit 8\n", phase: "%post", want: "%post: exit status 8"},
		{name: "labels", text: tiny + "%post\nmkdir -p /.build.labels\n", phase: "metadata", want: "is a directory"},
		{name: "test", text: tiny + "%test\nexit 5\n", phase: "%test", want: "%test: exit status 5"},
		{name: "bind", text: tiny + "%post\ntrue\n", phase: "%post", want: "the tree has no /none", adjust: func(o *Options) {
			o.Binds = []sandbox.Bind{{Source: s.dir, Target: "/none"}}
		}},
		{name: "no kernel", text: "Bootstrap: scratch\n", phase: "kernel", want: "no kernel in the tree: install"},
		{name: "init", text: tiny, phase: "initramfs", want: "is not a program", adjust: func(o *Options) { o.Init = "/etc/passwd" }},
		{name: "update", text: tiny + "%post\nexit 4\n", phase: "%post", want: "exit status 4", adjust: func(o *Options) { o.Update = true }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			defer os.RemoveAll(filepath.Join(s.dir, "bin/bin"))
			_, err := Run(t.Context(), s.options(t, tc.text, tc.adjust))
			failed := &Error{}
			if errors.As(err, &failed); failed.Phase != tc.phase || err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v; want %s to say %q", err, tc.phase, tc.want)
			}
			if tc.phase == "" && strings.Contains(s.out.String(), "bootstrap") {
				t.Errorf("work was done:\n%s", s.out.String())
			}
			if tc.name == "post" && !slices.Contains(failed.Tail, "last words") {
				t.Errorf("tail %q", failed.Tail)
			}
			if d := diff.Diff(before, listing(t, s.tree)); d != "" {
				t.Errorf("the old tree changed:\n%s", d)
			}
			if imageOf(t, s) != image {
				t.Error("the label names another image")
			}
			if pids := processesWith("604.5"); len(pids) > 0 {
				t.Errorf("processes are left: %v", pids)
			}
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(s.tree), workPrefix+"*")); len(left) > 0 {
				t.Errorf("workspaces are left: %v", left)
			}
		})
	}
	tr, err := OpenTree(s.tree, "tiny", "test")
	must(t, err)
	defer tr.Close()
	if c, known, err := tr.Changes(); !known || err != nil || !c.None() {
		t.Errorf("finally the tree is reported as changed: %v %v %v", c, known, err)
	}
	if _, err := Run(t.Context(), s.options(t, tiny, nil)); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("in use by another netroot test (process %d)", os.Getpid())) {
		t.Errorf("a build of a tree in use: %v", err)
	}
}

// TestCancelled ends a build in the middle of %post.
func TestCancelled(t *testing.T) {
	s := newSite(t)
	s.build(t, tiny, nil)
	before := listing(t, s.tree)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for tick := time.Tick(5 * time.Millisecond); ctx.Err() == nil; <-tick {
			if len(processesWith("605.5")) > 0 {
				cancel()
			}
		}
	}()
	_, err := Run(ctx, s.options(t, tiny+"%post\nsleep 605.5\n", nil))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if d := diff.Diff(before, listing(t, s.tree)); d != "" {
		t.Errorf("the old tree changed:\n%s", d)
	}
	if pids := processesWith("605.5"); len(pids) > 0 {
		t.Errorf("processes are left: %v", pids)
	}
}

func TestTook(t *testing.T) {
	s := newSite(t)
	r := s.build(t, tiny+"%post\nsleep 0.1\n", nil)
	for _, p := range r.Phases {
		if p.Name == "%post" && (p.Took < 100*time.Millisecond || p.Took > r.Took) {
			t.Errorf("%%post took %v of %v", p.Took, r.Took)
		}
	}
	if r.TreeSize < 1<<20 || r.TreeSize != r.Image.Config.TreeSize || !strings.HasSuffix(r.Log, "tiny.log") {
		t.Errorf("%+v", r)
	}
}
