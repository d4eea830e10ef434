package bootstrap

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRPM holds the command line and the configuration against testdata/NAME.golden, for the recipe's header in
// testdata/NAME.def.
func TestRPM(t *testing.T) {
	defs, err := filepath.Glob("testdata/rpm-*.def")
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
		r, err := rpmFrom(j)
		must(t, err)
		got := strings.Join(r.args("/usr/bin/dnf", "/tree"), "\n") + "\n---\n" + r.conf()
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", golden, diff)
		}
	}
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

// TestYum runs the agent to its end, with a dnf that says what it was asked.
func TestYum(t *testing.T) {
	needRoot(t)
	fakeTool(t, "dnf", `echo "$@"; mkdir -p "$5/var/cache/yum-bootstrap/x"`)
	fakeTool(t, "rpm", `echo "${RPM_DB_PATH}"`)
	t.Setenv("RPM_DB_PATH", "/var/lib/rpm")
	var log strings.Builder
	j := job(t, "Bootstrap: dnf\nMirrorURL: http://mirror.invalid/\nOSVersion: 9\n")
	j.Log = &log
	agent, err := For("dnf")
	must(t, err)
	must(t, agent(t.Context(), j))
	want := "no GPG key is given: the packages' signatures are not checked\n--noplugins -c " + j.Root + "/etc/bootstrap-yum.conf --installroot " +
		j.Root + " --releasever=9 -y install /etc/redhat-release coreutils\n"
	if log.String() != want {
		t.Errorf("the log is %q, want %q", log.String(), want)
	}
	if _, err := os.Stat(filepath.Join(j.Root, rpmCache)); !os.IsNotExist(err) {
		t.Errorf("the cache is left: %v", err)
	}

	t.Setenv("RPM_DB_PATH", "/root/.rpmdb")
	if err := agent(t.Context(), j); err == nil || !strings.Contains(err.Error(), "keeps its database in /root/.rpmdb") {
		t.Errorf("error %v", err)
	}
}
