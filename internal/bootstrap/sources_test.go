package bootstrap

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	deb822 = `# the distribution's own
Types: deb deb-src
URIs: http://mirror.invalid/debian
# a comment between
Suites: bookworm bookworm-updates
Components: main non-free-firmware
Architectures: amd64
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.invalid/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQ==

Enabled: no
Types: deb
URIs: http://off.invalid/debian
Suites: bookworm
Components: main

Types: deb
URIs: https://vendor.invalid/linux
Suites: bookworm
Components: stable

Types: deb-src
URIs: http://mirror.invalid/debian
Suites: bookworm
Components: main
`
	oneLine = `deb http://a.invalid/debian bookworm main contrib
# deb http://commented.invalid/debian bookworm main
deb-src http://a.invalid/debian bookworm main
deb [ signed-by=/key.gpg arch=amd64 trusted=yes ] http://b.invalid/debian bookworm-security main # trailing
deb http://flat.invalid/ ./
`
)

func TestForSuite(t *testing.T) {
	archive := "Types: deb\nURIs: http://mirror.invalid/debian\nSuites: %s %s-updates\nComponents: main non-free-firmware\n" +
		"Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\n" +
		"Types: deb\nURIs: http://mirror.invalid/debian-security\nSuites: %s-security\nComponents: main\n" +
		"Signed-By: \n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ==\n"
	sid := "Types: deb\nURIs: http://mirror.invalid/debian\nSuites: sid\nComponents: main non-free-firmware\n" +
		"Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
	fromList := "Types: deb\nURIs: http://a.invalid/debian\nSuites: trixie\nComponents: main contrib\n\n" +
		"Types: deb\nURIs: http://b.invalid/debian\nSuites: trixie-security\nComponents: main\nSigned-By: /key.gpg\nTrusted: yes\n"
	for _, tc := range []struct {
		name        string
		all         []source
		host, suite string
		want        string
	}{
		{"the host's own", parseDeb822(deb822), "bookworm", "bookworm", strings.ReplaceAll(archive, "%s", "bookworm")},
		{"another", parseDeb822(deb822), "bookworm", "trixie", strings.ReplaceAll(archive, "%s", "trixie")},
		{"without pockets", parseDeb822(deb822), "bookworm", "sid", sid},
		{"one-line", parseList(oneLine), "bookworm", "trixie", fromList},
		{"named on another host", parseList(oneLine), "noble", "bookworm", strings.ReplaceAll(fromList, "trixie", "bookworm")},
		{"nothing known", parseList(oneLine), "noble", "sid", ""},
		{"no Debian", nil, "", "bookworm", ""},
		{"updates alone", parseList("deb http://a.invalid/debian bookworm-updates main"), "bookworm", "trixie", ""},
	} {
		got := render(forSuite(tc.all, tc.host, tc.suite))
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
	}
}

func TestReadSources(t *testing.T) {
	etc := t.TempDir()
	if all, err := readSources(etc); err != nil || len(all) != 0 {
		t.Errorf("a host without apt: %v %v", all, err)
	}
	parts := filepath.Join(etc, "apt/sources.list.d")
	must(t, os.MkdirAll(parts, 0o755))
	mirrors := filepath.Join(etc, "mirrors")
	must(t, os.WriteFile(mirrors, []byte("# ours\nhttp://one.invalid/debian\tpriority:1\nhttp://two.invalid/debian\n"), 0o644))
	for name, text := range map[string]string{
		"sources.list":                     "deb http://z.invalid/debian bookworm main\n",
		"sources.list.d/a.sources":         "Types: deb\nURIs: mirror+file:" + mirrors + " mirror+file:///none\nSuites: bookworm\nComponents: main\n",
		"sources.list.d/b.list":            "deb http://b.invalid/debian bookworm main\n",
		"sources.list.d/c.sources.disable": "Types: deb\nURIs: http://c.invalid/debian\nSuites: bookworm\nComponents: main\n",
	} {
		must(t, os.WriteFile(filepath.Join(etc, "apt", name), []byte(text), 0o644))
	}
	all, err := readSources(etc)
	must(t, err)
	var uris []string
	for _, s := range all {
		uris = append(uris, s.URIs...)
	}
	want := []string{"http://z.invalid/debian", "http://one.invalid/debian", "http://two.invalid/debian", "http://b.invalid/debian"}
	if diff := cmp.Diff(want, uris); diff != "" {
		t.Errorf("URIs (-want +got):\n%s", diff)
	}
}

