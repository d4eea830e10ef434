package bootstrap

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestZypperSteps compares the command lines for the header in testdata/NAME.def with
// testdata/NAME.golden.
func TestZypperSteps(t *testing.T) {
	goldens(t, "zypper-*", func(j Job) string {
		s, err := suseFrom(j)
		must(t, err)
		var got strings.Builder
		for _, argv := range s.steps("/usr/bin/zypper", "/usr/bin/SUSEConnect", "/home/key", "/tree") {
			got.WriteString(strings.Join(argv, " ") + "\n")
		}
		return strings.NewReplacer("/x86_64", "/ARCH", "/aarch64", "/ARCH").Replace(got.String())
	})
}

func TestZypperHeaderErrors(t *testing.T) {
	for header, want := range map[string]string{
		"Include: a":                        "MirrorURL: is missing",
		"UpdateURL: http://m/":              "MirrorURL: is missing",
		"MirrorURL: http://m/%{OSVERSION}/": "MirrorURL: uses %{OSVERSION}",
		"MirrorURL: http://m/\nOtherURL3: http://m/%{osversion}":                       "OtherURL3: uses %{OSVERSION}",
		"MirrorURL: http://m/\nInclude: --root":                                        "is not a package name",
		"MirrorURL: http://m/\nProduct: SLES":                                          "must be used together",
		"OSVersion: 15.6\nProduct: SLES\nUser: u\nRegCode: c":                          "MirrorURL: or ProductPGP: is missing",
		"MirrorURL: http://m/\nOSVersion: 15.6\nProduct: a/b/c/d\nUser: u\nRegCode: c": "does not have the form NAME",
	} {
		if _, err := suseFrom(job(t, "Bootstrap: zypper\n"+header+"\n")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", header, err, want)
		}
	}
}

// rpmRepository makes a repository of two packages. The script of aaa_base writes down where the
// package was installed.
func rpmRepository(t *testing.T) string {
	t.Helper()
	rpmbuild := needTool(t, "rpmbuild")
	dir := t.TempDir()
	spec := filepath.Join(dir, "test.spec")
	must(t, os.WriteFile(spec, []byte(`Name: aaa_base
Version: 1
Release: 1
Summary: base
License: MIT
BuildArch: noarch
AutoReqProv: no
%description
base
%package -n broken
Summary: its script fails
%description -n broken
broken
%install
mkdir -p %{buildroot}/etc %{buildroot}/usr/bin
echo 'NAME="openSUSE Leap"' > %{buildroot}/etc/os-release
cp `+needTool(t, "busybox")+` %{buildroot}/usr/bin/sh
%files
/etc/os-release
/usr/bin/sh
%post -p /usr/bin/sh
echo installed > /etc/script
%files -n broken
%post -n broken -p /usr/bin/sh
exit 3
`), 0o644))
	output(t, rpmbuild, "-bb", "--quiet", "--define", "_topdir "+dir, "--define", "__os_install_post %{nil}", "--define", "_binaries_in_noarch_packages_terminate_build 0", spec)
	return filepath.Join(dir, "RPMS")
}

// TestZypper runs the real zypper on a directory of packages.
func TestZypper(t *testing.T) {
	needRoot(t)
	needTool(t, "zypper")
	packages := rpmRepository(t)
	conf := filepath.Join(t.TempDir(), "zypp.conf")
	// The packages are not signed.
	must(t, os.WriteFile(conf, []byte("[main]\ngpgcheck = off\n"), 0o644))
	t.Setenv("TMPDIR", t.TempDir())
	for _, tc := range []struct{ header, want, log string }{
		{"OSVersion: 15.6\nMirrorURL: dir:" + packages, "", "1 new package to install."},
		{"MirrorURL: dir:" + packages + "\nInclude: broken", "", "zypper ended with status 107: everything is installed"},
		{"MirrorURL: dir:" + packages + "\nInclude: nosuch", "zypper: exit status 104:", "No provider of 'nosuch' found."},
		{"MirrorURL: dir:/no/such/place", "zypper: exit status ", "Valid metadata not found at specified URL"},
	} {
		var out bytes.Buffer
		j := job(t, "Bootstrap: zypper\n"+tc.header+"\n")
		j.Env = append(j.Env, "ZYPP_CONF="+conf, "HOME="+t.TempDir(), "LC_ALL=C")
		j.Log = &out
		err := runAgent(t, j)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%q: %v, want %q\n%s", tc.header, err, tc.want, &out)
		}
		if !strings.Contains(out.String(), tc.log) {
			t.Errorf("%q: the log lacks %q:\n%s", tc.header, tc.log, &out)
		}
		if tc.want != "" {
			continue
		}
		if got, err := os.ReadFile(filepath.Join(j.Root, "etc/script")); err != nil || string(got) != "installed\n" {
			t.Errorf("%q: aaa_base's script: %q, %v", tc.header, got, err)
		}
		if _, err := os.Stat(filepath.Join(j.Root, "var/cache/zypp")); !os.IsNotExist(err) {
			t.Errorf("the cache is left: %v", err)
		}
		if repo, err := os.ReadFile(filepath.Join(j.Root, "etc/zypp/repos.d/repo.repo")); err != nil || !strings.Contains(string(repo), "dir:"+packages) {
			t.Errorf("the tree's repository: %s %v", repo, err)
		}
	}
	if left, _ := os.ReadDir(os.TempDir()); len(left) > 0 {
		t.Errorf("left in TMPDIR: %v", left)
	}
}
