package rpmrepo

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestEVROrder checks converted versions with both package managers: RPM must order them as dpkg
// does.
func TestEVROrder(t *testing.T) {
	for _, tool := range []string{"rpm", "dpkg"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is missing", tool)
		}
	}
	versions := []string{"2.36-9+deb12u14", "2.36", "2.37", "2.36-9", "252.39-1~deb12u2", "252~", "1:9.2p1-2+deb12u10", "1.2.13.dfsg-1",
		"1:1.2.13.dfsg-1", "3.0.22-1~deb12u2", "3.1~", "6.1.0-56", "20220101-1.1", "1.0-a-2"}
	for _, a := range versions {
		for _, b := range versions {
			debian := exec.Command("dpkg", "--compare-versions", a, "lt", b).Run() == nil
			out, err := exec.Command("rpm", "--eval", `%{lua: print(rpm.vercmp("`+evr(a).String()+`", "`+evr(b).String()+`"))}`).Output()
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSpace(string(out)) == "-1"; got != debian {
				t.Errorf("%s < %s: %v to dpkg, %v to rpm as %s and %s", a, b, debian, got, evr(a), evr(b))
			}
		}
	}
}

func TestRequires(t *testing.T) {
	u := universe{
		names:   map[string]string{"libc6": "glibc", "bash": "bash", "mawk": "mawk", "gawk": "gawk", "dbus-broker": "dbus-broker"},
		virtual: map[string][]string{"awk": {"mawk", "gawk"}, "default-dbus-system-bus": {"dbus-broker"}},
	}
	for field, want := range map[string][]string{
		"":                                 nil,
		"libc6 (>= 2.36), bash":            {"glibc >= 2.36-0", "bash"},
		"libc6 (>> 2.36), libc6 (<< 2.37)": {"glibc > 2.36-0", "glibc < 2.37-0"},
		"bash:any (= 5.2-1)":               {"bash = 5.2-1"},
		"mawk | gawk (>= 1:4), awk":        {"(mawk or gawk >= 1:4-0)", "awk"},
		// An unknown alternative does not matter.
		"systemd | bash":                        {"bash"},
		"debconf (>= 0.5) | debconf-2.0, libc6": {"glibc"},
		// Dropped, together with its alternatives.
		"dpkg (>= 1.17), perl-base | bash":       nil,
		"default-dbus-system-bus | dbus-system":  {"default-dbus-system-bus"},
		"linux-image-6.1.0-9-amd64 | bash, bash": {"bash", "bash"},
	} {
		if diff := cmp.Diff(want, u.requires(field)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", field, diff)
		}
	}
	if diff := cmp.Diff([]string{"awk", "libfoo = 1:2-3"}, u.provides("awk, libfoo (= 1:2-3)")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"glibc < 2.29-0"}, u.conflicts("libc6 (<< 2.29), nobody (<< 9)")); diff != "" {
		t.Error(diff)
	}
}

