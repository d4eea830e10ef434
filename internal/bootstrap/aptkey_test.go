package bootstrap

import (
	"bytes"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// testdata/archive is an archive with an index of one missing package, signed with key.asc;
// other.asc is another key.
const archiveDir = "testdata/archive"

func archiveKey(t *testing.T, name string) (armored, packets []byte) {
	t.Helper()
	armored, err := os.ReadFile(filepath.Join(archiveDir, name))
	must(t, err)
	packets, err = dearmor(armored)
	must(t, err)
	return armored, packets
}

func TestDearmor(t *testing.T) {
	armored, packets := archiveKey(t, "key.asc")
	_, other := archiveKey(t, "other.asc")
	both, err := os.ReadFile(filepath.Join(archiveDir, "other.asc"))
	must(t, err)
	both = append(append([]byte("our keys:\r\n"), bytes.ReplaceAll(armored, []byte("\n"), []byte("\r\n"))...), both...)
	for _, text := range [][]byte{packets, armored, bytes.Replace(armored, []byte("\n\n"), []byte("\nComment: ours\n\n"), 1)} {
		got, err := dearmor(text)
		if err != nil || !bytes.Equal(got, packets) {
			t.Errorf("%q: %x %v, want %x", text, got, err, packets)
		}
	}
	if got, err := dearmor(both); err != nil || !bytes.Equal(got, append(bytes.Clone(packets), other...)) {
		t.Errorf("two keys: %x %v", got, err)
	}
	for text, want := range map[string]string{
		"":                       "not an OpenPGP public key",
		"<html>none here</html>": "not an OpenPGP public key",
		"\x95\x01secret":         "not an OpenPGP public key", // packet of a secret key
		"\xc5\x01secret":         "not an OpenPGP public key",
		string(armored[:90]):     "the armor of the key has no END line",
		strings.Replace(string(armored), base64.StdEncoding.EncodeToString(packets[:12]), "!", 1): "illegal base64",
	} {
		if _, err := dearmor([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestAptKey(t *testing.T) {
	armored, packets := archiveKey(t, "key.asc")
	server := httptest.NewTLSServer(http.FileServer(http.Dir(archiveDir)))
	t.Cleanup(server.Close)
	usual := http.DefaultTransport
	http.DefaultTransport = server.Client().Transport
	t.Cleanup(func() { http.DefaultTransport = usual })
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "key.asc"), armored, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "text"), []byte("text"), 0o600))
	for from, want := range map[string]string{
		"key.asc":                       "",
		filepath.Join(dir, "key.asc"):   "",
		"file://" + dir + "/key.asc":    "",
		server.URL + "/key.asc":         "",
		server.URL + "/none.asc":        "404",
		"http://mirror.invalid/key.asc": "GPG: http://mirror.invalid/key.asc is not a safe source for a key",
		"none.asc":                      "GPG: open " + dir + "/none.asc",
		"text":                          "GPG: text: not an OpenPGP public key",
	} {
		j := job(t, "Bootstrap: debootstrap\nOSVersion: sid\nGPG: "+from+"\n")
		j.Dir, j.Env = dir, []string{"GPG=https://of.yum.invalid/"}
		got, err := j.aptKey(t.Context())
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, want %q", from, err, want)
			}
		} else if err != nil || !bytes.Equal(got, packets) {
			t.Errorf("%s: %x %v", from, got, err)
		}
	}
	j := job(t, "Bootstrap: debootstrap\nOSVersion: sid\n")
	j.Env = []string{"GPG=https://of.yum.invalid/"}
	if key, err := j.aptKey(t.Context()); key != nil || err != nil {
		t.Errorf("without GPG: %x %v", key, err)
	}
}

// TestSignedArchive runs the real tools on an archive. When they accept its signature, they fail to
// find the package.
func TestSignedArchive(t *testing.T) {
	needRoot(t)
	server := httptest.NewServer(http.FileServer(http.Dir(archiveDir)))
	t.Cleanup(server.Close)
	key, err := filepath.Abs(filepath.Join(archiveDir, "key.asc"))
	must(t, err)
	other, err := filepath.Abs(filepath.Join(archiveDir, "other.asc"))
	must(t, err)
	for _, tool := range []struct{ name, found, unsigned string }{
		{"mmdebstrap", "apt_1.deb  404", "is not signed"},
		{"debootstrap", "Couldn't find these debs: apt", "Release signed by unknown key"},
	} {
		t.Run(tool.name, func(t *testing.T) {
			prog := needTool(t, tool.name)
			for header, want := range map[string]string{
				"MirrorURL: " + server.URL + "\n":                                               tool.unsigned,
				"MirrorURL: " + server.URL + "\nGPG: " + key + "\n":                             tool.found,
				"MirrorURL: " + server.URL + "\nGPG: " + other + "\n":                           tool.unsigned,
				"MirrorURL: deb " + server.URL + " sid main\nGPG: " + key + "\n":                tool.found,
				"MirrorURL: deb [trusted=yes] " + server.URL + " sid main\n":                    tool.found,
				"MirrorURL: deb [trusted=no] " + server.URL + " sid main\nGPG: " + other + "\n": tool.unsigned,
			} {
				j := job(t, "Bootstrap: debootstrap\nOSVersion: sid\n"+header)
				d := debian{prog: prog, suite: "sid", root: j.Root, mirror: j.header("MirrorURL")}
				if err := d.install(t.Context(), j); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%q: %v\nlacks %q", header, err, want)
				}
			}
		})
	}
}

// TestKeyKept runs a tool that prints its arguments.
func TestKeyKept(t *testing.T) {
	needRoot(t)
	_, packets := archiveKey(t, "key.asc")
	key, err := filepath.Abs(filepath.Join(archiveDir, "key.asc"))
	must(t, err)
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	fakeTool(t, "mmdebstrap", `for a; do case $a in --keyring=*|--skip=*) echo "$a";; esac; done`)
	var log bytes.Buffer
	j := job(t, "Bootstrap: debootstrap\nOSVersion: sid\nMirrorURL: deb [trusted=yes] http://m.invalid/ sid main\nGPG: "+key+"\n")
	j.Log = &log
	must(t, runAgent(t, j))
	got, err := os.ReadFile(filepath.Join(j.Root, treeKey))
	if err != nil || !bytes.Equal(got, packets) {
		t.Errorf("the tree's key is %x, %v", got, err)
	}
	report := regexp.MustCompile(`^MirrorURL has trusted=yes: signatures are not checked\n` +
		`--keyring=(\S+)\n--keyring=(\S+)/bootstrap.gpg\n--skip=check/signed-by\n$`).FindStringSubmatch(log.String())
	if report == nil || report[1] != report[2] {
		t.Errorf("the log is %q", &log)
	}
	if left, _ := os.ReadDir(tmp); len(left) > 0 {
		t.Errorf("left in TMPDIR: %v", left)
	}
	sources := withoutKeys(forSuite(parseDeb822(deb822), "bookworm", "bookworm"))
	if text := render(sources); len(sources) == 0 || strings.Contains(text, "Signed-By") {
		t.Errorf("the host's keys still count: %s", text)
	}
}
