package bootstrap

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netroot/internal/recipe"
	"netroot/internal/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.Main()
	os.Exit(m.Run())
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// job makes a job with an empty Tree and the given header lines.
func job(t *testing.T, header string) Job {
	t.Helper()
	r, err := recipe.Parse("test.def", []byte(header), recipe.Options{})
	must(t, err)
	return Job{Root: t.TempDir(), Stage: r.Stages[0], Dir: t.TempDir(), Env: []string{"PATH=" + os.Getenv("PATH")}}
}

// needTool returns the path of a program that the test requires.
func needTool(t *testing.T, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return p
}

// output runs a program and returns its output.
func output(t *testing.T, prog string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(prog, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s%s", prog, args, err, out, &stderr)
	}
	return out
}

// goldens compares the result of an agent for the header in testdata/NAME.def with
// testdata/NAME.golden.
func goldens(t *testing.T, names string, agent func(Job) string) {
	t.Helper()
	defs, err := filepath.Glob("testdata/" + names + ".def")
	must(t, err)
	if len(defs) == 0 {
		t.Fatal("no test data")
	}
	for _, def := range defs {
		src, err := os.ReadFile(def)
		must(t, err)
		golden := strings.TrimSuffix(def, ".def") + ".golden"
		want, err := os.ReadFile(golden)
		must(t, err)
		j := job(t, string(src))
		j.Env = []string{"INCLUDE=vim,less"}
		if diff := cmp.Diff(string(want), agent(j)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", golden, diff)
		}
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: the tools run in namespaces of their own")
	}
}

// fakeTool puts a program into the PATH that takes the place of a distribution's tool.
func fakeTool(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestFor(t *testing.T) {
	const agents = "use one of arch, busybox, debootstrap, dnf, docker, docker-archive, localimage, oci, oci-archive, oras, scratch, yum, zypper"
	for _, name := range strings.Split(strings.TrimPrefix(agents, "use one of "), ", ") {
		for _, spelled := range []string{name, strings.ToUpper(name)} {
			if _, err := For(spelled); err != nil {
				t.Errorf("%s: %v", spelled, err)
			}
		}
	}
	for name, want := range map[string]string{
		"deboostrap":  `unknown bootstrap agent "deboostrap": ` + agents + `; did you mean "debootstrap"?`,
		"frobnicator": `unknown bootstrap agent "frobnicator": ` + agents,
	} {
		if _, err := For(name); err == nil || err.Error() != want {
			t.Errorf("For(%q): %v, want %s", name, err, want)
		}
	}
}

func TestScratch(t *testing.T) {
	j := job(t, "Bootstrap: scratch\n")
	outside := t.TempDir()
	must(t, os.Symlink(outside, filepath.Join(j.Root, "var"))) // %pre might do this
	must(t, os.Mkdir(filepath.Join(j.Root, "tmp"), 0o700))
	agent, err := For("scratch")
	must(t, err)
	if err := agent(t.Context(), j); err == nil {
		t.Error("a symbolic link out of the tree was followed for /var/tmp")
	}
	must(t, os.Remove(filepath.Join(j.Root, "var")))
	must(t, agent(t.Context(), j))
	must(t, agent(t.Context(), j))
	got := map[string]string{}
	must(t, filepath.WalkDir(j.Root, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		rel, _ := filepath.Rel(j.Root, path)
		if rel != "." {
			got[rel] = fi.Mode().String()
		}
		return err
	}))
	want := map[string]string{
		"dev": "drwxr-xr-x", "etc": "drwxr-xr-x", "proc": "dr-xr-xr-x", "root": "drwx------", "run": "drwxr-xr-x",
		"sys": "dr-xr-xr-x", "tmp": "drwx------", "var": "drwxr-xr-x", "var/tmp": "dtrwxrwxrwx",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the tree (-want +got):\n%s", diff)
	}
}

