package bootstrap

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRPM compares the command line and the configuration for the header in testdata/NAME.def with
// testdata/NAME.golden.
func TestRPM(t *testing.T) {
	goldens(t, "rpm-*", func(j Job) string {
		r, err := rpmFrom(j)
		must(t, err)
		return strings.Join(r.args("/usr/bin/dnf", "/tree"), "\n") + "\n---\n" + r.conf()
	})
}

func TestRPMRoot(t *testing.T) {
	needRoot(t)
	root := t.TempDir()
	for range 2 {
		must(t, rpmRoot(root, "[main]\n"))
	}
	fi, err := os.Stat(filepath.Join(root, "dev/null"))
	if err != nil || fi.Mode() != os.ModeDevice|os.ModeCharDevice|0o666 {
		t.Errorf("dev/null: %v %v", fi.Mode(), err)
	}
	if conf, err := os.ReadFile(filepath.Join(root, rpmConf)); string(conf) != "[main]\n" {
		t.Errorf("%q %v", conf, err)
	}
}

// TestYum runs the agent with a dnf that prints its arguments and the path where its rpm would keep
// the database.
func TestYum(t *testing.T) {
	needRoot(t)
	home := t.TempDir()
	must(t, os.WriteFile(filepath.Join(home, ".rpmmacros"), []byte("%_dbpath %(echo ~/.rpmdb)\n%packager me"), 0o644))
	fakeTool(t, "dnf", `echo "$@"; cat "$HOME/.rpmmacros"; r=${2#*=}; mkdir -p "$r/var/cache/yum-bootstrap/x" "$r/var/log"; echo x > "$r/var/log/dnf.log"`)
	fakeTool(t, "rpm", `sed -n 's/^%_dbpath //p' "$HOME/.rpmmacros" | tail -n 1`)
	var log strings.Builder
	j := job(t, "Bootstrap: dnf\nMirrorURL: http://mirror.invalid/\nOSVersion: 9\n")
	j.Log = &log
	j.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home}
	agent, err := For("dnf")
	must(t, err)
	must(t, agent(t.Context(), j))
	want := "no GPG key is given: the signatures of the packages are not checked\n" +
		"--config=" + j.Root + "/etc/bootstrap-yum.conf --installroot=" + j.Root + " --releasever=9 -y --setopt=plugins=0 " +
		"install /etc/redhat-release coreutils\n" +
		"%_dbpath %(echo ~/.rpmdb)\n%packager me\n%_dbpath /var/lib/rpm\n"
	if diff := cmp.Diff(want, log.String()); diff != "" {
		t.Errorf("the log (-want +got):\n%s", diff)
	}
	for _, name := range []string{rpmCache, "var/log/dnf.log"} {
		if _, err := os.Stat(filepath.Join(j.Root, name)); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", name, err)
		}
	}

	fakeTool(t, "rpm", `echo /root/.rpmdb`)
	j.Env[0] = "PATH=" + os.Getenv("PATH")
	if err := agent(t.Context(), j); err == nil || !strings.Contains(err.Error(), "keeps its database in /root/.rpmdb") {
		t.Errorf("error %v", err)
	}
}

func TestSetopt(t *testing.T) {
	for text, want := range map[string][]string{
		"":                              nil,
		"a=1":                           {"a=1"},
		"a=1 b=2":                       {"a=1", "b=2"},
		"excludepkgs=a b  c* tsflags=x": {"excludepkgs=a b c*", "tsflags=x"},
		"base.excludepkgs= a\nb":        {"base.excludepkgs= a b"},
		// dnf itself reports the error.
		"alone a=1": {"alone", "a=1"},
	} {
		if diff := cmp.Diff(want, settingsOf(text)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", text, diff)
		}
	}
	j := job(t, "Bootstrap: dnf\nMirrorURL: http://m/\nSetopt: excludepkgs=a b\n")
	r, err := rpmFrom(j)
	must(t, err)
	if args := r.args("dnf", "/tree"); !slices.Contains(args, "--setopt=excludepkgs=a b") {
		t.Errorf("%q", args)
	}
}

// TestDNF5 runs on a host that has dnf only as dnf5.
func TestDNF5(t *testing.T) {
	path := t.TempDir()
	t.Setenv("PATH", path)
	for _, name := range []string{"dnf5", "yum", "dnf"} {
		must(t, os.WriteFile(filepath.Join(path, name), []byte("#!/bin/sh\n"), 0o755))
		if got, err := findDNF(); err != nil || got != filepath.Join(path, name) {
			t.Errorf("with %s: %s %v", name, got, err)
		}
	}
}

// TestHostRPM queries the host's own rpm for the path of the database, because its distribution may
// use another one.
func TestHostRPM(t *testing.T) {
	needRoot(t)
	if _, err := exec.LookPath("rpm"); err != nil {
		t.Skip("no rpm here")
	}
	j := job(t, "Bootstrap: dnf\nMirrorURL: http://mirror.invalid/\n")
	home := t.TempDir()
	j.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home}
	db, err := openRPMDB(t.Context(), j)
	must(t, err)
	_, err = db.onHost(t.Context(), "--root", j.Root, "--initdb")
	must(t, err)
	if _, err := os.Stat(filepath.Join(j.Root, rpmDBPath)); err != nil {
		t.Error(err)
	}
	if _, err := db.onHost(t.Context(), "--no-such-option"); err == nil || !strings.Contains(err.Error(), "--no-such-option: unknown option") {
		t.Errorf("error %v, want rpm's own words", err)
	}
	must(t, db.close())
	for _, dir := range []string{home, db.home} {
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("left in %s: %v", dir, left)
		}
	}
}
