package site

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netroot/internal/boot"
	"netroot/internal/handoff"
)

func digest(c string) handoff.Digest { return handoff.Digest("sha256:" + strings.Repeat(c, 64)) }

// folder are the layers of a server, by name.
type folder map[string]handoff.Digest

func (f folder) Has(name string) bool { _, ok := f[name]; return ok }

func (f folder) Digest(name string, allow []string) (handoff.Digest, error) {
	if f[name] == "" {
		return "", errors.New("layer " + name + ": it is not a directory")
	}
	return f[name], nil
}

var served = folder{"site": digest("a"), "base": digest("b"), "file": ""}

func image(name string) boot.Image {
	return boot.Image{
		Name: name, Arch: "amd64", KernelRelease: "6.1.0", RootFormat: "squashfs", Transports: handoff.Transports(),
		Kernel:  boot.File{Name: "vmlinuz", Digest: digest("1")},
		Root:    boot.File{Name: "root", Digest: digest("2")},
		Initrds: []boot.File{{Name: "initramfs", Digest: digest("3")}, {Name: "initramfs-hardware", Digest: digest("4")}},
		Dracut:  boot.File{Name: "initramfs-dracut", Digest: digest("5")}, DracutTransports: handoff.Transports(),
	}
}

func testSite() *Site {
	s := Empty()
	for _, l := range []Label{
		{Name: "plain", Overlay: DefaultOverlay()},
		{
			Name: "full", Transport: handoff.ISCSI, Initramfs: handoff.Dracut, Servers: []string{"10.0.0.1", "10.0.0.2"},
			Overlay: handoff.Overlay{Enabled: true, Size: "2G"}, Debug: true, Cmdline: []string{"nosmt", "quiet"},
			Layers: []string{"site", "rack7", "base", "rack8"},
		},
		{Name: "own", RW: true},
		{Name: "bare"},
	} {
		s.Labels[l.Name] = &l
	}
	return s
}

