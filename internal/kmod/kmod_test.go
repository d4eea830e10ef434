package kmod_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"netroot/internal/kmod"
)

// index reads the given files from a new directory, which also has files that are not part of an
// index.
func index(t testing.TB, files map[string]string) *kmod.Index {
	t.Helper()
	fsys := fstest.MapFS{
		"m/modules.dep.bin":         {Data: []byte("\x00not text")},
		"m/modules.builtin.modinfo": {Data: []byte("a.license=GPL\x00")},
		"m/kernel/strange.dep":      {Data: []byte("no colon")},
	}
	for name, text := range files {
		fsys["m/"+name] = &fstest.MapFile{Data: []byte(text)}
	}
	x, err := kmod.Read(fsys, "m")
	if err != nil {
		t.Fatal(err)
	}
	return x
}

const deps = `kernel/a.ko: kernel/b.ko kernel/c.ko
kernel/b.ko: kernel/c.ko
kernel/c.ko:
kernel/net/virtio-net.ko.xz: kernel/core/failover.ko.xz extra/virtio.ko.xz kernel/virtio_ring.ko.xz
extra/virtio.ko.xz: kernel/virtio_ring.ko.xz
kernel/virtio_ring.ko.xz:
kernel/core/failover.ko.xz:
kernel/libcrc32c.ko:
kernel/crypto/crc32c_generic.ko:
kernel/crypto/crc32c-intel.ko:
kernel/erofs.ko: kernel/libcrc32c.ko kernel/lib/lz4.ko
kernel/lonely.ko: kernel/gone.ko
kernel/x.ko: kernel/y.ko
kernel/y.ko: kernel/z.ko
kernel/z.ko: kernel/x.ko
kernel/s1.ko:
kernel/s2.ko:
kernel/s3.ko: kernel/s1.ko
kernel/s4.ko: kernel/c.ko
`

const softdeps = `# Soft dependencies extracted from modules themselves.
softdep libcrc32c pre: crc32c post: a
softdep s1 pre: s3 nothing-like-it s2
softdep s2 pre: s1 lonely
softdep s4 a b
softdep s4 pre: c b
softdep unknown pre: c
`

const aliases = "alias crc32c crc32c_intel\nalias crc32c crc32c_generic\nalias crypto-crc32c crc32c_generic\n"

func TestLoadOrder(t *testing.T) {
	x := index(t, map[string]string{
		"modules.dep": deps, "modules.softdep": softdeps, "modules.alias": aliases,
		"modules.builtin": "kernel/lib/lz4.ko\nkernel/net/packet/af_packet.ko\n",
	})
	for _, c := range []struct{ name, want string }{
		{"c", "c"},
		{"a", "c b a"},
		{"virtio-net", "virtio_ring virtio failover virtio_net"},
		{"virtio_net", "virtio_ring virtio failover virtio_net"},
		{"af_packet", ""},
		{"erofs", "crc32c_intel? crc32c_generic? libcrc32c erofs"},
		{"s1", "s2? s1"},    // s3 requires s1, and lonely requires a missing module
		{"s3", "s2? s1 s3"}, // s1's softdep on s3 is not a cycle that matters
		// c is both required and preferred, so it is required; words outside pre: are
		// ignored.
		{"s4", "c b? s4"},
	} {
		mods, err := x.LoadOrder(c.name)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		var got []string
		for _, m := range mods {
			n := m.Name
			if m.Soft {
				n += "?"
			}
			got = append(got, n)
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: %s, want %s", c.name, s, c.want)
		}
	}

	mods, _ := x.LoadOrder("virtio_net")
	want := []kmod.Module{
		{Name: "virtio_ring", Path: "kernel/virtio_ring.ko.xz"}, {Name: "virtio", Path: "extra/virtio.ko.xz"},
		{Name: "failover", Path: "kernel/core/failover.ko.xz"}, {Name: "virtio_net", Path: "kernel/net/virtio-net.ko.xz"},
	}
	if d := cmp.Diff(want, mods); d != "" {
		t.Error(d)
	}
}

