package publish

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"netroot/internal/boot"
	"netroot/internal/export"
	"netroot/internal/handoff"
	"netroot/internal/pxetree"
	"netroot/internal/site"
	"netroot/internal/store"
)

var clients = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}

// image is one of the label "tiny" whose parts are not what they are called: nothing here looks
// into them.
func image(t *testing.T, l site.Label) Image {
	t.Helper()
	dir := t.TempDir()
	s, err := store.Create(filepath.Join(dir, "images"))
	if err != nil {
		t.Fatal(err)
	}
	parts := []store.Part{}
	for _, role := range []store.Role{store.RoleRoot, store.RoleKernel, store.RoleInitramfs, store.RoleInitramfsHardware} {
		file := filepath.Join(dir, string(role))
		write(t, file, "the "+string(role))
		parts = append(parts, store.Part{Role: role, Path: file})
	}
	im, err := s.Commit(t.Context(), "tiny", store.Config{Architecture: "amd64", RootFormat: "squashfs", Transports: handoff.Transports()}, parts)
	if err != nil {
		t.Fatal(err)
	}
	cfg := site.Empty()
	if l.Name != "" {
		l.Tree = filepath.Join(dir, "tree")
		write(t, filepath.Join(l.Tree, "etc/passwd"), "")
		cfg.Labels[l.Name] = &l
	}
	facts := boot.Image{Name: im.Name(), Arch: "amd64", RootFormat: "squashfs", Transports: handoff.Transports()}
	for _, layer := range im.Manifest.Layers {
		f := boot.File{Name: layer.Annotations[store.AnnotationRole], Digest: handoff.Digest(layer.Digest)}
		switch store.Role(f.Name) {
		case store.RoleKernel:
			facts.Kernel = f
		case store.RoleRoot:
			facts.Root = f
		default:
			facts.Initrds = append(facts.Initrds, f)
		}
	}
	return Image{Site: cfg, Image: im, Request: site.Request{
		Machine: boot.Machine{Server: Server("10.0.0.1"), Ref: "tiny"}, Image: facts, Label: "tiny", Listen: boot.StandardPorts(),
	}}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestServer(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.1": "10.0.0.1:8010", "boot1:80": "boot1:80", "2001:db8::1": "[2001:db8::1]:8010",
		"[2001:db8::1]": "[2001:db8::1]:8010", "[2001:db8::1]:80": "[2001:db8::1]:80",
	} {
		if got := Server(in); got != want {
			t.Errorf("%s: %s, not %s", in, got, want)
		}
	}
}

// A label with rw is written to over NFS alone; what else a site exports of it is the image.
func TestReadWriteLabel(t *testing.T) {
	p := image(t, site.Label{Name: "tiny", RW: true, Cmdline: []string{"quiet"}})
	writer := []netip.Prefix{netip.MustParsePrefix("10.0.0.7/32")} // an export that is written to has one client
	for want, make := range map[string]func() (export.Set, error){
		"root=nbd:10.0.0.1:" + p.Image.Name() + ":squashfs ip=dhcp rootovl quiet": func() (export.Set, error) { return p.NBD(clients) },
		"root=iscsi:10.0.0.1::3260:1:":                                            func() (export.Set, error) { return p.ISCSI(clients) },
		":rw,":                                                                    func() (export.Set, error) { return p.NFS(NFSOptions{Clients: writer}) },
	} {
		if set, err := make(); err != nil || !strings.Contains(set.Text(), want) {
			t.Errorf("%s: %v\n%s", want, err, set.Text())
		}
	}
	made, err := p.Pxelinux(PxelinuxOptions{})
	if err != nil || !strings.Contains(made.Menu, "root=nfs:10.0.0.1:/tiny:rw,") {
		t.Errorf("pxelinux: %v\n%s", err, made.Menu)
	}
}

