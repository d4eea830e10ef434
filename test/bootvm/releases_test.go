package bootvm

import (
	"context"
	"os"
	"strings"
	"testing"

	"netroot/internal/config"
)

// releaseBoot is a boot of another release than that of the lab, which the other tests boot. CI
// boots two of them, make soak all.
type releaseBoot struct {
	label string // of the example configuration
	machine
	image string // what the root's image is mounted from
	ci    bool
}

// releaseBoots are the rows of the matrix. CI has the oldest kernel with the transport that is the
// default, and the newest dracut of a stable release: a change in Debian's sid must not make it
// fail.
var releaseBoots = []releaseBoot{
	{"debian11", machine{Transport: "nvme"}, "squashfs /dev/nvme0n1", true},
	{"debian11", machine{Transport: "nfs"}, "nfs 10.0.2.2:/debian11", false},
	{"debian11", machine{Transport: "nbd", Initramfs: "dracut"}, "squashfs /dev/nbd0", false},
	{"debian13", machine{Transport: "nvme"}, "squashfs /dev/nvme0n1", false},
	{"debian13", machine{Transport: "nfs"}, "nfs 10.0.2.2:/debian13", false},
	{"debian13", machine{Transport: "nbd", Initramfs: "dracut"}, "squashfs /dev/nbd0", true},
	{"debiansid", machine{Transport: "nvme"}, "squashfs /dev/nvme0n1", false},
	{"debiansid", machine{Transport: "nfs"}, "nfs 10.0.2.2:/debiansid", false},
	{"debiansid", machine{Transport: "nbd", Initramfs: "dracut"}, "squashfs /dev/nbd0", false},
}

// TestReleases builds and boots what CI has of other releases.
func TestReleases(t *testing.T) {
	needLab(t)
	if os.Getenv("NETROOT_BOOT_LONG") == "1" {
		t.Skip("part of TestAllReleases")
	}
	t.Parallel()
	rows := map[string][]releaseBoot{}
	for _, b := range releaseBoots {
		if b.ci {
			rows[b.label] = append(rows[b.label], b)
		}
	}
	bootReleases(t, rows)
}

// TestAllReleases builds and boots all of them.
func TestAllReleases(t *testing.T) {
	needLong(t)
	t.Parallel()
	rows := map[string][]releaseBoot{}
	for _, b := range releaseBoots {
		rows[b.label] = append(rows[b.label], b)
	}
	bootReleases(t, rows)
}

func bootReleases(t *testing.T, rows map[string][]releaseBoot) {
	for label, boots := range rows {
		t.Run(label, func(t *testing.T) {
			t.Parallel()
			if !t.Run("build", func(t *testing.T) { buildRelease(limit(t, 2*bootLimit), t, label, boots) }) {
				return
			}
			for _, b := range boots {
				t.Run(b.name(), func(t *testing.T) {
					t.Parallel()
					b.check(t)
				})
			}
		})
	}
}

func (b releaseBoot) name() string {
	if b.Initramfs != "" {
		return b.Transport + "-" + b.Initramfs
	}
	return b.Transport
}

// buildRelease builds an image with what its boots require: the initramfs of dracut only if one of
// them has that.
func buildRelease(ctx context.Context, t *testing.T, label string, boots []releaseBoot) {
	t.Helper()
	args := []string{"build", label, "--level", "1"}
	kept := os.Getenv("NETROOT_BOOT_STATE") != ""
	for _, b := range boots {
		kept = kept && run(ctx, "plan", label, "--transport", b.Transport, "--initramfs", b.flavour()).err == nil
		if b.Initramfs == "dracut" {
			args = append(args, "--initramfs", "dracut", "--build-arg", "PACKAGES="+dracutPackages(t))
		}
	}
	if kept {
		return
	}
	r := run(ctx, args...)
	t.Log(r.stdout)
	if r.err != nil {
		t.Fatal(r.all())
	}
}

func (b releaseBoot) flavour() string {
	if b.Initramfs != "" {
		return b.Initramfs
	}
	return "netroot"
}

// dracutPackages are those that the example configuration names for a recipe of Debian.
func dracutPackages(t *testing.T) string {
	t.Helper()
	cfg, err := config.Load("../../netroot.yaml")
	must(t, err)
	l, err := cfg.Label("debian12-dracut")
	must(t, err)
	return l.BuildArgs["PACKAGES"]
}

// releaseQuestions are those for any initramfs, and for what differs between releases of systemd:
// since 259 the journal is persistent by default, since 260 nothing enables the login on a console
// but presets.
const releaseQuestions = dracutQuestions + `
echo "journal $(find /var/log/journal -name '*.journal' 2> /dev/null | wc -l)"
echo "console $(systemctl is-enabled getty@tty1.service)"
echo "name $(hostname | grep -vc none)"
echo "# Linux $(uname -r), $(systemctl --version | head -n 1)"
`

func (b releaseBoot) check(t *testing.T) {
	b.Label = b.label
	m := b.start(limit(t, bootLimit), t, releaseQuestions)
	r := m.wait()
	if r.err != nil {
		t.Fatal(r.all())
	}
	r.has(t, append(dracutAnswers(b.image, 1), "journal 0", "console enabled", "name 1")...)
	_, versions, _ := strings.Cut(r.stdout, "\n# ")
	m.note("%s", strings.TrimSpace(versions))
}
