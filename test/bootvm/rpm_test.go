package bootvm

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"netroot/test/rpmrepo"
)

// rpmConfig is the path of the RPM tests' configuration, relative to the working directory of the
// lab's commands.
const rpmConfig = "test/bootvm/testdata/rpm/netroot.yaml"

// TestRPM makes an RPM distribution, builds six old recipes from it with the host's dnf, and boots
// one of the images.
func TestRPM(t *testing.T) {
	needLab(t)
	needTools(t, append(rpmrepo.Missing(), "dnf", "rpm")...)
	t.Parallel()
	home := t.TempDir()
	dir := filepath.Join(lab.dir, "rpm")
	state := filepath.Join(dir, "state")
	url, key := serveRPMs(t, filepath.Join(dir, "repo"))

	rpm := func(t *testing.T, args ...string) result {
		t.Helper()
		r := runAt(limit(t, bootLimit), home, append([]string{"--config", rpmConfig, "--state", state}, args...)...)
		t.Log(r.stdout)
		return r
	}
	for _, label := range []string{"centos8-base", "centos7-base", "centos7-hpcnode", "centos7-lustre", "centos8-hpcnode", "fedora32-base"} {
		t.Run(label, func(t *testing.T) {
			args := []string{"build", label, "--level", "1", "--build-arg", "MIRROR=" + url}
			if strings.HasPrefix(label, "centos8") {
				args = append(args, "--build-arg", "KEY="+key)
			}
			if r := rpm(t, args...); r.err != nil {
				t.Fatalf("%v\n%s", r.err, r.stderr)
			}
			checkRPMTree(t, filepath.Join(state, "trees", label))
		})
	}
	t.Run("ready", func(t *testing.T) { readyRPMs(t, url, key, state, home) })
	t.Run("verify", func(t *testing.T) { verifyRPMTree(t, filepath.Join(state, "trees", "centos8-base")) })
	t.Run("refused", func(t *testing.T) { refusedRPMs(t, url, key, filepath.Join(state, "trees"), rpm) })
	if left, err := os.ReadDir(home); err != nil || len(left) > 0 {
		t.Errorf("left in the home of the building user: %v %v", left, err)
	}
	if t.Failed() {
		return
	}
	t.Run("boot", func(t *testing.T) {
		m := machine{Label: "centos8-base", Args: []string{"--config", rpmConfig, "--state", state}}
		r := m.boot(limit(t, bootLimit), t, rpmQuestions)
		if r.err != nil {
			t.Fatal(r.all())
		}
		for _, want := range []string{
			"state running", "root overlay", "kernel kernel", "database ok", "signed yes", "release centos-release-8-2", "epel epel-release-1-1",
			"ping cap_net_raw=ep", "suid 4755", "hosts 1", "motd A diskless node, made for tests.", "failed 0",
		} {
			if !strings.Contains(r.stdout, want+"\n") {
				t.Errorf("lacks %q", want)
			}
		}
		if t.Failed() {
			t.Log(r.all())
		}
	})
}

const rpmQuestions = `
echo "state $(systemctl is-system-running --wait)"
echo "root $(findmnt -no FSTYPE /)"
echo "kernel $(rpm -qf --qf '%{NAME}' /lib/modules/$(uname -r)/modules.dep)"
echo "database $(rpm --verifydb && [ $(rpm -qa | wc -l) -gt 100 ] && echo ok)"
echo "signed $(rpm -q gpg-pubkey > /dev/null && rpm -q --qf '%{RSAHEADER:pgpsig}' kernel | grep -q 'Key ID' && echo yes)"
echo "release $(rpm -q --qf '%{NAME}-%{VERSION}-%{RELEASE}' centos-release)"
echo "epel $(rpm -q --qf '%{NAME}-%{VERSION}-%{RELEASE}' epel-release)"
echo "ping $(getcap /usr/bin/ping | cut -d' ' -f2)"
echo "suid $(stat -c %a /usr/bin/su)"
echo "hosts $(grep -c localhost4 /etc/hosts)"
echo "motd $(cat /etc/motd)"
echo "failed $(systemctl --failed --plain --no-legend | wc -l)"
systemctl --failed --plain --no-legend
`

// runAt runs netroot with another home directory.
func runAt(ctx context.Context, home string, args ...string) result {
	cmd := command(ctx, args...)
	cmd.Env = append(cmd.Env, "HOME="+home)
	return finish(cmd)
}

