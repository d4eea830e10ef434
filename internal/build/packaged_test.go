package build

import (
	"bytes"
	"compress/gzip"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const packagedText = "as in the package\n"

func isPackaged(t *testing.T, files map[string]string, ask ...string) map[string]bool {
	t.Helper()
	dir := t.TempDir()
	lay(t, dir, files)
	got, err := packaged(t.Context(), dir, ask)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestPackagedDpkg(t *testing.T) {
	sum := fmt.Sprintf("%x", md5.Sum([]byte(packagedText)))
	got := isPackaged(t, map[string]string{
		"usr/share/a/same": packagedText, "usr/share/a/other": "changed\n", "usr/share/a/mine": packagedText,
		"var/lib/dpkg/info/a.md5sums":       sum + "  usr/share/a/same\n" + sum + "  usr/share/a/other\n" + sum + "  usr/share/a/unasked\n",
		"var/lib/dpkg/info/b:amd64.md5sums": "\nnonsense\n",
	}, "/usr/share/a/same", "/usr/share/a/other", "/usr/share/a/mine")
	want := map[string]bool{"/usr/share/a/same": true, "/usr/share/a/other": false}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestPackagedPacman(t *testing.T) {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	fmt.Fprintf(w, "#mtree\n/set type=file uid=0\n./usr/share/a time=1 type=dir\n./usr/share/a/same time=1 size=9 md5digest=0 sha256digest=%x\n", sha256.Sum256([]byte(packagedText)))
	w.Close()
	got := isPackaged(t, map[string]string{
		"usr/share/a/same": packagedText, "var/lib/pacman/local/a-1-1/mtree": z.String(), "var/lib/pacman/local/ALPM_DB_VERSION": "9\n",
	}, "/usr/share/a/same")
	if diff := cmp.Diff(map[string]bool{"/usr/share/a/same": true}, got); diff != "" {
		t.Error(diff)
	}
}

func TestPackagedPip(t *testing.T) {
	sum := sha256.Sum256([]byte(packagedText))
	const dir = "usr/local/lib/python3.11/site-packages/"
	got := isPackaged(t, map[string]string{
		dir + "x/ca.key": packagedText, dir + "x/other.key": "changed", dir + "y.py": "",
		dir + "x-1.0.dist-info/RECORD": "x/ca.key,sha256=" + base64.RawURLEncoding.EncodeToString(sum[:]) + ",18\nx/other.key,sha256=" +
			base64.RawURLEncoding.EncodeToString(sum[:]) + ",18\nx/__pycache__/y.pyc,,\n",
	}, "/"+dir+"x/ca.key", "/"+dir+"x/other.key")
	if diff := cmp.Diff(map[string]bool{"/" + dir + "x/ca.key": true, "/" + dir + "x/other.key": false}, got); diff != "" {
		t.Error(diff)
	}
}

// TestPackagedRPM: what rpm prints, of a package that has a file without a digest (a directory).
func TestPackagedRPM(t *testing.T) {
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(packagedText)))
	dir := t.TempDir()
	lay(t, dir, map[string]string{"usr/share/a b/same": packagedText})
	found := digests{}
	rpmLines(strings.NewReader(" /usr/share/a b\n"+sum+" /usr/share/a b/same\nfile /usr/none is not owned by any package\n"), func(name, digest string) {
		found.add(map[string]bool{"usr/share/a b/same": true}, name, digest)
	})
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	got, err := found.check(root)
	if diff := cmp.Diff(map[string]bool{"/usr/share/a b/same": true}, got); err != nil || diff != "" {
		t.Errorf("%v: %s", err, diff)
	}
}

func TestPackagedNothing(t *testing.T) {
	if got := isPackaged(t, map[string]string{"usr/share/doc/x": packagedText}, "/usr/share/doc/x"); len(got) != 0 {
		t.Errorf("%v", got)
	}
}
