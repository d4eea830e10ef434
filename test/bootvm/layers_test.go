package bootvm

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLayers boots a tree that has its own layers, with further layers of the server: which layer
// wins, what is deleted, how files arrive, and how errors are reported. The root is the tree itself
// over NFS, so that no image is made for it.
func TestLayers(t *testing.T) {
	needLab(t)
	t.Parallel()
	for _, flavour := range []struct {
		label, initramfs string // of the booted image
		tells            bool   // the console reports what cannot be done
	}{
		{"debian12", "", true},
	} {
		t.Run(flavour.label, func(t *testing.T) {
			t.Parallel()
			config := layeredSite(t, flavour.label)
			m := machine{Label: flavour.label, Transport: "nfs", Initramfs: flavour.initramfs, Args: []string{"--config", config}}
			r := m.boot(limit(t, bootLimit), t, layerQuestions)
			if r.err != nil {
				t.Fatal(r.all())
			}
			checkLayers(t, r.stdout)
			if flavour.tells {
				for _, want := range []string{
					"layers: FAILED: none: the root has no /etc/rootovl/none",
					`layers: FAILED: b: .rootovldel line 3: "relative" is not an absolute path`,
					`layers: FAILED: b: .rootovldel line 2: "/etc/spared" is a directory`,
					// The third adds the key.
					"layers: 3 of 4 in the tree, 3 of the server, ",
				} {
					if !strings.Contains(r.console, want) {
						t.Errorf("the console lacks %q", want)
					}
				}
			}
			if t.Failed() {
				t.Log(r.all())
			}
		})
	}
}

const layerQuestions = `
cd /etc
echo "tree: $(cat l/tree) server: $(cat l/server) all: $(cat l/all)"
echo "a: $(cat l/a) b: $(cat l/b) c: $(cat l/c) d: $(cat l/d)"
for f in issue issue.net l/from-a l/from-b l/from-d doomed spared spared/file ../.rootovldel ../.top; do
  echo "$f: $(test -e $f && echo there || echo gone)"
done
echo "program: $(test -e /usr/bin/doomed && echo there || echo gone)"
echo "image: $(ls /live/image/etc/issue /live/image/etc/issue.net /live/image/etc/doomed/deep/file | wc -l) $(cat /live/image/etc/l/tree)"
echo "stat: $(stat -c '%a %u:%g %Y %h' k/kept) $(stat -c '%a %u:%g' k) $(readlink k/link)"
echo "caps: $(getcap l/capable || /sbin/getcap l/capable)"
echo "nobody: $(setpriv --reuid 65534 --regid 65534 --clear-groups cat /etc/debian_version > /dev/null && echo reads)"
echo "root: $(findmnt -no FSTYPE /) $(findmnt -no FSTYPE /live/image) $(systemctl is-system-running --wait)"
echo "service: $(systemctl is-active by-layer.service) $(cat /run/by-layer)"
`

func checkLayers(t *testing.T, said string) {
	for _, want := range []string{
		"tree: a server: c all: c", "a: a b: b c: c d: d",
		"issue: gone", "issue.net: gone", // by b, and by a layer that has only a list
		"l/from-a: there", // b deletes it before a adds it
		"l/from-b: gone",  // a deletes it after b has added it
		"l/from-d: gone",  // the same with layers of the server
		"doomed: gone",    // a directory, by a layer of the server
		"spared: there",   // a directory, by a layer of the tree
		"../.top: there",  // a file of a layer whose name begins with a dot
		"program: gone",   // through /bin, a link
		"spared/file: gone", "../.rootovldel: gone",
		"image: 3 tree", "stat: 2644 7:8 981173106 2 1755 3:4 /nowhere/at all", "caps: l/capable cap_net_raw=ep",
		"nobody: reads", "service: active started", "root: overlay nfs running",
	} {
		if !strings.Contains("\n"+said, "\n"+want+"\n") {
			t.Errorf("the machine does not say %q", want)
		}
	}
}

// layeredSite makes a configuration whose label has a copy of the lab's tree with layers, and
// further layers of the server.
func layeredSite(t *testing.T, label string) (config string) {
	t.Helper()
	dir, err := os.MkdirTemp(lab.dir, "layers-")
	if err != nil {
		t.Fatal(err)
	}
	tree := dir + "/tree"
	shell(t, `cp -a --reflink=auto "$1" "$2"`, filepath.Join(lab.state, "trees", label), tree)
	for name, text := range map[string]string{
		"tree/etc/l/tree": "tree", "tree/etc/doomed/deep/file": "", "tree/etc/spared/file": "", "tree/usr/bin/doomed": "",
		"tree/etc/rootovl/a/etc/l/tree": "a", "tree/etc/rootovl/a/etc/l/all": "a", "tree/etc/rootovl/a/etc/l/a": "a", "tree/etc/rootovl/a/etc/l/from-a": "a",
		"tree/etc/rootovl/a/etc/k/kept": "kept", "tree/etc/rootovl/a/.top": "",
		"tree/etc/rootovl/a/.rootovldel": "/etc/l/from-b\n\n# and by way of a link\n/bin/doomed\r\n",
		"tree/etc/rootovl/b/etc/l/tree":  "b", "tree/etc/rootovl/b/etc/l/all": "b", "tree/etc/rootovl/b/etc/l/b": "b", "tree/etc/rootovl/b/etc/l/from-b": "b",
		"tree/etc/rootovl/b/.rootovldel":    "/etc/issue\n/etc/spared\nrelative\n/etc/l/from-a\n/etc/spared/file",
		"tree/etc/rootovl/only/.rootovldel": "/etc/issue.net\n",
		"layers/c/etc/l/server":             "c", "layers/c/etc/l/all": "c", "layers/c/etc/l/c": "c", "layers/c/etc/l/capable": "",
		"layers/c/.rootovldel":  "/etc/l/from-d\n/etc/doomed/\n",
		"layers/d/etc/l/server": "d", "layers/d/etc/l/all": "d", "layers/d/etc/l/d": "d", "layers/d/etc/l/from-d": "d",
		"layers/d/etc/systemd/system/by-layer.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'echo started > /run/by-layer'\n",
		"netroot.yaml": "labels:\n  " + label + ":\n    tree: tree\n    layers: [a, c, b, none, d, only]\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	shell(t, `cd "$1"
chown 7:8 kept; chmod 2644 kept; ln -s '/nowhere/at all' link; ln kept other; touch -d @981173106 kept; chown 3:4 .; chmod 1755 .`, tree+"/etc/rootovl/a/etc/k")
	shell(t, `cd "$1"; mkdir multi-user.target.wants; ln -s ../by-layer.service multi-user.target.wants/`, dir+"/layers/d/etc/systemd/system")
	// cap_net_raw=ep, as setcap(8) writes it.
	capability := []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	if err := unix.Setxattr(dir+"/layers/c/etc/l/capable", "security.capability", capability, 0); err != nil {
		t.Fatal(err)
	}
	return dir + "/netroot.yaml"
}

func shell(t *testing.T, script string, args ...string) {
	t.Helper()
	if out, err := exec.Command("sh", append([]string{"-euc", script, "sh"}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}
