package guest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
)

// TestWrite makes cpio list an archive of a program with libraries, modules in their order, one of
// them compressed, and a script.
func TestWrite(t *testing.T) {
	for _, program := range []string{"busybox", "cpio", "ldd"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	z.Write([]byte("module a"))
	z.Close()
	for name, text := range map[string]string{
		"modules.dep": "kernel/a.ko.gz:\nkernel/b.ko: kernel/a.ko.gz\n", "kernel/a.ko.gz": packed.String(), "kernel/b.ko": "module b",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	g := Guest{ModuleDir: dir, Modules: []string{"b", "a"}, Programs: []string{"bash"}, Files: map[string]string{"/etc/x/y": "text\n"}, Script: "echo done\n"}
	if err := g.Write(&b); err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	cmd := exec.Command("cpio", "-id", "--quiet")
	cmd.Dir, cmd.Stdin = out, &b
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for name, want := range map[string]string{"modules/001-a.ko": "module a", "modules/002-b.ko": "module b", "etc/x/y": "text\n"} {
		if got, err := os.ReadFile(filepath.Join(out, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if init, err := os.ReadFile(filepath.Join(out, "init")); err != nil || !strings.HasPrefix(string(init), "#!/bin/busybox sh\n") || !strings.HasSuffix(string(init), "\necho done\n") {
		t.Errorf("%s, %v", init, err)
	}
	// The content runs: bash finds its libraries.
	if os.Geteuid() == 0 {
		if text, err := exec.Command("chroot", out, "/bin/bash", "-c", "echo $((6*7))").CombinedOutput(); err != nil || string(text) != "42\n" {
			t.Errorf("%v: %s", err, text)
		}
	}
	g.Modules = []string{"nosuch"}
	if err := g.Write(&b); err == nil || !strings.Contains(err.Error(), "nosuch") {
		t.Error(err)
	}
	g.Modules, g.Programs = nil, []string{"no-such-program"}
	if err := g.Write(&b); err == nil || !strings.Contains(err.Error(), "no-such-program") {
		t.Error(err)
	}
}