// serveRPMs makes the repositories and serves them on loopback. It returns their URL and the file
// of their key.
func serveRPMs(t *testing.T, dir string) (url, key string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url = "http://" + l.Addr().String()
	started := time.Now()
	err = rpmrepo.Build(t.Context(), rpmrepo.Options{
		Dir:    dir,
		URL:    url,
		Sign:   true,
		Debian: append(rpmrepo.Base(), "dnf", "rsync", "libcap2-bin"),
		Stubs: []rpmrepo.Stub{
			{Name: "yum-plugin-ovl"}, {Name: "epel-release"}, {Name: "nfs-utils"}, {Name: "less"}, {Name: "glibc-minimal-langpack"},
			{Name: "munge", Service: "munge"}, {Name: "slurm"}, {Name: "slurm-slurmd", Service: "slurmd"}, {Name: "openmpi"},
			{Name: "rdma-core"}, {Name: "libibverbs-utils"}, {Name: "infiniband-diags"}, {Name: "chrony", Service: "chronyd"},
			{Name: "kmod-lustre-client"}, {Name: "lustre-client"},
		},
		Releases: []rpmrepo.Release{
			{Name: "centos-release", Version: "7", System: "CentOS Linux", ID: "centos", DBPath: "/var/lib/rpm",
				Repo: "centos/7/os/x86_64", Updates: "centos/7/updates/x86_64"},
			{Name: "centos-release", Version: "8", System: "CentOS Linux", ID: "centos", DBPath: "/var/lib/rpm",
				Repo: "centos/8/os/x86_64", Updates: "centos/8/updates/x86_64"},
			{Name: "rocky-release", Version: "9", System: "Rocky Linux", ID: "rocky", DBPath: "/var/lib/rpm",
				Repo: "rocky/9/BaseOS/x86_64/os", Updates: "rocky/9/AppStream/x86_64/os"},
			{Name: "epel-only-release", Version: "9", System: "EPEL", ID: "epel", DBPath: "/var/lib/rpm",
				Repo: "epel/9/Everything/x86_64", Updates: "epel/9/updates"},
			{Name: "fedora-release", Version: "32", System: "Fedora", ID: "fedora", DBPath: "/usr/lib/sysimage/rpm",
				Repo: "fedora/32/os/x86_64", Updates: "fedora/32/updates/x86_64"},
			{Name: "fedora-release", Version: "44", System: "Fedora", ID: "fedora", DBPath: "/usr/lib/sysimage/rpm",
				Repo: "fedora/releases/44/Everything/x86_64/os", Updates: "fedora/updates/44/Everything/x86_64"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("made the repositories in %s", time.Since(started).Round(time.Second))
	server := &http.Server{Handler: http.FileServer(http.Dir(dir))}
	done := make(chan struct{})
	go func() { server.Serve(l); close(done) }()
	t.Cleanup(func() { server.Close(); <-done })
	return url, filepath.Join(dir, rpmrepo.KeyFile)
}

// checkRPMTree checks the files of a built tree.
func checkRPMTree(t *testing.T, tree string) {
	t.Helper()
	for name, want := range map[string]bool{
		"etc/redhat-release": true, "etc/bootstrap-yum.conf": true, "usr/lib/systemd/systemd": true,
		"var/cache/yum-bootstrap": false, "root/.rpmdb": false,
	} {
		if _, err := os.Lstat(filepath.Join(tree, name)); (err == nil) != want {
			t.Errorf("%s is there: %v, want %v", name, err == nil, want)
		}
	}
	enabled := filepath.Join(tree, "etc/systemd/system/multi-user.target.wants/sshd.service")
	if _, err := os.Lstat(enabled); err != nil {
		t.Error(err)
	}
}

// readyRPMs builds the repository's own RPM recipes from the distribution made for tests.
func readyRPMs(t *testing.T, url, key, state, home string) {
	for label, args := range map[string][]string{
		"rocky9":         {"MIRROR=" + url + "/rocky"},
		"rocky9-hpcnode": {"MIRROR=" + url + "/rocky", "EPEL=" + url + "/epel/9", "EPELKEY=file://" + key},
		"fedora":         {"MIRROR=" + url + "/fedora"},
		"centos7":        {"MIRROR=" + url + "/centos", "RELEASE=7"},
	} {
		t.Run(label, func(t *testing.T) {
			argv := []string{"--state", state, "build", label, "--level", "1", "--build-arg", "KEY=file://" + key}
			for _, a := range args {
				argv = append(argv, "--build-arg", a)
			}
			r := runAt(limit(t, bootLimit), home, argv...)
			if r.err != nil {
				t.Fatalf("%v\n%s\n%s", r.err, r.stdout, r.stderr)
			}
			t.Log(r.stdout)
			checkRPMTree(t, filepath.Join(state, "trees", label))
		})
	}
}

// verifyRPMTree makes the tree's own rpm compare the installed files with its database: owners,
// modes, capabilities, links, digests. Files that the recipe's %post wrote are configuration.
func verifyRPMTree(t *testing.T, tree string) {
	t.Helper()
	// Its status counts the differences.
	out, _ := exec.Command("chroot", tree, "rpm", "-Va").CombinedOutput()
	for line := range strings.Lines(string(out)) {
		// "S.5....T.  c /etc/hosts": the kind of the file is in column 11.
		if len(line) < 12 || line[11] != 'c' {
			t.Errorf("changed: %s", line)
		}
	}
}

// refusedRPMs runs builds that cannot succeed: each must report dnf's own message, and leave
// nothing.
func refusedRPMs(t *testing.T, url, key, trees string, netroot func(t *testing.T, args ...string) result) {
	notKey := filepath.Join(t.TempDir(), "not-a-key")
	if err := os.WriteFile(notKey, []byte("x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ mirror, include, key, want string }{
		"no-package": {url, "no-such-package", key, "No match for argument: no-such-package"},
		"no-mirror":  {"http://" + freePort(t), "bash", key, "Couldn't connect to server"},
		"no-repo":    {url + "/nowhere", "bash", key, "Status code: 404"},
		"no-key":     {url, "bash", notKey, "GPG"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), name+".def")
			text := "BootStrap: yum\nOSVersion: 8\nMirrorURL: " + c.mirror + "/centos/%{OSVERSION}/os/$basearch/\n" +
				"GPG: file://" + c.key + "\nSetopt: retries=1\nInclude: " + c.include + "\n"
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			r := netroot(t, "build", file)
			t.Log(r.stderr)
			if r.status == 0 || !strings.Contains(r.stderr, c.want) {
				t.Errorf("status %d, want an error that says %q", r.status, c.want)
			}
			if left, _ := filepath.Glob(filepath.Join(trees, name+"*")); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}