func settings(t *testing.T, r Request) boot.Settings {
	t.Helper()
	set, err := testSite().Settings(r)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestSettings(t *testing.T) {
	all := boot.StandardPorts()
	full := boot.Settings{
		Transport: handoff.ISCSI, Initramfs: handoff.Dracut, Servers: []string{"10.0.0.1", "10.0.0.2"}, Ports: all,
		Overlay: handoff.Overlay{Enabled: true, Size: "2G"}, Debug: true, Cmdline: []string{"nosmt", "quiet"},
		TreeLayers: []string{"rack7", "rack8"}, Layers: []handoff.Digest{digest("b"), digest("a")},
	}
	with := func(change func(*boot.Settings)) boot.Settings {
		s := full
		change(&s)
		return s
	}
	for name, test := range map[string]struct {
		label string
		add   Additions
		want  boot.Settings
	}{
		"a label with defaults":  {"plain", Additions{}, boot.Settings{Ports: all, Overlay: DefaultOverlay()}},
		"a label of no file":     {"unknown", Additions{}, boot.Settings{Ports: all, Overlay: DefaultOverlay()}},
		"all that a label says":  {"full", Additions{}, full},
		"another transport":      {"full", Additions{Transport: handoff.NBD}, with(func(s *boot.Settings) { s.Transport = handoff.NBD })},
		"another initramfs":      {"full", Additions{Initramfs: handoff.Netroot}, with(func(s *boot.Settings) { s.Initramfs = handoff.Netroot })},
		"without other servers":  {"full", Additions{Alone: true}, with(func(s *boot.Settings) { s.Servers = nil })},
		"without layers":         {"full", Additions{Layers: new([]string)}, with(func(s *boot.Settings) { s.TreeLayers, s.Layers = nil, nil })},
		"other layers":           {"full", Additions{Layers: &[]string{"x", "base"}}, with(func(s *boot.Settings) { s.TreeLayers, s.Layers = []string{"x"}, []handoff.Digest{digest("b")} })},
		"a layer over all":       {"full", Additions{TopLayer: digest("c"), RunLayer: digest("d")}, with(func(s *boot.Settings) { s.Layers = []handoff.Digest{digest("b"), digest("a"), digest("c")} })},
		"a layer in memory":      {"own", Additions{TopLayer: digest("c"), RunLayer: digest("d")}, boot.Settings{Ports: all, RW: true, RunLayers: []handoff.Digest{digest("d")}}},
		"a console":              {"plain", Additions{Console: []string{"tty0", "ttyS0"}}, boot.Settings{Ports: all, Overlay: DefaultOverlay(), Console: []string{"tty0", "ttyS0"}}},
		"arguments":              {"full", Additions{Cmdline: []string{"first"}}, with(func(s *boot.Settings) { s.Cmdline = []string{"first", "nosmt", "quiet"} })},
		"debug":                  {"plain", Additions{Debug: true}, boot.Settings{Ports: all, Overlay: DefaultOverlay(), Debug: true}},
		"a label that is rw":     {"own", Additions{}, boot.Settings{Ports: all, RW: true}},
		"rw for once":            {"plain", Additions{RW: true}, boot.Settings{Ports: all, RW: true}},
		"rw, read-only for once": {"own", Additions{ReadOnly: true}, boot.Settings{Ports: all, Overlay: DefaultOverlay()}},
		"read-only without rw":   {"bare", Additions{ReadOnly: true}, boot.Settings{Ports: all}},
		"elsewhere":              {"plain", Additions{Elsewhere: boot.Elsewhere{LUN: 1}}, boot.Settings{Ports: all, Overlay: DefaultOverlay(), Elsewhere: boot.Elsewhere{LUN: 1}}},
	} {
		r := Request{Image: boot.Image{Name: test.label + "@0123456789ab"}, Listen: all, Layers: served, Add: test.add}
		if diff := cmp.Diff(test.want, settings(t, r)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// The configuration that counts is that of the label asked for, whatever the image was called when
// it was built.
func TestLabelOfRequest(t *testing.T) {
	if set := settings(t, Request{Label: "own", Image: boot.Image{Name: "plain@0123456789ab"}}); !set.RW {
		t.Errorf("%+v", set)
	}
}

func TestSettingsRefuse(t *testing.T) {
	for name, test := range map[string]struct {
		label string
		add   Additions
		want  string
	}{
		"no name":          {"plain", Additions{Layers: &[]string{"a b"}}, "cannot name a layer"},
		"twice":            {"plain", Additions{Layers: &[]string{"a", "b", "a"}}, "layer a is named twice"},
		"damaged":          {"plain", Additions{Layers: &[]string{"file"}}, "layer file: it is not a directory"},
		"no memory":        {"bare", Additions{Layers: &[]string{"a"}}, ErrNoOverlay.Error()},
		"no memory for rw": {"full", Additions{RW: true}, ErrNoOverlay.Error()},
	} {
		if _, err := testSite().Settings(Request{Label: test.label, Layers: served, Add: test.add}); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOneWay asks for one label as each verb does. What the verbs do not add themselves must be the
// same to the byte.
func TestOneWay(t *testing.T) {
	const ref = "full@0123456789ab"
	base := Request{
		Machine: boot.Machine{Server: "10.0.0.1:8010", Ref: "full"}, Image: image(ref), Label: "full",
		Listen: boot.StandardPorts(), Layers: served,
	}
	plan := func(change func(*Request)) []string {
		t.Helper()
		r := base
		change(&r)
		p, err := testSite().Plan(r)
		if err != nil {
			t.Fatal(err)
		}
		return p.Cmdline
	}
	served := plan(func(*Request) {})
	for verb, change := range map[string]func(*Request){
		"plan --transport of the label": func(r *Request) { r.Add.Transport = handoff.ISCSI },
		"plan --initramfs of the label": func(r *Request) { r.Add.Initramfs = handoff.Dracut },
		"plan --layers of the label":    func(r *Request) { r.Add.Layers = &[]string{"site", "rack7", "base", "rack8"} },
		"plan --virtio":                 func(r *Request) { r.Machine.Virtio = true },
		"serve to a known architecture": func(r *Request) { r.Machine.Arch, r.Machine.Firmware = "amd64", boot.UEFI },
		"serve without NBD":             func(r *Request) { r.Withheld = map[handoff.Transport]string{handoff.NBD: "TLS"} },
		"export iscsi (LIO)":            func(r *Request) { r.Add.Transport, r.Add.ReadOnly = handoff.ISCSI, true },
	} {
		if diff := cmp.Diff(served, plan(change)); diff != "" {
			t.Errorf("%s (-serve +verb):\n%s", verb, diff)
		}
	}
	vm := plan(func(r *Request) {
		r.Add = Additions{Console: []string{"ttyS0"}, Cmdline: []string{"no_timer_check"}, TopLayer: digest("9")}
	})
	added := []string{"console=ttyS0", "no_timer_check", "netroot.layer=http://10.0.0.1:8010/v1/layers/" + string(digest("9"))}
	for _, a := range added {
		if !slices.Contains(vm, a) {
			t.Errorf("vm: no %s", a)
		}
	}
	vm = slices.DeleteFunc(vm, func(a string) bool { return slices.Contains(added, a) })
	if diff := cmp.Diff(served, vm); diff != "" {
		t.Errorf("vm (-serve +verb):\n%s", diff)
	}
}

func TestRevision(t *testing.T) {
	one, two := RevisionOf([]byte("labels: {}\n")), RevisionOf([]byte("labels: {}"))
	if one == two || !strings.HasPrefix(string(one), "sha256:") || len(one.Short()) != 12 || Revision("").Short() != "none" {
		t.Errorf("%s, %s, %s", one, two, one.Short())
	}
}