func TestHeaderErrors(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file.sif"), nil, 0o644))
	for header, want := range map[string]string{
		"Bootstrap: localimage\nFrom:\n":          "bootstrap localimage: From: is missing",
		"Bootstrap: localimage\nFrom: none\n":     "no such file or directory",
		"Bootstrap: localimage\nFrom: file.sif\n": "From: file.sif: not an image: neither SIF",
		"Bootstrap: localimage\nFrom: /\n":        "must not contain one another",
		"Bootstrap: localimage\nFrom: file.sif\nFingerprints: AB12\n": "bootstrap localimage: Fingerprints: netroot does not check the signatures of a SIF: " +
			"run `apptainer verify` on the SIF before the build, and remove the line",
		"Bootstrap: oras\nFrom: mirror.invalid/x\nFingerprints: AB12\n":           "run `apptainer verify` on it, use `Bootstrap: localimage`, and remove the line",
		"Bootstrap: debootstrap\n":                                                "OSVersion: is missing",
		"Bootstrap: debootstrap\nOSVersion: --help\n":                             "not the name of a suite",
		"Bootstrap: debootstrap\nOSVersion: sid\nInclude: a -b\n":                 `"-b" is not a package name`,
		"Bootstrap: yum\nInclude: a\n":                                            "MirrorURL: (or MetaLink:) is missing",
		"Bootstrap: yum\nMirrorURL: http://m/%{osversion}/\n":                     "MirrorURL: uses %{OSVERSION}, but OSVersion: is missing",
		"Bootstrap: yum\nMirrorURL: http://m/\nGPG: http://m/key\nOSVersion: 9\n": "GPG: http://m/key is not a safe source",
	} {
		fakeTool(t, "dnf", "exit 9")
		fakeTool(t, "mmdebstrap", "exit 9")
		j := job(t, header)
		j.Dir = dir
		agent, err := For(j.Stage.Agent())
		must(t, err)
		if err := agent(t.Context(), j); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error that says %q", header, err, want)
		}
	}
}

