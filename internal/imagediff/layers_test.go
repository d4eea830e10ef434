package imagediff

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netroot/internal/layer"
)

// treeOf makes a directory with files: texts by name. A name that ends in a slash is a directory.
func treeOf(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(file), 0o755)
		if err == nil && strings.HasSuffix(name, "/") {
			err = os.MkdirAll(file, 0o755)
		} else if err == nil {
			err = os.WriteFile(file, []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLayers(t *testing.T) {
	big := strings.Repeat("0123456789abcde\n", layer.MaxContent/16+1)
	tree := treeOf(t, map[string]string{
		"etc/motd": "one\ntwo\n", "etc/same": "same", "etc/mode": "mode", "etc/binary": "a\x00b", "etc/big": big, "etc/bigsame": big,
		"etc/shrinks": big, "etc/gone": "gone", "var/cache/x/y": "y", "etc/escape": "plain\n", "etc/link": "a file",
	})
	site := treeOf(t, map[string]string{
		"etc/motd": "one\n2\n", "etc/same": "same", "etc/mode": "mode", "etc/binary": "a\x00c", "etc/big": big[:len(big)-2] + "!\n", "etc/bigsame": big,
		"etc/shrinks": "small\n", "etc/new": "new\n", "etc/escape": "\x1b[31mred\n", "srv/": "",
		layer.DeletionList: "/etc/gone\n/var/cache\n",
	})
	if err := os.Chmod(site+"/etc/mode", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("motd\t", site+"/etc/link"); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(tree)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	p, err := layer.Look(root, nil, []layer.Dir{{Name: "site", Path: site}})
	if err != nil || len(p.Reports) != 0 {
		t.Fatal(err, p)
	}
	files, err := Layers(root, p)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	if err := PrintLayers(&b, files); err != nil {
		t.Fatal(err)
	}
	const want = `~ /etc/big  content  (site)
~ /etc/binary  content  (site)
~ /etc/escape  content 6 B -> 9 B  (site)
- /etc/gone  4 B  (site)
~ /etc/link  type file -> link  (site)
~ /etc/mode  mode 0644 -> 0600  (site)
~ /etc/motd  content 8 B -> 6 B  (site)
    --- tree /etc/motd
    +++ site /etc/motd
    @@ -1,2 +1,2 @@
     one
    -two
    +2
+ /etc/new  4 B  (site)
~ /etc/shrinks  content 64.0 KiB -> 6 B  (site)
+ /srv/  (site)
- /var/cache/  and 2 below  (site)
`
	if d := cmp.Diff(want, b.String()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
