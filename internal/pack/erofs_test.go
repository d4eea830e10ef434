package pack_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"netroot/internal/kernel"
	"netroot/internal/pack"
)

// acl is system.posix_acl_access that lets user 1000 and the owner read and write, and nobody else
// (include/uapi/linux/posix_acl_xattr.h: version, then tag, permissions and id of each entry).
var acl = func() []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range [][3]uint32{{0x01, 6, 1<<32 - 1}, {0x02, 6, 1000}, {0x04, 0, 1<<32 - 1}, {0x10, 6, 1<<32 - 1}, {0x20, 0, 1<<32 - 1}} {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}()

// erofsKinds returns the options in which images differ.
func erofsKinds(t *testing.T) map[string]pack.ErofsOptions {
	t.Helper()
	tool(t, "mkfs.erofs")
	old, young := pack.Linux{5, 4}, pack.Linux{6, 1}
	kinds := map[string]pack.ErofsOptions{"": {}, "none of 6.1": {Compressor: "none", Kernel: young}}
	have, err := pack.ErofsCompressors(t.Context())
	if err != nil || !slices.Contains(have, "lz4hc") {
		t.Fatalf("compressors of mkfs.erofs: %q, %v", have, err)
	}
	for _, c := range have {
		kinds[c] = pack.ErofsOptions{Compressor: c, Kernel: old}
		kinds[c+" of 6.1"] = pack.ErofsOptions{Compressor: c, Kernel: young, Level: 3}
	}
	return kinds
}

func TestErofsKeepsEverything(t *testing.T) {
	fsck := tool(t, "fsck.erofs")
	if os.Geteuid() == 0 && !ownMounts(t) {
		return
	}
	tree, userAttrs := makeTree(t)
	hasACL := unix.Setxattr(filepath.Join(tree, "var/sparse"), "system.posix_acl_access", acl, 0) == nil
	want := describe(t, tree, left)
	for name, opt := range erofsKinds(t) {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			out := filepath.Join(dir, "root.erofs")
			var percents []int
			opt.Progress = func(n int) { percents = append(percents, n) }
			res, err := pack.Erofs(t.Context(), tree, out, opt)
			must(t, err)
			if info, err := os.Stat(out); err != nil || info.Size() != res.Size || len(res.Warnings) > 0 {
				t.Errorf("result %+v, image of %d bytes, %v", res, info.Size(), err)
			}
			if !slices.IsSorted(percents) || len(percents) == 0 || percents[len(percents)-1] != 100 {
				t.Errorf("progress %v", percents)
			}
			if limit := int64(2 << 20); res.Size > limit && name != "" {
				t.Errorf("%d bytes: 8 MiB of hole are in it", res.Size)
			}
			output(t, exec.Command(fsck, "--preserve-perms", "--extract="+filepath.Join(dir, "back"), out))
			back := describe(t, filepath.Join(dir, "back"), func(string) bool { return false })
			if d := cmp.Diff(bare(want), bare(back)); d != "" {
				t.Errorf("by fsck.erofs: %s", d)
			}
			mounted := mountErofs(t, out)
			if mounted == "" {
				return
			}
			got := describe(t, mounted, func(string) bool { return false })
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("by the kernel: %s", d)
			}
			if userAttrs && !strings.Contains(got["etc/hosts"], "user.comment=") || hasACL && !strings.Contains(got["var/sparse"], "posix_acl_access") {
				t.Error("attributes are gone")
			}
		})
	}
}

var beyondFsck = regexp.MustCompile(`mode 10[0-7]| size (8388608|65536) | mtime \d+| links \d+ inode of \S+| (user|security|trusted|system)\..*`)

// bare removes what fsck.erofs does not restore: set-id bits, times, hard links and attributes
// (1.5), and a hole at the end of a file (1.8).
func bare(files map[string]string) map[string]string {
	out := map[string]string{}
	for name, text := range files {
		out[name] = beyondFsck.ReplaceAllString(text, "")
	}
	return out
}

// mountErofs mounts an image during the test, and returns "" if that is not possible.
func mountErofs(t *testing.T, image string) string {
	t.Helper()
	dir := t.TempDir()
	out, err := exec.Command("mount", "-t", "erofs", "-o", "loop,ro", image, dir).CombinedOutput()
	if err != nil {
		t.Logf("not looked at by the kernel: %s", bytes.TrimSpace(out))
		return ""
	}
	t.Cleanup(func() { output(t, exec.Command("umount", dir)) })
	return dir
}

func TestErofsIsReproducible(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1650000000")
	for name, opt := range erofsKinds(t) {
		var images [3][]byte
		for i := range images {
			tree, _ := makeTree(t) // trees with the same content, one with a newer file
			when := time.Unix(1660000000+int64(i), 0)
			must(t, os.Chtimes(filepath.Join(tree, "usr/bin/su"), when, when))
			must(t, exec.Command("touch", "-h", "-d", "@1600000000", filepath.Join(tree, "bin"), filepath.Join(tree, "etc/dangling")).Run())
			out := filepath.Join(t.TempDir(), "out")
			opt.Name = []string{"a", "a", "b"}[i]
			_, err := pack.Erofs(t.Context(), tree, out, opt)
			must(t, err)
			images[i], err = os.ReadFile(out)
			must(t, err)
		}
		if !bytes.Equal(images[0], images[1]) {
			t.Errorf("%q: the same tree gave two images", name)
		}
		const uuid = 1024 + 48 // in the superblock: fs/erofs/erofs_fs.h
		if bytes.Equal(images[1][uuid:uuid+16], images[2][uuid:uuid+16]) {
			t.Errorf("%q: two names have the same UUID", name)
		}
	}
}