func TestMissingTool(t *testing.T) {
	sif := filepath.Join(t.TempDir(), "f.sif")
	must(t, os.WriteFile(sif, siftool(t), 0o644))
	t.Setenv("PATH", t.TempDir())
	for header, want := range map[string]string{
		"Bootstrap: debootstrap\nOSVersion: sid\n": "this host has no mmdebstrap or debootstrap: install it, " +
			"on Debian and Ubuntu `apt install mmdebstrap`, on Fedora and EL `dnf install debootstrap`",
		"Bootstrap: dnf\nMirrorURL: http://m/\n": "this host has no dnf or yum: install it, " +
			"on Debian and Ubuntu `apt install dnf`, on Fedora and EL `dnf install dnf`",
		"Bootstrap: zypper\nMirrorURL: http://m/\n": "this host has no zypper: install it, " +
			"on Debian and Ubuntu `apt install zypper`, on Fedora and EL `dnf install zypper`",
		"Bootstrap: arch\n": "this host has no pacstrap: install it, " +
			"on Debian and Ubuntu `apt install arch-install-scripts`, on Fedora and EL `dnf install arch-install-scripts`",
		"Bootstrap: localimage\nFrom: " + sif + "\n": "this host has no unsquashfs: install it, " +
			"on Debian and Ubuntu `apt install squashfs-tools`, on Fedora and EL `dnf install squashfs-tools`",
	} {
		j := job(t, header)
		agent, err := For(j.Stage.Agent())
		must(t, err)
		if err := agent(t.Context(), j); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestToolFails(t *testing.T) {
	needRoot(t)
	fakeTool(t, "mmdebstrap", `
echo "I: running apt-get update..."
echo "E: Unable to fetch" >&2
echo "I: cleaning up"
printf 'half'
exit 25`)
	var log bytes.Buffer
	j := job(t, "Bootstrap: debootstrap\nOSVersion: sid\nMirrorURL: http://m.invalid/\n")
	j.Log = &log
	agent, err := For("debootstrap")
	must(t, err)
	err = agent(t.Context(), j)
	exit, ok := errors.AsType[*sandbox.ExitError](err)
	if !ok || exit.Code != 25 || err.Error() != "bootstrap debootstrap: mmdebstrap: exit status 25:\n\tE: Unable to fetch" {
		t.Errorf("error %q", err)
	}
	if want := "I: running apt-get update...\nE: Unable to fetch\nI: cleaning up\nhalf\n"; log.String() != want {
		t.Errorf("the log is %q, want %q", log.String(), want)
	}
}

// TestMirrorDown runs the real mmdebstrap with a mirror that does not answer.
func TestMirrorDown(t *testing.T) {
	needRoot(t)
	needTool(t, "mmdebstrap")
	t.Parallel() // apt tries four times
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := l.Addr().String()
	must(t, l.Close())
	agent, err := For("debootstrap")
	must(t, err)
	err = agent(t.Context(), job(t, "Bootstrap: debootstrap\nOSVersion: bookworm\nMirrorURL: http://"+address+"/debian\n"))
	if want := "E: Failed to fetch http://" + address + "/debian/dists/bookworm/InRelease  Could not connect to"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%v\nlacks %q", err, want)
	}
}

// TestDebootstrap runs debootstrap, the second choice. The debootstrap and the apt in the tree
// write what the real ones write.
func TestDebootstrap(t *testing.T) {
	needRoot(t)
	box := needTool(t, "busybox")
	fakeTool(t, "debootstrap", `
echo "$http_proxy $*"
mkdir -p "$4/bin" "$4/dev" "$4/proc" "$4/sys" "$4/tmp" "$4/var/lib/apt/lists"
cp `+box+` "$4/bin/sh" && ln -s sh "$4/bin/rm"
printf '#!/bin/sh\necho "$http_proxy apt-get $*"; echo > /var/lib/apt/lists/x' > "$4/bin/apt-get" && chmod 755 "$4/bin/apt-get"
mkdir -p "$4/etc/apt/sources.list.d"
echo "deb $5 $3 main" > "$4/etc/apt/sources.list"
for f in resolv.conf hostname; do if test -e /etc/$f; then cat /etc/$f > "$4/etc/$f"; fi; done`)
	prog, err := find(tool{"debootstrap", "", ""})
	must(t, err)
	var log bytes.Buffer
	j := job(t, "Bootstrap: debootstrap\nOSVersion: trixie\n")
	j.Log = &log
	d := debian{prog: prog, suite: "trixie", root: j.Root, sources: forSuite(parseList(oneLine), "bookworm", "trixie")}
	must(t, d.debootstrap(t.Context(), j, []setting{{"Acquire::http::Proxy", "http://p.invalid"}}))
	must(t, forgetHost(j.Root))
	want := "http://p.invalid --variant=minbase --include=apt trixie " + j.Root + " http://a.invalid/debian\n"
	for _, args := range []string{"-q update", "-q -y dist-upgrade", "clean"} {
		want += "http://p.invalid apt-get " + args + "\n"
	}
	if log.String() != want {
		t.Errorf("it was called with %q, want %q", log.String(), want)
	}
	sources, err := os.ReadFile(filepath.Join(j.Root, "etc/apt/sources.list.d/host.sources"))
	if err != nil || !strings.Contains(string(sources), "Suites: trixie-security\n") {
		t.Errorf("apt's sources in the tree: %s %v", sources, err)
	}
	for _, name := range []string{"etc/apt/sources.list", "etc/resolv.conf", "etc/hostname", "var/lib/apt/lists/x"} {
		if _, err := os.Stat(filepath.Join(j.Root, name)); !os.IsNotExist(err) {
			t.Errorf("%s: %v, want none", name, err)
		}
	}
}

func TestToolCancelled(t *testing.T) {
	needRoot(t)
	// The tool leaves a mount and a process, and SIGTERM ends it.
	fakeTool(t, "mmdebstrap", `mount -t tmpfs left "$7/mnt" || exit 1; sleep 606.25 & echo ready; wait`)
	j := job(t, "Bootstrap: debootstrap\nOSVersion: sid\nMirrorURL: http://m.invalid/\nInclude: x\n")
	must(t, os.Mkdir(filepath.Join(j.Root, "mnt"), 0o755))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	j.Log = writerFunc(func(p []byte) { cancel() })
	agent, err := For("debootstrap")
	must(t, err)
	if err := agent(ctx, j); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if info, err := os.ReadFile("/proc/self/mountinfo"); err != nil || strings.Contains(string(info), j.Root) {
		t.Errorf("a mount is left: %s %v", info, err)
	}
	cmdlines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range cmdlines {
		if c, _ := os.ReadFile(f); strings.Contains(string(c), "606.25") {
			t.Errorf("a process is left: %q", c)
		}
	}
}

type writerFunc func(p []byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }
