package devices

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"netroot/internal/kmod"
	"netroot/internal/nodeinit/report"
)

type lines []string

func (l *lines) Report(e report.Event) { *l = append(*l, e.String()) }

// testLoader loads into a list, for two devices, of which the first has two drivers and the second
// one that needs another module.
func testLoader(t *testing.T, cmdline, keptOut string) (*Loader, *[]string) {
	t.Helper()
	index, err := kmod.Read(fstest.MapFS{
		"m/modules.dep":   &fstest.MapFile{Data: []byte("k/acme.ko:\nk/acme_old.ko:\nk/bolt.ko: k/wire.ko\nk/wire.ko:\nk/nvme_tcp.ko:\n")},
		"m/modules.alias": &fstest.MapFile{Data: []byte("alias pci:v1* acme\nalias pci:v1* acme_old\nalias usb:v2* bolt\nalias fs-wire wire\n")},
	}, "m")
	if err != nil {
		t.Fatal(err)
	}
	l, inserted := newLoader("/m", index, cmdline, keptOut), []string{}
	l.devices = t.TempDir()
	for name, alias := range map[string]string{"a": "pci:v1d2\n", "b": "usb:v2\n"} {
		if err := errors.Join(os.Mkdir(filepath.Join(l.devices, name), 0o755), os.WriteFile(filepath.Join(l.devices, name, "modalias"), []byte(alias), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	l.insert = func(path, _ string) error {
		inserted = append(inserted, strings.TrimSuffix(filepath.Base(path), ".ko"))
		return nil
	}
	return l, &inserted
}

// What kmod, dracut and the kernel keep out, the init keeps out, and says so.
func TestKeptOut(t *testing.T) {
	for name, c := range map[string]struct {
		cmdline, file string
		want, said    string
	}{
		"nothing":       {"quiet", "", "acme acme_old wire bolt", ""},
		"kmod":          {"modprobe.blacklist=acme-old", "", "acme wire bolt", "modules: acme_old, for pci:v1d2, is kept out by modprobe.blacklist= of the kernel command line"},
		"dracut":        {"rd.driver.blacklist=x,bolt", "", "acme acme_old", "modules: bolt, for usb:v2, is kept out by rd.driver.blacklist= of the kernel command line"},
		"the kernel":    {"module_blacklist=acme", "", "acme_old wire bolt", "modules: acme, for pci:v1d2, is kept out by module_blacklist= of the kernel command line"},
		"the image":     {"", "acme_old\nother\n", "acme wire bolt", "modules: acme_old, for pci:v1d2, is kept out by modprobe.d of the image"},
		"a dependency":  {"modprobe.blacklist=wire", "", "acme acme_old wire bolt", ""},
		"first":         {"rd.driver.pre=wire,nvme-tcp", "", "wire nvme_tcp acme acme_old bolt", ""},
		"last":          {"rd.driver.post=nvme_tcp", "", "acme acme_old wire bolt nvme_tcp", ""},
		"first, absent": {"rd.driver.pre=nosuch", "", "acme acme_old wire bolt", "modules: FAILED: rd.driver.pre=nosuch: module nosuch: no such module in the index"},
	} {
		l, inserted := testLoader(t, c.cmdline, c.file)
		var out lines
		step := report.Step{Name: "modules", To: &out}
		l.LoadBefore(step)
		l.Coldplug(step)
		l.LoadAfter(step)
		if got := strings.Join(*inserted, " "); got != c.want {
			t.Errorf("%s: loaded %s, want %s", name, got, c.want)
		}
		if got := strings.Join(out, "\n"); got != c.said {
			t.Errorf("%s: said %q, want %q", name, got, c.said)
		}
	}
}

// The kernel's own requests: by alias a module is kept out, by name only the kernel refuses it.
func TestRequested(t *testing.T) {
	l, _ := testLoader(t, "modprobe.blacklist=wire module_blacklist=acme", "")
	for word, want := range map[string][]string{"fs-wire": {}, "wire": {"wire"}, "acme": {}, "pci:v1d2": {"acme_old"}} {
		if got := l.requested(word); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", word, got, want)
		}
	}
}
