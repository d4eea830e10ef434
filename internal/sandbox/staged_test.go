package sandbox

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var hostsOfHost = hostFiles{resolv: "search x\nnameserver 192.0.2.1\n", hosts: "127.0.0.1 localhost"}

// entries describes files: their content, "-> target" for a symbolic link, or that they are absent.
func entries(t *testing.T, paths ...string) map[string]string {
	t.Helper()
	got := map[string]string{}
	for _, p := range paths {
		if target, err := os.Readlink(p); err == nil {
			got[p] = "-> " + target
		} else if data, err := os.ReadFile(p); err == nil {
			got[p] = string(data)
		}
	}
	return got
}

func lay(t *testing.T, files map[string]string) {
	t.Helper()
	for p, content := range files {
		must(t, os.RemoveAll(p))
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			must(t, os.Symlink(target, p))
		} else {
			must(t, os.WriteFile(p, []byte(content), 0o644))
		}
	}
}

const (
	stagedResolv = stagedBegin + "search x\nnameserver 192.0.2.1\n" + stagedEnd
	stagedHosts  = stagedBegin + "127.0.0.1 localhost\n" + stagedEnd
	oldStaged    = stagedBegin + "nameserver 198.51.100.9\n" + stagedEnd
	stashName    = "etc/.resolv.conf.netroot"
)

func TestStage(t *testing.T) {
	type files = map[string]string
	dangling := "-> ../run/systemd/resolve/stub-resolv.conf"
	for _, tc := range []struct {
		name    string
		tree    files  // before
		during  string // resolv.conf during the run
		command func(t *testing.T)
		after   files
	}{
		{name: "nothing there", during: stagedResolv, after: files{}},
		{name: "dangling link", tree: files{resolvConf: dangling}, during: stagedResolv, after: files{resolvConf: dangling}},
		{name: "empty", tree: files{resolvConf: ""}, during: stagedResolv, after: files{resolvConf: ""}},
		{name: "no server", tree: files{resolvConf: "search y\n"}, during: stagedResolv, after: files{resolvConf: "search y\n"}},
		{name: "usable", tree: files{resolvConf: "nameserver ::1\n"}, during: "nameserver ::1\n", after: files{resolvConf: "nameserver ::1\n"}},
		{
			name: "usable through a link", tree: files{"etc/real": "nameserver ::1", resolvConf: "-> real"}, during: "-> real",
			after: files{resolvConf: "-> real"},
		},
		{
			name: "replaced", tree: files{resolvConf: dangling}, during: stagedResolv,
			command: func(t *testing.T) { lay(t, files{resolvConf: "nameserver 203.0.113.5\n"}) },
			after:   files{resolvConf: "nameserver 203.0.113.5\n"},
		},
		{
			name: "made a link", during: stagedResolv,
			command: func(t *testing.T) { lay(t, files{resolvConf: dangling}) },
			after:   files{resolvConf: dangling},
		},
		{
			name: "appended and inserted", tree: files{resolvConf: dangling}, during: stagedResolv,
			command: func(t *testing.T) { lay(t, files{resolvConf: "options a\n" + stagedResolv + "options b\n"}) },
			after:   files{resolvConf: "options a\noptions b\n"},
		},
		{
			name: "removed", tree: files{resolvConf: "search y\n"}, during: stagedResolv,
			command: func(t *testing.T) { must(t, os.Remove(resolvConf)) },
			after:   files{},
		},
		{
			name: "a killed run's with what was there", tree: files{resolvConf: oldStaged, stashName: dangling}, during: stagedResolv,
			after: files{resolvConf: dangling},
		},
		{name: "a killed run's with nothing before", tree: files{resolvConf: oldStaged}, during: stagedResolv, after: files{}},
		{
			name: "killed between its two steps", tree: files{stashName: "search y\n"}, during: stagedResolv,
			after: files{resolvConf: "search y\n"},
		},
		{
			name: "killed after the command's change", tree: files{resolvConf: "nameserver ::1\n", stashName: dangling}, during: "nameserver ::1\n",
			after: files{resolvConf: "nameserver ::1\n"},
		},
		{
			name: "killed after appending", tree: files{resolvConf: oldStaged + "nameserver ::1\n", stashName: dangling}, during: "nameserver ::1\n",
			after: files{resolvConf: "nameserver ::1\n"},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			must(t, os.Mkdir("etc", 0o755))
			lay(t, tc.tree)
			putBack, err := stageFiles(hostsOfHost)
			must(t, err)
			if got := entries(t, resolvConf)[resolvConf]; got != tc.during {
				t.Errorf("during the run it is %q, want %q", got, tc.during)
			}
			if got := entries(t, hostsFile)[hostsFile]; got != stagedHosts {
				t.Errorf("/etc/hosts during the run is %q", got)
			}
			if tc.command != nil {
				tc.command(t)
			}
			must(t, putBack())
			if diff := cmp.Diff(tc.after, entries(t, resolvConf, stashName, hostsFile, "etc/.hosts.netroot")); diff != "" {
				t.Errorf("left in the tree (-want +got):\n%s", diff)
			}
		})
	}
}

func TestStagePolicy(t *testing.T) {
	t.Chdir(t.TempDir())
	must(t, os.MkdirAll("usr/sbin", 0o755))
	putBack, err := stageFiles(hostFiles{})
	must(t, err)
	if exists(policyRcd) {
		t.Error("a tree without invoke-rc.d got a policy-rc.d")
	}
	must(t, putBack())

	lay(t, map[string]string{"usr/sbin/invoke-rc.d": ""})
	for range 2 { // the second run finds the file of a killed first run
		putBack, err = stageFiles(hostFiles{})
		must(t, err)
		if fi, err := os.Stat(policyRcd); err != nil || fi.Mode().Perm() != 0o755 {
			t.Errorf("policy-rc.d: %v, %v", fi, err)
		}
	}
	must(t, putBack())
	if exists(policyRcd) || exists("usr/sbin/.policy-rc.d.netroot") {
		t.Error("policy-rc.d is left in the tree")
	}

	lay(t, map[string]string{policyRcd: "#!/bin/sh\nexit 0\n"})
	putBack, err = stageFiles(hostFiles{})
	must(t, err)
	must(t, putBack())
	if got := entries(t, policyRcd)[policyRcd]; got != "#!/bin/sh\nexit 0\n" {
		t.Errorf("the tree's own policy-rc.d is now %q", got)
	}
}

// TestStagedRun checks the same with a real run: rm, mv and a rewrite work, and the host's files
// are unchanged.
func TestStagedRun(t *testing.T) {
	root := tinyTree(t)
	before := entries(t, "/etc/hosts", "/etc/resolv.conf")
	if !hasEntry(resolvConf, before["/etc/resolv.conf"]) {
		t.Skip("this host's resolv.conf names no server")
	}
	got, err := post(t, Sandbox{Root: root}, "cat /etc/resolv.conf; echo 192.0.2.7 server > /etc/new; mv /etc/new /etc/hosts")
	if err != nil || !strings.Contains(got, strings.TrimSpace(before["/etc/resolv.conf"])) {
		t.Errorf("inside, resolv.conf is %q (%v)", got, err)
	}
	t.Chdir(root)
	if diff := cmp.Diff(map[string]string{hostsFile: "192.0.2.7 server\n"}, entries(t, resolvConf, hostsFile, stashName)); diff != "" {
		t.Errorf("the tree (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, entries(t, "/etc/hosts", "/etc/resolv.conf")); diff != "" {
		t.Errorf("the host's files changed:\n%s", diff)
	}
}