// What pxelinux starts is told what a machine is told that iPXE starts.
func TestPxelinuxTellsThePlan(t *testing.T) {
	p := image(t, site.Label{Name: "tiny", Overlay: site.DefaultOverlay(), Cmdline: []string{"quiet"}})
	plan, err := p.Site.Plan(p.Request)
	if err != nil {
		t.Fatal(err)
	}
	made, err := p.Pxelinux(PxelinuxOptions{})
	if err != nil || !strings.Contains(made.Menu, " "+strings.Join(plan.Cmdline, " ")+"\n") {
		t.Errorf("%v, no %q in\n%s", err, plan.Cmdline, made.Menu)
	}
	virtio, err := p.Pxelinux(PxelinuxOptions{Virtio: true})
	if err != nil || len(made.Entry.Initrds) != 2 || len(virtio.Entry.Initrds) != 1 {
		t.Errorf("%v, %q, %q", err, made.Entry.Initrds, virtio.Entry.Initrds)
	}
}

func TestPackedRoot(t *testing.T) {
	p := image(t, site.Label{Name: "tiny", Overlay: site.DefaultOverlay()})
	p.Dir = filepath.Join(t.TempDir(), "out")
	set, err := p.NBD(clients)
	if err != nil {
		t.Fatal(err)
	}
	paths, err := Write(p.Dir, set)
	if err != nil || len(paths) != len(set.Files) {
		t.Fatalf("%q, %v", paths, err)
	}
	file := filepath.Join(p.Dir, PackedName(p.Image))
	if text, err := os.ReadFile(file); err != nil || string(text) != "the root" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := p.NBD(clients); err != nil { // once more
		t.Error(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	write(t, file, "the bott")
	if _, err := p.NBD(clients); err == nil || !strings.Contains(err.Error(), "is another file") {
		t.Errorf("another file: %v", err)
	}
}

func TestCopyFile(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "src"), "text")
	if err := pxetree.CopyFile(filepath.Join(dir, "dst"), filepath.Join(dir, "src")); err != nil {
		t.Fatal(err)
	}
	if same, err := pxetree.SameFile(filepath.Join(dir, "dst"), filepath.Join(dir, "src")); err != nil || !same {
		t.Errorf("%v, %v", same, err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestOptionErrors(t *testing.T) {
	known, unknown := image(t, site.Label{Name: "tiny"}), image(t, site.Label{})
	for want, run := range map[string]func() error{
		"its tree is not known: --packed": func() error { _, err := unknown.NFS(NFSOptions{Clients: clients}); return err },
		"its tree is not known: choose": func() error {
			_, err := unknown.Pxelinux(PxelinuxOptions{OwnServer: true, Transport: handoff.NFS})
			return err
		},
		"requires --packed DIR": func() error {
			_, err := known.Pxelinux(PxelinuxOptions{OwnServer: true, Transport: handoff.NFSImage})
			return err
		},
		"--site requires --transport nbd": func() error { _, err := known.Pxelinux(PxelinuxOptions{OwnServer: true}); return err },
		"give that with --tftp":           func() error { _, err := known.DHCP(export.IPXE, "boot1"); return err },
		"no machine may mount its tree":   func() error { _, err := known.NFS(NFSOptions{}); return err },
	} {
		err := run()
		if wrong := (*OptionError)(nil); !errors.As(err, &wrong) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	if set, err := known.DHCP(export.IPXE, ""); err != nil || !strings.Contains(set.Text(), "http://10.0.0.1:8010/boot/tiny.ipxe") {
		t.Errorf("%v", err)
	}
}

func TestPrivatePaths(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		write(t, filepath.Join(dir, name), "")
		if err := os.Chmod(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found, err := privatePaths(dir)
	if os.Geteuid() != 0 {
		if len(found) != 0 || err != nil {
			t.Errorf("files of another: %q, %v", found, err)
		}
		return
	}
	if err != nil || len(found) != 7 || found[0] != "/a" || found[6] != "and 2 more" {
		t.Errorf("%q, %v", found, err)
	}
	if _, err := privatePaths(filepath.Join(dir, "none")); err == nil {
		t.Error("a tree that is not there is taken")
	}
}
