package build

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"netroot/internal/pack"
	"netroot/internal/store"
)

// TestPackErofs packs for a kernel without EROFS and for a kernel with EROFS.
func TestPackErofs(t *testing.T) {
	if _, err := exec.LookPath("mkfs.erofs"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("mkfs.erofs is missing (package erofs-utils)")
		}
		t.Skip("mkfs.erofs is missing")
	}
	s := newSite(t)
	_, err := Run(t.Context(), s.options(t, tiny, func(o *Options) { o.Pack = pack.AsErofs }))
	if err == nil || !strings.Contains(err.Error(), "kernel "+release+" has no EROFS (CONFIG_EROFS_FS, Linux 5.4): use \"pack: squashfs\"") {
		t.Errorf("without EROFS: %v", err)
	}
	config := filepath.Join(s.dir, "kernel/boot/config-"+release)
	text, err := os.ReadFile(config)
	must(t, err, os.WriteFile(config, append(text, "CONFIG_EROFS_FS=y\nCONFIG_EROFS_FS_ZIP=y\n"...), 0o644))
	for method, want := range map[pack.Method]string{"": "squashfs zstd", pack.AsErofs: "erofs lz4hc", pack.AsErofsPlain: "erofs none"} {
		r := s.build(t, tiny, func(o *Options) { o.Pack = method })
		if got := r.Image.Config.RootFormat + " " + r.Image.Config.Compressor; got != want {
			t.Errorf("packed as %s, want %s", got, want)
		}
		root, ok, err := r.Image.Blob(store.RoleRoot)
		must(t, err)
		head := make([]byte, 1028)
		if _, err := root.ReadAt(head, 0); err != nil || !ok {
			t.Fatal(ok, err)
		}
		root.Close()
		// fs/erofs/erofs_fs.h
		if isErofs := string(head[1024:]) == "\xe2\xe1\xf5\xe0"; isErofs != strings.HasPrefix(want, "erofs") {
			t.Errorf("%s: its first bytes say otherwise", want)
		}
	}
}