func TestErofsErrorsLeaveNothing(t *testing.T) {
	tool(t, "mkfs.erofs")
	tree, out := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(tree, "f"), []byte("x"), 0o600))
	must(t, os.WriteFile(filepath.Join(out, "old"), []byte("old"), 0o600))
	for _, c := range []struct {
		tree, out string
		opt       pack.ErofsOptions
		want      string
	}{
		{filepath.Join(tree, "none"), "new", pack.ErofsOptions{}, "no such file"},
		{filepath.Join(tree, "f"), "new", pack.ErofsOptions{}, "not a directory"},
		{tree, "none/new", pack.ErofsOptions{}, "no such file"},
		{tree, "old", pack.ErofsOptions{Compressor: "brotli"}, "brotli"},
	} {
		_, err := pack.Erofs(t.Context(), c.tree, filepath.Join(out, c.out), c.opt)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.tree) || strings.ContainsAny(err.Error(), "\n<") {
			t.Errorf("%s to %s: %v, want %q", c.tree, c.out, err, c.want)
		}
	}
	alone(t, out, "old")
	if b, _ := os.ReadFile(filepath.Join(out, "old")); string(b) != "old" {
		t.Error("a failed packing replaced the image")
	}
	t.Setenv("PATH", t.TempDir())
	if _, err := pack.Erofs(t.Context(), tree, filepath.Join(out, "new"), pack.ErofsOptions{}); err == nil || !strings.Contains(err.Error(), "erofs-utils") {
		t.Errorf("without mkfs.erofs: %v", err)
	}
}

func TestErofsUnreadableFile(t *testing.T) {
	tool(t, "mkfs.erofs")
	unreadable(t, func(tree, out string) error {
		_, err := pack.Erofs(t.Context(), tree, out, pack.ErofsOptions{})
		return err
	})
}

func TestErofsCancelled(t *testing.T) {
	tool(t, "mkfs.erofs")
	cancelled(t, func(ctx context.Context, tree, out string, progress func(int)) error {
		_, err := pack.Erofs(ctx, tree, out, pack.ErofsOptions{Compressor: "lz4hc", Level: 12, Progress: progress})
		return err
	})
}

func TestErofsNoSpace(t *testing.T) {
	tool(t, "mkfs.erofs")
	onSmallDisk(t, func(tree, small string) error {
		_, err := pack.Erofs(t.Context(), tree, filepath.Join(small, "new"), pack.ErofsOptions{})
		return err
	})
}

func TestChoose(t *testing.T) {
	tool(t, "mkfs.erofs")
	have, err := pack.ErofsCompressors(t.Context())
	must(t, err)
	best := "lz4hc"
	if slices.Contains(have, "zstd") {
		best = "zstd"
	}
	const debian12, noKernel = "SQUASHFS_ZSTD EROFS_FS EROFS_FS_ZIP", "no kernel"
	for _, c := range []struct {
		method          pack.Method
		release, config string // of the kernel
		want            string // format and compressor, or a part of the error
	}{
		{"", "6.1.0-56-amd64", debian12, "squashfs zstd"},
		{pack.Auto, "6.1.0-56-amd64", debian12, "squashfs zstd"},
		{pack.AsSquashfs, "3.10.0-1160.el7.x86_64", "SQUASHFS_XZ", "squashfs xz"},
		{pack.AsErofs, "6.1.0-56-amd64", debian12, "erofs lz4hc"},
		{pack.AsErofs, "6.12.1", debian12 + " EROFS_FS_ZIP_ZSTD", "erofs " + best},
		{pack.AsErofs, "6.1", "", "erofs lz4hc"},
		{pack.AsErofsPlain, "6.1.0-56-amd64", debian12, "erofs none"},
		{pack.AsErofsPlain, "5.15.0", "EROFS_FS", "erofs none"},
		{pack.AsErofs, "5.15.0", "EROFS_FS", "cannot read compressed EROFS (CONFIG_EROFS_FS_ZIP): use \"pack: erofs-uncompressed\""},
		{pack.AsErofs, "5.14.0-503.el9.x86_64", "SQUASHFS_ZSTD", "kernel 5.14.0-503.el9.x86_64 has no EROFS (CONFIG_EROFS_FS"},
		{pack.AsErofsPlain, "4.19.0", "EROFS_FS", "has no EROFS"},
		{pack.Auto, noKernel, "", "squashfs zstd"},
		{pack.AsErofs, noKernel, "", "erofs " + best},
		{pack.AsErofsPlain, noKernel, "", "erofs none"},
	} {
		k := &kernel.Kernel{Release: c.release}
		for _, option := range strings.Fields(c.config) {
			if k.Config == nil {
				k.Config = kernel.Config{}
			}
			k.Config[option] = "m"
		}
		if c.release == noKernel {
			k = nil
		}
		got, err := c.method.Choose(t.Context(), k)
		text := got.Format + " " + got.Compressor
		if err == nil && (text != c.want || !c.method.Packed(got.Format, got.Compressor)) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s for %s: %s, %v, want %s", c.method, c.release, text, err, c.want)
		}
		for _, other := range []pack.Method{pack.AsSquashfs, pack.AsErofs, pack.AsErofsPlain} {
			if err == nil && other != c.method && c.method != pack.Auto && c.method != "" && other.Packed(got.Format, got.Compressor) {
				t.Errorf("%s is treated as %s", text, other)
			}
		}
	}
}
