package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"netroot/internal/handoff"
	"netroot/internal/pack"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"netroot/internal/boot"
	"netroot/internal/site"
)

func TestReference(t *testing.T) {
	got, err := Load("testdata/reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	vm := site.VM{Memory: 2 << 30, SSHPort: 2222, Firmware: boot.BIOS}
	want := &site.Site{Path: filepath.Join(dir, "reference.yaml"), State: "/srv/netroot", Labels: map[string]*site.Label{
		"debian12": {
			Name: "debian12", Recipe: filepath.Join(dir, "recipes/debian12.def"), Tree: "/srv/netroot/trees/debian12",
			Overlay: handoff.Overlay{Enabled: true}, VM: vm,
		},
		"rocky9": {
			Name: "rocky9", Recipe: filepath.Join(filepath.Dir(dir), "defs/rocky.def"), Tree: "/scratch/trees/rocky9", OwnTree: true,
			Transport: handoff.NBD, Initramfs: handoff.Dracut, Pack: string(pack.AsErofs), Debug: true,
			Servers:      []string{"10.1.0.1", "boot2.example", "2001:db8::3"},
			Cmdline:      []string{"console=tty0", "console=ttyS0,115200n8", `dyndbg="file nbd.c +p"`},
			Qemu:         []string{"-device", "virtio-rng-pci", "-smbios", "type=1,serial=my node"},
			Overlay:      handoff.Overlay{Enabled: true, Size: "2G"},
			Layers:       []string{"rack7", "site"},
			Kernel:       "5.14.0-503.11.1.el9_5.x86_64",
			BuildArgs:    map[string]string{"VERSION": "9", "PYTHON": "3.10", "MIRROR": "http://mirror.example/rocky", "EMPTY": ""},
			AllowSecrets: []string{"/etc/ssl/private/lab.key"},
			VM:           site.VM{Memory: 4 << 30, SSHPort: 2223, Firmware: boot.UEFI},
		},
		"lab-nfs.writable": {
			Name: "lab-nfs.writable", Recipe: filepath.Join(dir, "recipes/lab-nfs.writable.def"), Tree: "/srv/netroot/trees/lab-nfs.writable",
			RW: true, VM: vm,
			Cmdline: []string{"quiet", "net.ifnames=0", "ipv6.disable=1"},
			Qemu:    []string{"-smp", "2", "-name", "two words"},
		},
	}, Networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00:1::/64")}}
	src, err := os.ReadFile("testdata/reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want.Revision = site.RevisionOf(src)
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	got.SetState("/elsewhere")
	for name, tree := range map[string]string{"debian12": "/elsewhere/trees/debian12", "rocky9": "/scratch/trees/rocky9"} {
		if l := got.Labels[name]; l.Tree != tree {
			t.Errorf("tree of %s is %s after SetState, want %s", name, l.Tree, tree)
		}
	}
	if got.Images() != "/elsewhere/images" || got.Logs() != "/elsewhere/logs" {
		t.Errorf("images in %s, logs in %s", got.Images(), got.Logs())
	}
}

// TestReferenceIsComplete misspells each key in the reference in turn: so every
// key is in it, and none is passed over unread.
func TestReferenceIsComplete(t *testing.T) {
	src, err := os.ReadFile("testdata/reference.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"state", "networks", "labels", "recipe", "tree", "transport", "initramfs", "pack", "servers", "rw", "debug", "cmdline", "qemu", "overlay", "layers", "kernel",
		"build_args", "allow_secrets", "vm", "memory", "ssh_port", "firmware"} {
		if !strings.Contains(string(src), key+":") {
			t.Errorf("the reference does not show %s", key)
		}
		typo := strings.Replace(string(src), key+":", key+"x:", 1)
		_, err := Parse("x.yaml", []byte(typo))
		if want := `did you mean "` + key + `"?`; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%sx: error %v, want %s", key, err, want)
		}
	}
}

func TestErrors(t *testing.T) {
	for name, tt := range map[string]struct{ src, want string }{
		"unknown key": {"labels:\n  a:\n    recpie: x\n",
			"n.yaml:3:5: unknown key \"recpie\" in label a; did you mean \"recipe\"?\n        recpie: x\n        ^"},
		"unknown key, nothing like it": {"labels: {a: }\nnodes: 3\n", "n.yaml:2:1: unknown key \"nodes\" in the configuration: the keys are labels, networks, state\n"},
		"key of a label at the top":    {"labels: {a: }\nrecipe: x\n", `n.yaml:2:1: unknown key "recipe"`},
		"tab":                          {"labels:\n\ta:\n", "n.yaml:2:1: found character"},
		"syntax":                       {"labels: [\n", "n.yaml:1:9: "},
		"twice":                        {"labels:\n  a:\n    rw: true\n    rw: false\n", "n.yaml:4:5: mapping key \"rw\" already defined"},
		"label twice":                  {"labels:\n  a: {rw: true}\n  a:\n", "n.yaml:3:3: mapping key \"a\" already defined"},
		"wrong flag":                   {"labels:\n  a:\n    rw: yes\n", "n.yaml:3:9: expected true or false, not \"yes\"\n        rw: yes\n            ^"},
		"number for text":              {"labels: {a: {recipe: 12}}", "n.yaml:1:22: expected text, not 12"},
		"list for text":                {"labels: {a: {recipe: [x]}}", "n.yaml:1:22: expected text, not a list"},
		"empty text":                   {"labels: {a: {recipe: ''}}", "n.yaml:1:22: is empty"},
		"list for keys":                {"labels:\n  - a\n", "n.yaml:2:3: labels: expected keys with values, not a list"},
		"text for keys":                {"labels:\n  a: debian.def\n", "n.yaml:2:6: label a: expected keys with values, not \"debian.def\""},
		"label name":                   {"labels:\n  Debian 12:\n", "n.yaml:2:3: \"Debian 12\" cannot be a label"},
		"label path":                   {"labels:\n  ../x: {}\n", "cannot be a label"},
		"transport":                    {"labels: {a: {transport: ndb}}", `n.yaml:1:25: unknown value "ndb": choose nvme, nbd, iscsi, nfs-image, nfs or http; did you mean "nbd"?`},
		"initramfs":                    {"labels: {a: {initramfs: dracat}}", `unknown value "dracat": choose netroot or dracut; did you mean "dracut"?`},
		"transport, unlike":            {"labels: {a: {transport: carrier-pigeon}}", `unknown value "carrier-pigeon": choose nvme, nbd, iscsi, nfs-image, nfs or http`},
		"firmware":                     {"labels: {a: {vm: {firmware: efi}}}", `did you mean "uefi"?`},
		"server with a port":           {"labels:\n  a:\n    servers: [boot1, 'boot2:4420']\n", `n.yaml:3:22: servers: "boot2:4420" is not an IPv6 address`},
		"one server":                   {"labels: {a: {servers: boot1}}", "n.yaml:1:23: servers: expected a list"},
		"server twice":                 {"labels: {a: {servers: [b, c, b]}}", "n.yaml:1:30: servers: b is there twice"},
		"rw and overlay":               {"labels:\n  a:\n    overlay: true\n    rw: true\n", "n.yaml:3:14: label a: rw makes the root itself writable"},
		"rw and size":                  {"labels: {a: {rw: true, overlay: 2G}}", "n.yaml:1:33: label a: rw"},
		"rw over a wire that is read":  {"labels:\n  a:\n    rw: true\n    transport: nbd\n", "n.yaml:2:3: label a: rw makes the tree itself a node's root, which requires NFS"},
		"network":                      {"networks: [10.0.0.1/8]\nlabels: {a: }", "n.yaml:1:12: networks: expected an address"},
		"layers without a list":        {"labels: {a: {layers: b}}", "n.yaml:1:22: layers: expected a list, such as [rack7, site]"},
		"a layer's path":               {"labels:\n  a:\n    layers: [b, layers/c]\n", `n.yaml:3:17: layers: "layers/c" has a slash`},
		"a layer above":                {"labels: {a: {layers: [..]}}", `".." is not the name of a layer`},
		"a layer twice":                {"labels: {a: {layers: [b, c, b]}}", `n.yaml:1:29: layers: b is there twice`},
		"a layer that is a number":     {"labels: {a: {layers: [7]}}", `expected text, not 7`},
		"layers on a read-only root":   {"labels:\n  a:\n    overlay: false\n    layers: [b]\n", "n.yaml:4:13: label a: layers need memory over the root"},
		"layers on the tree itself":    {"labels:\n  a: {rw: true, layers: [b]}\n", "n.yaml:2:25: label a: layers need memory over the root"},
		"overlay":                      {"labels: {a: {overlay: much}}", `n.yaml:1:23: overlay: expected true, false, a size such as 2G`},
		"overlay without unit":         {"labels: {a: {overlay: 50}}", `overlay: expected true`},
		"overlay share":                {"labels: {a: {overlay: 150%}}", `expected 1% to 100%`},
		"memory":                       {"labels: {a: {vm: {memory: 2048}}}", `n.yaml:1:27: "2048" is not a size: expected a whole number and a unit`},
		"memory too large":             {"labels: {a: {vm: {memory: 99999999999T}}}", `size 99999999999T is out of range`},
		"memory zero":                  {"labels: {a: {vm: {memory: 0G}}}", `size 0G is out of range`},
		"port":                         {"labels: {a: {vm: {ssh_port: 65536}}}", `ssh_port: expected a port number`},
		"qemu quote":                   {"labels: {a: {qemu: \"-name 'x\"}}", `n.yaml:1:20: qemu: the quote ' is not closed`},
		"cmdline quote":                {"labels:\n  a:\n    cmdline:\n      - quiet\n      - x=\"y\n", `n.yaml:5:9: cmdline: a double quote is not closed`},
		"cmdline keys":                 {"labels: {a: {cmdline: {x: y}}}", "expected a single value, not keys with values"},
		"nested list":                  {"labels: {a: {qemu: [[x]]}}", "n.yaml:1:21: expected a single value, not a list"},
		"build args list":              {"labels: {a: {build_args: [x]}}", "build_args: expected keys with values"},
		"merge key":                    {"labels:\n  a: &a {rw: true}\n  b:\n    <<: *a\n", "n.yaml:4:5: merge keys"},
		"unknown alias":                {"labels:\n  a: *b\n", "there is no &b"},
		"circular alias":               {"labels:\n  a: &a {cmdline: *a}\n", "expected a single value, not keys with values"},
		"tag":                          {"labels: {a: {kernel: !!str 5}}", "not a tag (!!str)"},
		"two documents":                {"labels: {a: }\n---\nstate: /x\n", "n.yaml:3:1: a second document"},
		"empty":                        {"", "nothing is in it. The smallest configuration:\n\nlabels:"},
		"only comments":                {"# labels:\n", "nothing is in it"},
		"no labels":                    {"state: /x\n", "no labels are in it. The smallest configuration:\n\nlabels:"},
		"text":                         {"debian12\n", "the configuration: expected keys with values, not \"debian12\""},
		"carriage returns":             {"labels:\r\n  a:\r\n    rww: true\r\n", "did you mean \"rw\"?\n        rww: true\n"},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Parse("n.yaml", []byte(tt.src))
			if err == nil {
				t.Fatalf("parsed: %+v", c)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error:\n%v\nwant:\n%s", err, tt.want)
			}
			if e := (*Error)(nil); !errors.As(err, &e) || e.Line < 1 {
				t.Errorf("error %v has no place", err)
			}
		})
	}
}

