package bootstrap

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPacstrapArgs(t *testing.T) {
	for include, want := range map[string]string{
		"":                      "/usr/bin/pacstrap -C /conf -c -G -M /tree base",
		"Include: base linux\n": "/usr/bin/pacstrap -C /conf -c -G -M /tree base linux",
		"Include: base, less\n": "/usr/bin/pacstrap -C /conf -c -G -M /tree base less",
	} {
		packages, err := job(t, "Bootstrap: arch\n"+include).include()
		must(t, err)
		if got := strings.Join(pacstrapArgs("/usr/bin/pacstrap", "/conf", "/tree", packages), " "); got != want {
			t.Errorf("%q: %s, want %s", include, got, want)
		}
	}
}

func TestPacmanConf(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "mirrorlist"), nil, 0o644))
	write := func(name, text string) {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(strings.ReplaceAll(text, "DIR", dir)), 0o644))
	}
	write("list", "[options]\nArchitecture = auto\n[core]\nInclude = DIR/mirrorlist\n")
	write("missing", "[options]\n[core]\nInclude=DIR/none/mirrorlist\n  [extra]\nInclude = DIR/none/mirrorlist")
	write("other", "[options]\nInclude = DIR/else\n[core]\nServer = http://s.invalid\n")
	write("bare", "[options]\nArchitecture = auto\n#[core]\n")
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(server.Close)
	for header, want := range map[string]string{
		"ConfURL: list":                    "[options]\nArchitecture = auto\n[core]\nInclude = DIR/mirrorlist\n",
		"ConfURL: file://DIR/other":        "[options]\nInclude = DIR/else\n[core]\nServer = http://s.invalid\n",
		"ConfURL: " + server.URL + "/list": "[options]\nArchitecture = auto\n[core]\nInclude = DIR/mirrorlist\n",
		"ConfURL: missing\nMirrorURL: http://m.invalid/$repo/os/$arch": "[options]\n[core]\nServer = http://m.invalid/$repo/os/$arch\n  [extra]\nServer = http://m.invalid/$repo/os/$arch\n",
		"ConfURL: missing":                 "!MirrorURL: is missing, and this host has no mirror list",
		"ConfURL: bare":                    "!has no section for a repository",
		"ConfURL: nowhere":                 "!ConfURL: open ",
		"ConfURL: " + server.URL + "/none": "!the server answered 404",
	} {
		j := job(t, "Bootstrap: arch\n"+strings.ReplaceAll(header, "DIR", dir)+"\n")
		j.Dir = dir
		got, err := j.pacmanConf(t.Context())
		if bad, ok := strings.CutPrefix(want, "!"); ok {
			if err == nil || !strings.Contains(err.Error(), bad) {
				t.Errorf("%q: %v, want %q", header, err, bad)
			}
			continue
		}
		must(t, err)
		if diff := cmp.Diff(strings.ReplaceAll(want, "DIR", dir), got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", header, diff)
		}
	}
}

// pacmanRepository writes a repository: a database and packages, each a compressed archive with
// .PKGINFO (alpm-package(7), alpm-repo-db(7)).
func pacmanRepository(t *testing.T, packages map[string][]file) string {
	t.Helper()
	dir := t.TempDir()
	zip := func(name string, archive []byte) {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		w.Write(archive)
		must(t, w.Close())
		must(t, os.WriteFile(filepath.Join(dir, name), out.Bytes(), 0o644))
	}
	var db []file
	for name, files := range packages {
		info := fmt.Sprintf("pkgname = %s\npkgver = 1-1\npkgdesc = test\nbuilddate = 1\nsize = 1\narch = any\n", name)
		archive := name + "-1-1-any.pkg.tar.gz"
		zip(archive, layerOf(t, append([]file{{name: ".PKGINFO", body: info, mode: 0o644}}, files...)...))
		fi, err := os.Stat(filepath.Join(dir, archive))
		must(t, err)
		db = append(db, file{name: name + "-1-1/"}, file{name: name + "-1-1/desc", body: fmt.Sprintf(
			"%%FILENAME%%\n%s\n\n%%NAME%%\n%s\n\n%%VERSION%%\n1-1\n\n%%CSIZE%%\n%d\n\n%%ARCH%%\nany\n\n", archive, name, fi.Size())})
	}
	zip("core.db", layerOf(t, db...))
	return dir
}

// TestArch runs the real pacstrap and pacman on a repository on loopback.
func TestArch(t *testing.T) {
	needRoot(t)
	needTool(t, "pacstrap")
	needTool(t, "pacman")
	busybox, err := os.ReadFile(needTool(t, "busybox"))
	must(t, err)
	packages := pacmanRepository(t, map[string][]file{
		"base": {
			{name: "usr/"}, {name: "usr/bin/"}, {name: "usr/bin/busybox", body: string(busybox)}, {name: "bin", to: "usr/bin"},
			{name: "usr/bin/pacman-key", body: "#!/usr/bin/busybox sh\necho \"pacman-key $*\" | /usr/bin/busybox tee -a /keys\n"},
		},
		"bare": {{name: "etc/"}, {name: "etc/bare", body: "x"}},
		"less": {{name: "etc/"}, {name: "etc/lesskey", typ: tar.TypeReg}},
	})
	server := httptest.NewServer(http.FileServer(http.Dir(packages)))
	t.Cleanup(server.Close)
	t.Setenv("TMPDIR", t.TempDir())
	for _, tc := range []struct{ header, file, want, log string }{
		{"", "keys", "", "pacman-key --init\npacman-key --populate archlinux\n"},
		{"Include: base less\n", "etc/lesskey", "", "pacman-key --init"},
		{"Include: bare\n", "etc/bare", "", "the tree has no pacman-key"},
		{"Include: nosuch\n", "", "error: target not found: nosuch", ""},
		{"MirrorURL: " + server.URL + "/none\n", "", "pacstrap: exit status 1", "error: failed retrieving file 'core.db'"},
	} {
		var out bytes.Buffer
		j := job(t, "Bootstrap: arch\nConfURL: conf\nMirrorURL: "+server.URL+"\n"+tc.header)
		// The packages must not enter the host's cache, which pacstrap -c uses.
		cache := t.TempDir()
		must(t, os.WriteFile(filepath.Join(j.Dir, "conf"), []byte("[options]\nCacheDir = "+cache+"\nArchitecture = auto\nSigLevel = Never\n[core]\nInclude = /etc/pacman.d/mirrorlist\n"), 0o644))
		j.Log = &out
		err := runAgent(t, j)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%q: %v, want %q\n%s", tc.header, err, tc.want, &out)
		}
		if !strings.Contains(out.String(), tc.log) {
			t.Errorf("%q: the log lacks %q:\n%s", tc.header, tc.log, &out)
		}
		if _, err := os.Stat(filepath.Join(j.Root, tc.file)); err != nil {
			t.Error(err)
		}
	}
	if left, _ := os.ReadDir(os.TempDir()); len(left) > 0 {
		t.Errorf("left in TMPDIR: %v", left)
	}
}
