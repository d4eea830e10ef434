package build

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	diff "github.com/google/go-cmp/cmp"

	"netroot/internal/pack"
	"netroot/internal/store"
)

// TestReproducible builds a recipe twice, as if on two days. With SOURCE_DATE_EPOCH every part of
// the image is the same; without it the root differs.
func TestReproducible(t *testing.T) {
	text := tiny + "%post\nmkdir /etc/made\ncat /proc/uptime > /tmp/gone\nln -s x /etc/made/l\necho x > /etc/made/x\n%labels\nA b\nC d\n%environment\nexport A=1\n%test\n[ -e /etc/made/x ]\n"
	s := newSite(t)
	days := 0
	parts := func(adjust func(*Options)) map[string]string {
		t.Helper()
		// Age in days of the host's files for this build; the files of the tree are new
		// each time.
		days++
		day := time.Now().AddDate(0, 0, -days)
		must(t, os.Chtimes(filepath.Join(s.dir, "kernel/boot/vmlinuz-"+release), day, day))
		got := map[string]string{}
		for _, part := range s.build(t, text, adjust).Image.Manifest.Layers {
			got[part.Annotations[store.AnnotationRole]] = string(part.Digest)
		}
		return got
	}
	root := string(store.RoleRoot)
	if first, second := parts(nil), parts(nil); first[root] == second[root] {
		t.Error("the times of files do not count, so that this test shows nothing")
	}
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	first := parts(nil)
	if d := diff.Diff(first, parts(nil)); d != "" || first[root] == "" {
		t.Errorf("built twice (-first +second):\n%s", d)
	}
	image, err := s.store.Resolve("tiny")
	must(t, err)
	if got := image.Config.Created; !got.Equal(time.Unix(1700000000, 0)) {
		t.Errorf("the image was made at %v", got)
	}
	if _, err := exec.LookPath("mkfs.erofs"); err != nil { // TestPackErofs reports this
		return
	}
	config := filepath.Join(s.dir, "kernel/boot/config-"+release)
	lines, err := os.ReadFile(config)
	must(t, err, os.WriteFile(config, append(lines, "CONFIG_EROFS_FS=y\nCONFIG_EROFS_FS_ZIP=y\n"...), 0o644))
	erofs := func(o *Options) { o.Pack = pack.AsErofs }
	if d := diff.Diff(parts(erofs), parts(erofs)); d != "" {
		t.Errorf("built twice as EROFS (-first +second):\n%s", d)
	}
}

func TestSourceDateEpoch(t *testing.T) {
	s := newSite(t)
	for _, bad := range []string{"rubbish", "1700000000x", "-1", "1.5", " 1", "4294967296"} {
		t.Setenv("SOURCE_DATE_EPOCH", bad)
		_, err := Run(t.Context(), s.options(t, tiny, nil))
		if err == nil || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH") || !strings.Contains(err.Error(), bad) {
			t.Errorf("%q: error %v", bad, err)
		}
	}
	t.Setenv("SOURCE_DATE_EPOCH", "")
	if at, err := created(); err != nil || time.Since(at) > time.Minute {
		t.Errorf("unset: %v, %v", at, err)
	}
}