func TestAliases(t *testing.T) {
	c, err := Parse("n.yaml", []byte("labels:\n  a: &a\n    cmdline: &c quiet\n    vm: {memory: 1G}\n  b: *a\n  c: {cmdline: [*c, x]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if a, b := c.Labels["a"], c.Labels["b"]; b.Name != "b" || b.VM != a.VM || !cmp.Equal(a.Cmdline, b.Cmdline) {
		t.Errorf("%+v and %+v", a, b)
	}
	if got := c.Labels["c"].Cmdline; !cmp.Equal(got, []string{"quiet", "x"}) {
		t.Errorf("cmdline %q", got)
	}
}

func TestMinimal(t *testing.T) {
	c, err := Parse("/etc/netroot/netroot.yaml", []byte(minimal))
	if err != nil {
		t.Fatal(err)
	}
	if l := c.Labels["debian12"]; l.Recipe != "/etc/netroot/recipes/debian.def" || l.Tree != "/var/lib/netroot/trees/debian12" {
		t.Errorf("%+v", l)
	}
}

func TestLabel(t *testing.T) {
	c, err := Parse("/x/n.yaml", []byte("labels: {rocky9: , debian12: }"))
	if err != nil {
		t.Fatal(err)
	}
	if l, err := c.Label("debian12"); err != nil || l.Name != "debian12" {
		t.Error(l, err)
	}
	for name, want := range map[string]string{
		"debain12": `unknown label "debain12"; did you mean "debian12"?`,
		"zz":       `unknown label "zz": /x/n.yaml has debian12, rocky9`,
	} {
		if _, err := c.Label(name); err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	if _, err := site.Empty().Label("x"); err == nil || !strings.Contains(err.Error(), "no netroot.yaml") {
		t.Error(err)
	}
}

func TestForRecipe(t *testing.T) {
	l, err := site.Empty().ForRecipe("/r/Debian12.def")
	if err != nil {
		t.Fatal(err)
	}
	if l.Name != "debian12" || l.Recipe != "/r/Debian12.def" || l.Tree != "/var/lib/netroot/trees/debian12" || !l.Overlay.Enabled {
		t.Errorf("%+v", l)
	}
	if _, err := site.Empty().ForRecipe("/r/my recipe.def"); err == nil || !strings.Contains(err.Error(), `"my recipe" cannot be a label`) {
		t.Error(err)
	}
}

// TestForRecipeOfLabel checks that the path of a label's recipe means that label, and that another
// recipe of the same name does not take its place.
func TestForRecipeOfLabel(t *testing.T) {
	s := site.Empty()
	known := s.NewLabel("node")
	known.Recipe, known.Pack = "/etc/netroot/recipes/node.def", "erofs"
	s.Labels["node"] = known
	if l, err := s.ForRecipe("/etc/netroot/recipes/node.def"); err != nil || l != known {
		t.Errorf("%+v, %v", l, err)
	}
	if l, err := s.ForRecipe("/home/a/node.def"); err == nil || !strings.Contains(err.Error(), "node, which is a label with another recipe, /etc/netroot/recipes/node.def: rename") {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	here, etc := filepath.Join(dir, "netroot.yaml"), filepath.Join(dir, "etc.yaml")
	_, err := find("", here, etc)
	if !errors.Is(err, ErrNone) || !strings.Contains(err.Error(), minimal) || !strings.Contains(err.Error(), etc) {
		t.Errorf("error %v", err)
	}
	for _, path := range []string{etc, here} { // each goes before the one made earlier
		if err := os.WriteFile(path, []byte(minimal), 0o644); err != nil {
			t.Fatal(err)
		}
		if got, err := find("", here, etc); got != path || err != nil {
			t.Errorf("found %s, %v, want %s", got, err, path)
		}
	}
	if got, err := find(etc, here); got != etc || err != nil {
		t.Errorf("found %s, %v, want %s", got, err, etc)
	}
	absent := filepath.Join(dir, "absent.yaml")
	if _, err := find(absent, here, etc); err == nil || errors.Is(err, ErrNone) || !strings.Contains(err.Error(), absent) {
		t.Errorf("error %v", err)
	}
	t.Chdir(dir)
	if got, err := Find(""); got != "netroot.yaml" || err != nil {
		t.Errorf("found %s, %v", got, err)
	}
}

func FuzzParse(f *testing.F) {
	reference, err := os.ReadFile("testdata/reference.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(reference))
	f.Add(minimal)
	f.Add("labels: {a: &a {cmdline: *a}}")
	f.Add("? {}\n: x")
	f.Fuzz(func(t *testing.T, src string) {
		c, err := Parse("n.yaml", []byte(src))
		if err != nil {
			if err.Error() == "" {
				t.Error("empty error")
			}
			return
		}
		for name, l := range c.Labels {
			if site.CheckLabel(name) != nil || l.Name != name || l.VM.Memory <= 0 || l.VM.SSHPort == 0 || l.RW && l.Overlay.Enabled || len(l.Layers) > 0 && !l.Overlay.Enabled {
				t.Errorf("label %q came out as %+v", name, l)
			}
		}
	})
}

func TestLoadRefusesWhatIsNotAFile(t *testing.T) {
	dir := t.TempDir()
	pipe, large := filepath.Join(dir, "pipe"), filepath.Join(dir, "large")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(large, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(large, maxSize+1); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		pipe:        pipe + " is not a regular file", // to open one for reading would wait for a writer
		dir:         dir + " is not a regular file",
		"/dev/zero": "/dev/zero is not a regular file",
		large:       large + " is larger than 8 MiB",
	} {
		if _, err := Load(path); err == nil || err.Error() != "configuration: "+want {
			t.Errorf("Load: error %v, want %q", err, want)
		}
	}
}

// A file of something else gives an error that fits into a log.
func TestErrorsAreBounded(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for _, src := range []string{long, "labels:\n  a: " + long + "\n", "labels:\n  " + long + ": 1\n", "labels: {" + long + "\n"} {
		if _, err := Parse("/n.yaml", []byte(src)); err == nil || len(err.Error()) > 3000 || !strings.HasPrefix(err.Error(), "/n.yaml:") {
			t.Errorf("%.20q: an error of %d bytes", src, len(fmt.Sprint(err)))
		}
	}
}

// TestAllErrors: every mistake of a file is named, in the order of its lines.
func TestAllErrors(t *testing.T) {
	const src = "labels:\n  b: {transport: ndb, rw: maybe}\n  a:\n    recipie: x\n    servers: [a/b]\nnetworks: [10.0.0.1/8]\nsate: x\n"
	_, err := Parse("n.yaml", []byte(src))
	var got []string
	for line := range strings.Lines(err.Error()) {
		if strings.HasPrefix(line, "n.yaml:") {
			got = append(got, strings.Join(strings.SplitN(line, ":", 4)[1:3], ":"))
		}
	}
	if want := []string{"2:18", "2:27", "4:5", "5:15", "6:12", "7:1"}; !slices.Equal(got, want) {
		t.Errorf("places %q, want %q\n%v", got, want, err)
	}
	many := "labels:\n"
	for i := range 13 {
		many += fmt.Sprintf("  a%d: {recipie: x}\n", i)
	}
	if _, err = Parse("n.yaml", []byte(many)); err == nil || strings.Count(err.Error(), "n.yaml:") != 10 || !strings.HasSuffix(err.Error(), "\nand 3 more") {
		t.Errorf("%v", err)
	}
}