func TestSpec(t *testing.T) {
	p := &Package{
		Name: "ping", Arch: "x86_64", Summary: "100% of it", EVR: EVR{"3", "1", "2"},
		Requires: []string{"glibc", "bash", "glibc"}, Pre: []string{"setup"},
		Scriptlets: []Scriptlet{{"%post", "true", nil}, {"%transfiletriggerin", "ldconfig", []string{"/usr/lib", "/usr/lib64"}}},
		Files: []File{
			{Path: "/usr/bin/ping", User: "root", Group: "root", Mode: 0o755, Caps: "cap_net_raw=ep"},
			{Path: "/etc/ping", User: "root", Group: "adm", Mode: fs.ModeDir | fs.ModeSetgid | 0o750},
			{Path: "/usr/bin/ping6", User: "root", Group: "root", Mode: fs.ModeSymlink | 0o777},
			{Path: "/etc/a%b", User: "root", Group: "root", Mode: 0o600, Config: true},
		},
	}
	_, got, _ := strings.Cut(Spec([]*Package{p}), "%package ")
	want := `-n ping
Version: 1
Release: 2
Epoch: 3
Summary: 100%% of it
License: various
AutoReqProv: no
Requires(pre): setup
Requires: bash
Requires: glibc

%description -n ping
100%% of it

%post -n ping
true

%transfiletriggerin -n ping -- /usr/lib /usr/lib64
ldconfig

%files -n ping
%attr(0600, root, root) %config(noreplace) "/etc/a%%b"
%attr(2750, root, adm) %dir "/etc/ping"
%attr(0755, root, root) %caps(cap_net_raw=ep) "/usr/bin/ping"
%attr(-, root, root) "/usr/bin/ping6"
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestMerged(t *testing.T) {
	for name, want := range map[string]string{
		"/bin/sh": "/usr/bin/sh", "/lib64": "/usr/lib64", "/usr/bin/sh": "/usr/bin/sh", "/libexec/x": "/libexec/x", "/": "/",
		"/lib/x86_64-linux-gnu/libc.so.6": "/usr/lib/x86_64-linux-gnu/libc.so.6",
	} {
		if got := merged(name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

// TestBuild makes a small distribution and queries the result with rpm.
func TestBuild(t *testing.T) {
	if os.Getenv("CI") != "true" && os.Getenv("NETROOT_BOOT") != "1" {
		t.Skip("downloads from the host's mirror; set NETROOT_BOOT=1 to run it")
	}
	if missing := Missing(); len(missing) > 0 {
		if os.Getenv("CI") == "true" {
			t.Fatalf("missing: %v", missing)
		}
		t.Skipf("missing: %v", missing)
	}
	dir := t.TempDir()
	r := Release{Name: "test-release", Version: "1", System: "Test", ID: "test", DBPath: "/var/lib/rpm",
		Repo: "base", Updates: "updates"}
	err := Build(t.Context(), Options{Dir: dir, Debian: []string{"hostname", "login"}, Stubs: []Stub{{Name: "stub", Service: "idle"}}, Releases: []Release{r}, Sign: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "work")); !os.IsNotExist(err) {
		t.Errorf("the work directory is left: %v", err)
	}
	names := func(repo string) []string {
		files, _ := filepath.Glob(filepath.Join(dir, repo, "Packages/*.rpm"))
		var out []string
		for _, f := range files {
			name, _, _ := strings.Cut(filepath.Base(f), "-")
			out = append(out, name)
		}
		return out
	}
	for _, want := range []string{"glibc", "login", "hostname", "filesystem", "setup", "stub", "test"} {
		if !slices.Contains(names(r.Repo), want) {
			t.Errorf("lacks %s", want)
		}
	}
	if got := names(r.Updates); !slices.Equal(got, []string{"test"}) {
		t.Errorf("updates are %v", got)
	}
	query := func(pattern string, args ...string) string {
		files, _ := filepath.Glob(filepath.Join(dir, r.Repo, "Packages", pattern))
		out, err := exec.Command("rpm", append([]string{"--dbpath", t.TempDir(), "--nosignature", "-qp"}, append(args, files...)...)...).Output()
		if err != nil {
			t.Fatalf("rpm -qp %v %s: %v", args, pattern, err)
		}
		return string(out)
	}
	for _, c := range []struct{ pattern, format, want string }{
		{"login-*", "[%{FILENAMES} %{FILEMODES:octal} %{FILEUSERNAME}:%{FILEGROUPNAME}\n]", "/usr/bin/newgrp 104755 root:root"},
		{"login-*", "%{RSAHEADER:pgpsig}", "RSA/"},
		{"glibc-2*", "[%{PROVIDES} %{PROVIDEVERSION}\n]", "libc6 "},
		{"filesystem-*", "[%{FILENAMES} %{FILEMODES:octal} %{FILELINKTOS}\n]", "/tmp 41777"},
		{"stub-*", "[%{FILENAMES}\n]", "/usr/lib/systemd/system/idle.service"},
		{"filesystem-*", "[%{FILENAMES} %{FILELINKTOS}\n]", "/lib64 usr/lib64"},
	} {
		if got := query(c.pattern, "--qf", c.format); !strings.Contains(got, c.want) {
			t.Errorf("%s: lacks %q:\n%s", c.pattern, c.want, got)
		}
	}
}

func TestUnknownOwner(t *testing.T) {
	p := &Package{Name: "x", Files: []File{{Path: "/x", User: "root", Group: "nosuch"}}}
	if err := checkOwners(p); err == nil || !strings.Contains(err.Error(), "/x belongs to root:nosuch") {
		t.Errorf("error %v", err)
	}
}