// FuzzSources checks that parsed sources are the same after they are written and parsed again.
func FuzzSources(f *testing.F) {
	f.Add(deb822)
	f.Add(oneLine)
	f.Add("deb [a=b")
	f.Add("Types: deb\n :\n\t\nSuites")
	f.Fuzz(func(t *testing.T, text string) {
		for _, s := range slices.Concat(parseDeb822(text), parseList(text)) {
			if len(s.URIs) == 0 || len(s.Suites) == 0 || len(s.Components) == 0 {
				continue
			}
			again := parseDeb822(render([]source{s}))
			if len(again) != 1 || !slices.Equal(again[0].URIs, s.URIs) || !slices.Equal(again[0].Suites, s.Suites) {
				t.Errorf("%+v was read back as %+v", s, again)
			}
		}
	})
}

func TestSettings(t *testing.T) {
	dump := `Acquire "";
Acquire::AllowInsecureRepositories "0";
Acquire::Check-Valid-Until "false";
Acquire::IndexTargets::deb::Packages::MetaKey "$(COMPONENT)/binary-$(ARCHITECTURE)/Packages";
Acquire::http::Proxy "http://proxy.invalid:3128";
Acquire::http::Proxy::direct.invalid "DIRECT";
acquire::HTTPS::CaInfo "/etc/ssl/our ca.pem";
Acquire::https "";
Acquire::Retries "3";
Acquire::Languages "none";
DPkg::Post-Invoke:: "rm -f /x";
`
	settings := parseSettings(dump)
	d := debian{prog: "/usr/bin/mmdebstrap", suite: "bookworm", root: "/tree", include: []string{"a", "b"}}
	want := []string{
		"/usr/bin/mmdebstrap", "--mode=root", "--format=directory", "--variant=minbase", "--skip=check/empty", "--include=a,b",
		`--aptopt=Acquire::Check-Valid-Until "false"`,
		`--aptopt=Acquire::http::Proxy "http://proxy.invalid:3128"`,
		`--aptopt=Acquire::http::Proxy::direct.invalid "DIRECT"`,
		`--aptopt=acquire::HTTPS::CaInfo "/etc/ssl/our ca.pem"`,
		`--aptopt=Acquire::Retries "3"`,
		"bookworm", "/tree", "http://m.invalid/",
	}
	if diff := cmp.Diff(want, d.mmdebstrapArgs("http://m.invalid/", settings, false)); diff != "" {
		t.Errorf("mmdebstrap (-want +got):\n%s", diff)
	}

	d.prog, d.sources = "/usr/sbin/debootstrap", forSuite(parseDeb822(deb822), "bookworm", "bookworm")
	want = []string{"/usr/sbin/debootstrap", "--variant=minbase", "--include=apt,a,b", "bookworm", "/tree", "http://mirror.invalid/debian"}
	if diff := cmp.Diff(want, d.debootstrapArgs()); diff != "" {
		t.Errorf("debootstrap (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"http_proxy=http://proxy.invalid:3128"}, proxyEnv(Job{Env: []string{}}, settings)); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	if env := proxyEnv(Job{Env: []string{"http_proxy=http://mine.invalid"}}, settings); len(env) != 0 {
		t.Errorf("the caller's proxy was overridden: %v", env)
	}
}