func TestLoadOrderErrors(t *testing.T) {
	x := index(t, map[string]string{"modules.dep": deps})
	for _, c := range []struct {
		name, want string
		missing    bool
	}{
		{"nonsense", "module nonsense: no such module in the index", true},
		{"lonely", "module lonely: lonely requires gone: no such module in the index", true},
		{"y", "module y: dependencies form a cycle: y -> z -> x -> y", false},
	} {
		_, err := x.LoadOrder(c.name)
		if err == nil || err.Error() != c.want || errors.Is(err, kmod.ErrNotFound) != c.missing {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}

// Softdeps that fail must not be tried repeatedly: that would take 2^60 steps.
func TestLoadOrderOfManyFailingSoftdeps(t *testing.T) {
	var dep, soft strings.Builder
	for i := range 60 {
		n, next := string(rune('A'+i)), string(rune('A'+i+1))
		dep.WriteString("l" + n + ".ko: gone.ko\nr" + n + ".ko: gone.ko\n")
		dep.WriteString("p" + n + ".ko: l" + n + ".ko\n")
		soft.WriteString("softdep l" + n + " pre: l" + next + " r" + next + "\nsoftdep r" + n + " pre: l" + next + " r" + next + "\n")
	}
	dep.WriteString("top.ko:\n")
	x := index(t, map[string]string{"a.dep": dep.String(), "a.softdep": soft.String() + "softdep top pre: lA rA\n"})
	mods, err := x.LoadOrder("top")
	if err != nil || len(mods) != 1 {
		t.Errorf("%v %v", mods, err)
	}
}

func TestMatch(t *testing.T) {
	x := index(t, map[string]string{"base.alias": strings.TrimSpace(`
alias pci:v00001AF4d00001000sv*sd*bc*sc*i* virtio_pci_transitional
alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio_pci
alias pci:v*d*sv*sd*bc01sc06i01* ahci
alias usb:v085Ap0028d013[0-3]dc*dsc*dp*ic*isc*ip*in* usb_storage
alias usb:v085Ap0028d01[!0-2]*dc* not-these
alias acpi*:PNP0C0A:* battery
alias net-pf-17 af_packet
alias crypto-crc32c crc32c-generic
alias dmi*:bvn[a-c_-]*: laptop
alias literal[1 unclosed
alias a\*b escaped
alias a* star
alias a* star
`), "hardware.alias": "alias pci:v00001AF4d*sv*sd*bc*sc*i* other\n"})
	for _, c := range []struct{ modalias, want string }{
		{"pci:v00001AF4d00001000sv00001AF4sd00000001bc02sc00i00", "virtio_pci_transitional virtio_pci other"},
		{"pci:v00008086d00002922sv0sd0bc01sc06i01", "ahci"},
		{"pci:v00008086d00002922sv0sd0bc01sc06i02", ""},
		{"usb:v085Ap0028d0131dc00dsc00dp00ic08isc06ip50in00", "usb_storage not_these"},
		{"usb:v085Ap0028d0111dc00dsc00dp00ic08isc06ip50in00", ""},
		{"acpi:PNP0C0A:", "battery star"},
		{"net-pf-17", "af_packet"},
		{"net_pf_17", "af_packet"},
		{"net-pf-170", ""},
		{"crypto_crc32c", "crc32c_generic"},
		{"dmi:bvnb:", "laptop"},
		{"dmi:bvn-x:", "laptop"},
		{"dmi:bvn:", ""},
		{"literal[1", "unclosed"},
		{"a*b", "escaped star"},
		{"a/b", "star"},
		{"", ""},
	} {
		if got := strings.Join(x.Match(c.modalias), " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.modalias, got, c.want)
		}
	}
}

func TestNamesAndBuiltins(t *testing.T) {
	x := index(t, map[string]string{"a.dep": "kernel/crc32c-intel.ko.zst:\n", "a.builtin": "kernel/net/packet/af-packet.ko\n", "a.alias": aliases})
	for name, want := range map[string][2]bool{
		"crc32c-intel": {true, false}, "crc32c_intel": {true, false}, "af_packet": {true, true}, "af-packet": {true, true}, "crc32c": {false, false},
	} {
		if got := [2]bool{x.Has(name), x.Builtin(name)}; got != want {
			t.Errorf("%s: Has, Builtin = %v, want %v", name, got, want)
		}
	}
	for path, want := range map[string]string{
		"kernel/arch/x86/crypto/crc32c-intel.ko": "crc32c_intel", "crc32c-intel": "crc32c_intel", "updates/dkms/r8168.ko.xz": "r8168",
		"snd.kontrol.ko": "snd.kontrol", ".ko": ".ko", "": "",
	} {
		if got := kmod.Name(path); got != want {
			t.Errorf("Name(%q) = %q, want %q", path, got, want)
		}
	}
	for word, want := range map[string]string{"crc32c": "crc32c_intel crc32c_generic", "af-packet": "af_packet", "crc32c-intel": "crc32c_intel", "zz": ""} {
		if got := strings.Join(x.Resolve(word), " "); got != want {
			t.Errorf("Resolve(%q) = %q, want %q", word, got, want)
		}
	}
}

func TestReadErrors(t *testing.T) {
	if _, err := kmod.Read(fstest.MapFS{}, "m"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
	for name, c := range map[string]struct{ text, want string }{
		"modules.dep":     {"# fine\na.ko:\nb.ko c.ko\n", `m/modules.dep:3: "b.ko c.ko" is not`},
		"modules.alias":   {"alias a b\n\nalias a\n", `m/modules.alias:3: "alias a" is not`},
		"extra.alias":     {"alias a b c\n", `m/extra.alias:1:`},
		"modules.softdep": {"soft dep\n", `m/modules.softdep:1: "soft dep" is not`},
	} {
		_, err := kmod.Read(fstest.MapFS{"m/" + name: {Data: []byte(c.text)}}, "m")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

// The output of Encode has the same meaning when it is read again.
func TestEncode(t *testing.T) {
	x := index(t, map[string]string{"modules.dep": deps, "modules.softdep": softdeps, "modules.alias": aliases, "modules.builtin": "kernel/lib/lz4.ko\n"})
	plain := func(p string) string { return strings.TrimSuffix(p, ".xz") }
	parts := x.Encode([]string{"virtio-net", "failover", "virtio", "virtio_ring", "erofs", "libcrc32c", "crc32c_generic", "virtio_net", "lz4", "nothing"}, plain)
	want := map[string]string{
		".dep": "kernel/net/virtio-net.ko: kernel/core/failover.ko extra/virtio.ko kernel/virtio_ring.ko\nkernel/core/failover.ko:\n" +
			"extra/virtio.ko: kernel/virtio_ring.ko\nkernel/virtio_ring.ko:\nkernel/erofs.ko: kernel/libcrc32c.ko kernel/lib/lz4.ko\n" +
			"kernel/libcrc32c.ko:\nkernel/crypto/crc32c_generic.ko:\n",
		".alias":   "alias crc32c crc32c_generic\nalias crypto_crc32c crc32c_generic\n",
		".softdep": "softdep libcrc32c pre: crc32c\n",
	}
	if d := cmp.Diff(want, parts); d != "" {
		t.Error(d)
	}
	y := index(t, map[string]string{"base.dep": parts[".dep"], "base.alias": parts[".alias"], "base.softdep": parts[".softdep"], "base.builtin": x.EncodeBuiltin()})
	got, err := y.LoadOrder("erofs")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]kmod.Module{
		{Name: "crc32c_generic", Path: "kernel/crypto/crc32c_generic.ko", Soft: true},
		{Name: "libcrc32c", Path: "kernel/libcrc32c.ko"}, {Name: "erofs", Path: "kernel/erofs.ko"},
	}, got); d != "" {
		t.Error(d)
	}
	if got := len(y.Modules()); got != 7 {
		t.Errorf("%d modules", got)
	}
	if got := y.Aliases("crc32c-generic"); len(got) != 2 {
		t.Errorf("aliases %q", got)
	}
}

// TestInstalledKernels reads all indexes of this machine: every module must have a load order that
// ends in it.
func TestInstalledKernels(t *testing.T) {
	dirs, _ := filepath.Glob("/lib/modules/*/modules.dep")
	if len(dirs) == 0 {
		t.Skip("no modules.dep on this machine")
	}
	for _, d := range dirs {
		x, err := kmod.Read(os.DirFS(filepath.Dir(d)), ".")
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range x.Modules() {
			order, err := x.LoadOrder(m.Name)
			if err != nil || len(order) == 0 || order[len(order)-1] != m {
				t.Fatalf("%s: %v %v", m.Name, order, err)
			}
		}
	}
}
