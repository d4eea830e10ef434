package build

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"netroot/internal/sandbox"
	"netroot/internal/secrets"
)

// TestUpdate follows a tree: it is built, changed by hand, packed again, and updated with another
// recipe.
func TestUpdate(t *testing.T) {
	s := newSite(t)
	if _, err := Run(t.Context(), s.options(t, tiny, func(o *Options) { o.Update = true })); err == nil || !strings.Contains(err.Error(), "has no tree yet") {
		t.Errorf("an update of nothing: %v", err)
	}
	first := s.build(t, tiny+"%post\nmkdir -p /etc; echo once >> /etc/post\n%test\n[ ! -e /etc/bad ]\n%environment\nA=1\n", nil)
	inode := func() uint64 {
		id, _, err := stat(s.tree)
		must(t, err)
		return id.ino
	}
	lay(t, s.tree, map[string]string{"etc/hand": "made by hand"})

	// With the same recipe the tree stays in its place, and its change is in the image.
	place := inode()
	held, err := os.Open(s.tree) // so that no other directory gets its inode
	must(t, err)
	defer held.Close()
	same := func(o *Options) { o.Update = true }
	text := tiny + "%post\nmkdir -p /etc; echo once >> /etc/post\n%test\n[ ! -e /etc/bad ]\n%environment\nA=1\n"
	second := s.build(t, text, same)
	if inode() != place || second.Image.ID() == first.Image.ID() || strings.Contains(s.out.String(), "%post") || !strings.Contains(s.out.String(), "%test: done") {
		t.Errorf("moved: %v; the same image: %v; it said\n%s", inode() != place, second.Image.ID() == first.Image.ID(), s.out.String())
	}
	if c := s.changes(t); !c.None() {
		t.Errorf("afterwards it has changed: %v", c)
	}
	lay(t, s.tree, map[string]string{"etc/bad": ""})
	if _, err := Run(t.Context(), s.options(t, text, same)); err == nil || imageOf(t, s) != second.Image.Name() {
		t.Errorf("%%test of a bad tree: %v, %s", err, imageOf(t, s))
	}
	s.build(t, text, func(o *Options) { o.Update, o.NoTest = true, true })
	must(t, os.Remove(filepath.Join(s.tree, "etc/bad")))

	// With force, or with named sections, the sections run, but the agent does not.
	s.build(t, text, func(o *Options) { o.Update, o.Sections = true, Sections{"post"} })
	s.build(t, text, func(o *Options) { o.Update, o.Force = true, true })
	if inode() == place {
		t.Error("it worked in the tree itself")
	}
	for name, want := range map[string]string{
		"etc/post": "once\nonce\nonce\n", "etc/hand": "made by hand", metaDir + "/env/90-environment.sh": "# %environment of the recipe, and of the recipes it is based on.\n\nA=1\n\n",
	} {
		if got, err := os.ReadFile(filepath.Join(s.tree, name)); err != nil || !strings.HasSuffix(string(got), want) {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}

	// With another recipe, only the last stage starts from the tree.
	s.build(t, "Bootstrap: scratch\nStage: one\n%setup\nmkdir $SINGULARITY_ROOTFS/opt; echo 1 > $SINGULARITY_ROOTFS/opt/one\n\n"+
		"Bootstrap: nosuchagent\n%files from one\n/opt/one\n%post\n[ -e /etc/hand ]\n", func(o *Options) { o.Update = true })
	if got, err := os.ReadFile(filepath.Join(s.tree, "opt/one")); err != nil || string(got) != "1\n" {
		t.Errorf("from the stage: %q, %v", got, err)
	}
	if c := s.changes(t); !c.None() {
		t.Errorf("afterwards it has changed: %v", c)
	}
	must(t, os.Remove(recordFile(s.tree)))
	if _, err := Run(t.Context(), s.options(t, tiny+"%post\nexit 6\n", same)); err == nil {
		t.Error("without a record nothing is known of the recipe, but its sections did not run")
	}
}

func (s *site) changes(t *testing.T) Changes {
	t.Helper()
	tree, err := OpenTree(s.tree, "tiny", "test")
	must(t, err)
	defer tree.Close()
	c, known, err := tree.Changes()
	if must(t, err); !known {
		t.Error("there is no record")
	}
	return c
}

// TestStrict compares what --strict changes of a build.
func TestStrict(t *testing.T) {
	s := newSite(t)
	lay(t, s.dir, map[string]string{"base/etc/hosts": "192.0.2.1 base\n", "conf/f": "f", "conf/l": "-> f", "bind/file": "b"})
	t.Setenv("APPTAINERENV_PASSED", "1")
	text := tiny + `
conf /conf
%post
echo "${SINGULARITY_DEFFILE_BOOTSTRAP-unset} ${APPTAINER_ROOTFS-unset} $PASSED" > /made
cat /root/bound >> /made
%test
[ -z "$PASSED_NOT" ] && cat /root/bound
`
	lay(t, s.dir, map[string]string{"bound": ""})
	for strict, want := range map[bool]string{
		false: `- 0644 0:0 /conf/f "f" l 0777 0:0 /conf/l -> f - 0644 0:0 /made "scratch / 1\nb"`,
		true:  `- 0644 0:0 /conf/f "f" - 0644 0:0 /conf/l "f" - 0664 0:0 /made "unset unset 1\nb"`,
	} {
		s.build(t, strings.Replace(text, "%post", "bound /root/\n%post", 1), func(o *Options) {
			o.Strict = strict
			o.Binds = []sandbox.Bind{{Source: filepath.Join(s.dir, "bind/file"), Target: "/root/bound", ReadOnly: true}}
		})
		var got []string
		for line := range strings.Lines(listing(t, s.tree)) {
			if strings.Contains(line, "/conf/") || strings.Contains(line, "/made") {
				got = append(got, strings.TrimSpace(line))
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("strict %v:\n%s\nwant\n%s", strict, strings.Join(got, " "), want)
		}
	}
}

// TestStrictShell checks that a shell that %post names continues after an error, as with Apptainer
// but unlike the default.
func TestStrictShell(t *testing.T) {
	s := newSite(t)
	for _, strict := range []bool{false, true} {
		opt := s.options(t, tiny+"%post -c /bin/sh\ncat /none\ntouch /on\n", func(o *Options) { o.Strict = strict })
		if _, err := Run(t.Context(), opt); (err == nil) != strict {
			t.Errorf("strict %v: error %v", strict, err)
		}
	}
}

// TestHostScriptsAppend checks that what %setup appends to the files named in its environment goes
// into the tree and not into the host's root.
func TestHostScriptsAppend(t *testing.T) {
	s := newSite(t)
	text := tiny + `
%setup
echo 'export FROM_SETUP=1' >> "$SINGULARITY_ENVIRONMENT"
echo 'Set up' >> "$APPTAINER_LABELS"
`
	s.build(t, text, nil)
	for name, want := range map[string]string{metaDir + "/env/91-environment.sh": "export FROM_SETUP=1\n", labelsFile: `"Set": "up"`} {
		if got, err := os.ReadFile(filepath.Join(s.tree, name)); err != nil || !strings.Contains(string(got), want) {
			t.Errorf("/%s, %v: %q, want %q in it", name, err, got, want)
		}
	}
	// Apptainer's names there are only printed, because they are files of this host.
	s.build(t, tiny+`
%setup
echo "$APPTAINER_ENVIRONMENT ${SINGULARITY_LABELS-unset} ${SINGULARITY_DEFFILE_BOOTSTRAP-unset}" > said
`, func(o *Options) { o.Strict = true })
	got, err := os.ReadFile(filepath.Join(s.dir, "said"))
	if want := "/.singularity.d/env/91-environment.sh unset unset\n"; err != nil || string(got) != want {
		t.Errorf("strict, %v: %q, want %q", err, got, want)
	}
}

// TestStagesByName checks that of two stages with one name the first is used, and that messages
// name every stage.
func TestStagesByName(t *testing.T) {
	s := newSite(t)
	stage := func(name, text string) string {
		return fmt.Sprintf("Bootstrap: scratch\nStage: %s\n%%setup\necho %s > $SINGULARITY_ROOTFS/f\n\n", name, text)
	}
	s.build(t, stage("a", "first")+stage("a", "second")+stage("", "third")+tiny+"%files from a\n/f\n", nil)
	if got, err := os.ReadFile(filepath.Join(s.tree, "f")); err != nil || string(got) != "first\n" {
		t.Errorf("%q, %v", got, err)
	}
	for _, want := range []string{"%setup: a\n", "%setup: stage 3\n", "%setup: stage 4\n", "%files from: stage 4\n"} {
		if !strings.Contains(s.out.String(), want) {
			t.Errorf("not said: %q", want)
		}
	}
}

// TestServedTreeStays checks that a tree that is the root of machines over NFS is replaced only
// with force.
func TestServedTreeStays(t *testing.T) {
	s := newSite(t)
	s.build(t, tiny, nil)
	served, err := os.Open(s.tree)
	must(t, err)
	defer served.Close()
	must(t, unix.Flock(int(served.Fd()), unix.LOCK_SH))
	before, err := served.Stat()
	must(t, err)

	if _, err := Run(t.Context(), s.options(t, tiny, nil)); err == nil || !strings.Contains(err.Error(), "root of running machines") {
		t.Errorf("a build of a tree in use: %v", err)
	}
	s.build(t, tiny, func(o *Options) { o.Update = true }) // this packs the tree in its place
	if now, err := os.Stat(s.tree); err != nil || !os.SameFile(before, now) {
		t.Errorf("it was replaced, %v", err)
	}
	s.build(t, tiny, func(o *Options) { o.Force = true })
	if now, err := os.Stat(s.tree); err != nil || os.SameFile(before, now) {
		t.Errorf("with force it was not replaced, %v", err)
	}
}

// TestUpdateAfterMachine: what a machine made for itself in a tree that it could write to is named
// with the command that removes it, before %test fails on it.
func TestUpdateAfterMachine(t *testing.T) {
	s := newSite(t)
	text := tiny + "%post\nmkdir -p /etc\n%test\nif [ -e /etc/ssh/ssh_host_ed25519_key ]; then echo there is a host key; exit 1; fi\n"
	first := s.build(t, text, nil)
	update := func(o *Options) { o.Update = true }
	lay(t, s.tree, map[string]string{
		"etc/ssh/ssh_host_ed25519_key": "key", "etc/ssh/ssh_host_rsa_key": "key", "var/lib/systemd/random-seed": "seed", "etc/machine-id": strings.Repeat("0a", 16) + "\n",
	})
	_, err := Run(t.Context(), s.options(t, text, update))
	const command = "netroot exec tiny -- sh -c ': > /etc/machine-id; rm -f /etc/ssh/ssh_host_ed25519_key /etc/ssh/ssh_host_rsa_key /var/lib/systemd/random-seed'"
	if failed, ok := errors.AsType[*Error](err); !ok || failed.Phase != "secrets" || !strings.HasSuffix(err.Error(), command) {
		t.Fatalf("%v; want the command %s", err, command)
	}
	if imageOf(t, s) != first.Image.Name() {
		t.Error("the label names another image")
	}

	// Allowed on purpose, the key is for %test, whose last words are the reason.
	_, err = Run(t.Context(), s.options(t, text, func(o *Options) { o.Update, o.Allow = true, secrets.Allow{"/etc/ssh", "/var/lib/systemd"} }))
	if err == nil || err.Error() != "%test: there is a host key (exit status 1)" {
		t.Errorf("%v", err)
	}
	if out := s.out.String(); !strings.Contains(out, "netroot exec tiny -- sh -c ': > /etc/machine-id'") {
		t.Errorf("nothing says how to empty the machine id:\n%s", out)
	}

	box := sandbox.Sandbox{Root: s.tree}
	must(t, box.Run(t.Context(), []string{"sh", "-c", ": > /etc/machine-id; rm -f /etc/ssh/ssh_host_ed25519_key /etc/ssh/ssh_host_rsa_key /var/lib/systemd/random-seed"}))
	s.build(t, text, update)
}

func TestLastWords(t *testing.T) {
	for _, test := range []struct {
		tail []string
		want string
	}{
		{nil, ""},
		{[]string{"first", "last", "+ exit 1", "  "}, "last"},
		{[]string{"+ false"}, ""},
	} {
		if got := lastWords(test.tail); got != test.want {
			t.Errorf("%q: %q, want %q", test.tail, got, test.want)
		}
	}
}
