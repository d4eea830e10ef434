package pxetree

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"netroot/internal/export"
)

// host makes a file system with Debian's loader and the files of two images.
func host(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "usr/lib/PXELINUX/pxelinux.0"), "loader")
	write(t, filepath.Join(dir, "usr/lib/PXELINUX/lpxelinux.0"), "loader by HTTP")
	write(t, filepath.Join(dir, "usr/lib/syslinux/modules/bios/ldlinux.c32"), "module")
	write(t, filepath.Join(dir, "kernel"), "the kernel")
	write(t, filepath.Join(dir, "initrd"), "the initramfs")
	return dir
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, parts ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// add exports the image "label@id" under its label.
func add(dir, host, name string, d export.Default) (Change, error) {
	label, _, _ := strings.Cut(name, "@")
	im := Image{Name: name, Kernel: File{"vmlinuz", filepath.Join(host, "kernel")}, Initrds: []File{{"initramfs", filepath.Join(host, "initrd")}}}
	e := export.Entry{Name: label, Title: "x", Kernel: FileName(name, "vmlinuz"), Initrds: []string{FileName(name, "initramfs")}, Cmdline: []string{"root=x"}}
	return Write(dir, host, im, e, d, false)
}

func TestWrite(t *testing.T) {
	h, dir := host(t), filepath.Join(t.TempDir(), "new/tftp")
	if _, err := add(dir, h, "a@1", export.DefaultUnlessForeign); err != nil {
		t.Fatal(err)
	}
	if _, err := add(dir, h, "b@1", export.DefaultUnlessForeign); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"pxelinux.0": "loader", "ldlinux.c32": "module", "netroot/a@1/vmlinuz": "the kernel", "netroot/b@1/initramfs": "the initramfs",
	} {
		if got := read(t, dir, name); got != want {
			t.Errorf("%s is %q", name, got)
		}
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("%s: %v, %v: a TFTP server cannot read it", name, info.Mode(), err)
		}
	}
	if text := read(t, dir, menu); !strings.Contains(text, "DEFAULT b\n") || !strings.Contains(text, "KERNEL netroot/a@1/vmlinuz\n") {
		t.Error(text)
	}

	// A new image of a replaces the old one, whose files no entry names any more; an image that
	// an entry names stays.
	write(t, filepath.Join(dir, "pxelinux.cfg/01-52-54-00-12-34-56"), "LABEL x\n KERNEL netroot/b@1/vmlinuz\n")
	for _, name := range []string{"a@2", "b@2"} {
		c, err := add(dir, h, name, export.DefaultUnlessForeign)
		if want := map[string][]string{"a@2": {"a@1"}}[name]; err != nil || !slices.Equal(c.Removed, want) {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
	got, err := filepath.Glob(filepath.Join(dir, "netroot/[a-z]*"))
	if want := []string{"a@2", "b@1", "b@2"}; err != nil || len(got) != 3 || filepath.Base(got[0]) != want[0] || filepath.Base(got[1]) != want[1] || filepath.Base(got[2]) != want[2] {
		t.Errorf("%v, %v", got, err)
	}

	// An incomplete file, and a damaged one of the same length, is copied again; whole files stay.
	write(t, filepath.Join(dir, "netroot/own/file"), "x")
	for _, damaged := range []string{"the ker", "the kernem"} {
		write(t, filepath.Join(dir, "netroot/a@2/vmlinuz"), damaged)
		if _, err := add(dir, h, "a@2", export.DefaultNo); err != nil || read(t, dir, "netroot/a@2/vmlinuz") != "the kernel" {
			t.Errorf("%q stays: %v", damaged, err)
		}
	}
	if text := read(t, dir, menu); !strings.Contains(text, "DEFAULT b\n") {
		t.Error(text)
	}
	read(t, dir, "netroot/own/file")
}

func TestWriteKeepsOthers(t *testing.T) {
	h, dir := host(t), t.TempDir()
	const old = "DEFAULT old\nLABEL old\n KERNEL vmlinuz\n"
	write(t, filepath.Join(dir, menu), old)
	write(t, filepath.Join(dir, "pxelinux.0"), "another version")
	write(t, filepath.Join(dir, "ldlinux.c32"), "its module")
	c, err := add(dir, h, "a@1", export.DefaultUnlessForeign)
	if err != nil || c.Foreign != "old" {
		t.Errorf("%+v, %v", c, err)
	}
	if text := read(t, dir, menu); !strings.HasPrefix(text, old) || strings.Contains(text, "DEFAULT a") {
		t.Error(text)
	}
	if read(t, dir, "pxelinux.0") != "another version" || read(t, dir, "ldlinux.c32") != "its module" {
		t.Error("the administrator's loader was replaced")
	}
}

func TestWriteRefuses(t *testing.T) {
	for want, prepare := range map[string]func(host, dir string){
		"install pxelinux and syslinux-common":              func(h, _ string) { os.RemoveAll(filepath.Join(h, "usr")) },
		"has pxelinux.0 but no ldlinux.c32":                 func(_, d string) { write(t, filepath.Join(d, "pxelinux.0"), "x") },
		"has a ldlinux.c32 that is not of the same version": func(_, d string) { write(t, filepath.Join(d, "ldlinux.c32"), "x") },
		"which netroot did not write":                       func(_, d string) { write(t, filepath.Join(d, menu), "LABEL a\n LOCALBOOT 0\n") },
		"has no end":                                        func(_, d string) { write(t, filepath.Join(d, menu), "# netroot: begin a\n") },
		"kernel: no such file":                              func(h, _ string) { os.Remove(filepath.Join(h, "kernel")) },
		"pxelinux.cfg/default: is a directory":              func(_, d string) { os.MkdirAll(filepath.Join(d, menu), 0o755) },
		"not a directory":                                   func(_, d string) { os.RemoveAll(d); write(t, d, "a file") },
	} {
		h, dir := host(t), t.TempDir()
		prepare(h, dir)
		before := tree(t, dir)
		if _, err := add(dir, h, "a@1", export.DefaultYes); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
		for name, text := range before {
			if got := tree(t, dir)[name]; got != text {
				t.Errorf("%s: %s was %q and is %q", want, name, text, got)
			}
		}
	}
}

// tree returns all files below dir and their content.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	filepath.Walk(dir, func(name string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			all[name] = read(t, name)
		}
		return nil
	})
	return all
}

// Concurrent exports do not lose each other's entries.
func TestWriteAtOnce(t *testing.T) {
	h, dir := host(t), t.TempDir()
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			if _, err := add(dir, h, fmt.Sprintf("l%d@1", i), export.DefaultUnlessForeign); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	text := read(t, dir, menu)
	for i := range 8 {
		if !strings.Contains(text, fmt.Sprintf("KERNEL netroot/l%d@1/vmlinuz\n", i)) {
			t.Errorf("no l%d in\n%s", i, text)
		}
	}
}

func TestLoaderByHTTP(t *testing.T) {
	h, dir := host(t), t.TempDir()
	if err := installLoader(dir, h, true); err != nil || read(t, dir, "lpxelinux.0") != "loader by HTTP" {
		t.Error(err)
	}
	if err := installLoader(dir, h, false); err != nil || read(t, dir, "pxelinux.0") != "loader" {
		t.Error(err) // another export, which writes the same module
	}
}
