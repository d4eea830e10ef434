package pack_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"netroot/internal/kernel"
	"netroot/internal/pack"
)

func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// capability is security.capability of version 2 with cap_net_raw permitted and effective
// (include/uapi/linux/capability.h).
var capability = []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

// makeTree makes a tree with everything that a packing could lose. userAttrs reports whether the
// file system supports user attributes.
func makeTree(t testing.TB) (dir string, userAttrs bool) {
	t.Helper()
	dir = t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, perm fs.FileMode, data []byte) {
		if os.Geteuid() != 0 {
			perm = perm.Perm() // unsquashfs sets the other bits only for root
		}
		must(t, os.MkdirAll(filepath.Dir(at(name)), 0o755), os.WriteFile(at(name), data, 0o600), os.Chmod(at(name), perm))
	}
	for _, d := range []string{"proc", "sys", "dev", "run", "tmp", "var/tmp", "usr/lib/modules"} {
		must(t, os.MkdirAll(at(d), 0o755))
	}
	must(t, os.Chmod(at("tmp"), fs.ModeSticky|0o777), os.Chmod(at("var/tmp"), fs.ModeSticky|0o777))
	write("usr/bin/su", fs.ModeSetuid|0o755, []byte("#!su"))
	write("usr/bin/ping", 0o755, bytes.Repeat([]byte("ping"), 100_000))
	write("usr/share/Ünïcode ☃/naïve", fs.ModeSetgid|0o640, []byte("u"))
	write("usr/share/empty", 0o444, nil)
	write("etc/hosts", 0o644, []byte("127.0.0.1"))
	must(t, os.Link(at("etc/hosts"), at("etc/hosts.also")), os.Link(at("etc/hosts"), at("usr/hosts.too")))
	must(t, os.Symlink("usr/bin", at("bin")), os.Symlink("/does/not/exist", at("etc/dangling")))
	must(t, syscall.Mkfifo(at("var/pipe"), 0o622), os.Chmod(at("var/pipe"), 0o622))
	must(t, os.WriteFile(at("var/sparse"), []byte("head"), 0o644), os.Truncate(at("var/sparse"), 8<<20))
	// These files belong to a running system, except the last: its directory only has the same
	// name.
	for _, junk := range []string{"proc/version", "dev/.udev/x", "run/lock/y", "tmp/.X11-unix/X0", "tmp/z", "usr/tmp/kept"} {
		write(junk, 0o644, []byte("junk"))
	}
	userAttrs = unix.Setxattr(at("etc/hosts"), "user.comment", []byte("a\x00b"), 0) == nil
	if os.Geteuid() == 0 {
		must(t, unix.Mknod(at("var/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))), os.Chmod(at("var/null"), 0o666))
		must(t, unix.Mknod(at("var/disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 70000))))
		must(t, os.Lchown(at("etc/hosts"), 1000, 70000))
		must(t, unix.Setxattr(at("usr/bin/ping"), "security.capability", capability, 0))
	}
	when := time.Unix(1600000000, 0)
	must(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type() != fs.ModeSymlink {
			err = os.Chtimes(p, when, when)
		}
		return err
	}))
	return dir, userAttrs
}

// describe describes every file below dir except those that skip selects.
func describe(t *testing.T, dir string, skip func(name string) bool) map[string]string {
	t.Helper()
	found := map[string]string{}
	firstOf := map[uint64]string{} // inode to first name, to find hard links
	must(t, filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, p)
		if skip(name) {
			return nil
		}
		var st unix.Stat_t
		must(t, unix.Lstat(p, &st))
		text := fmt.Sprintf("mode %o uid %d gid %d rdev %x", st.Mode, st.Uid, st.Gid, st.Rdev)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			data, err := os.ReadFile(p)
			must(t, err)
			if _, ok := firstOf[st.Ino]; !ok {
				firstOf[st.Ino] = name
			}
			text += fmt.Sprintf(" mtime %d links %d inode of %s size %d", st.Mtim.Sec, st.Nlink, firstOf[st.Ino], st.Size)
			if len(bytes.Trim(data, "\x00")) < 100 {
				text += fmt.Sprintf(" %q", bytes.Trim(data, "\x00"))
			}
			text += attrs(p)
		case unix.S_IFLNK:
			to, _ := os.Readlink(p)
			text += " to " + to
		default:
			text += fmt.Sprintf(" mtime %d", st.Mtim.Sec)
		}
		found[name] = text
		return nil
	}))
	return found
}

func attrs(p string) string {
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(p, buf)
	if err != nil {
		return ""
	}
	names := strings.FieldsFunc(string(buf[:n]), func(r rune) bool { return r == 0 })
	slices.Sort(names)
	text := ""
	for _, name := range names {
		n, _ := unix.Lgetxattr(p, name, buf)
		text += fmt.Sprintf(" %s=%q", name, buf[:n])
	}
	return text
}

func left(name string) bool {
	dir, rest, _ := strings.Cut(name, string(filepath.Separator))
	return rest != "" && slices.Contains([]string{"proc", "sys", "dev", "run", "tmp"}, dir)
}

func TestSquashfsKeepsEverything(t *testing.T) {
	tool(t, "mksquashfs")
	unsquashfs := tool(t, "unsquashfs")
	tree, userAttrs := makeTree(t)
	for _, compressor := range []string{"", "gzip", "xz", "zstd"} {
		t.Run("compressor "+compressor, func(t *testing.T) {
			dir := t.TempDir()
			out := filepath.Join(dir, "root.squashfs")
			var percents []int
			res, err := pack.Squashfs(t.Context(), tree, out, pack.SquashfsOptions{
				Compressor: compressor, Processors: 1, Exclude: []string{"usr/lib/mod*"},
				Progress: func(n int) { percents = append(percents, n) },
			})
			must(t, err)
			if info, err := os.Stat(out); err != nil || info.Size() != res.Size || len(res.Warnings) > 0 {
				t.Errorf("result %+v, image of %d bytes, %v", res, info.Size(), err)
			}
			if !slices.IsSorted(percents) || len(percents) == 0 || percents[len(percents)-1] != 100 {
				t.Errorf("progress %v", percents)
			}
			output(t, exec.Command(unsquashfs, "-no-progress", "-d", filepath.Join(dir, "back"), out))
			got := describe(t, filepath.Join(dir, "back"), func(string) bool { return false })
			want := describe(t, tree, func(name string) bool { return left(name) || name == "usr/lib/modules" })
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
			if userAttrs && !strings.Contains(got["etc/hosts"], "user.comment=") {
				t.Error("user.comment is gone")
			}
		})
	}
	if entries, _ := os.ReadDir(filepath.Join(tree, "tmp")); len(entries) != 2 {
		t.Error("the tree itself was changed")
	}
}

// TestSquashfsSuperblock reads the block size and compressor back (squashfs superblock:
// fs/squashfs/squashfs_fs.h).
func TestSquashfsSuperblock(t *testing.T) {
	tool(t, "mksquashfs")
	tree := t.TempDir()
	must(t, os.WriteFile(filepath.Join(tree, "f"), make([]byte, 1000), 0o644))
	for _, c := range []struct {
		opt        pack.SquashfsOptions
		block, ids int
	}{
		{pack.SquashfsOptions{}, 128 << 10, 1},
		{pack.SquashfsOptions{Compressor: "zstd", Level: 1, BlockSize: 64 << 10}, 64 << 10, 6},
		{pack.SquashfsOptions{Compressor: "xz", Level: 7}, 128 << 10, 4},
	} {
		out := filepath.Join(t.TempDir(), "out")
		_, err := pack.Squashfs(t.Context(), tree, out, c.opt)
		must(t, err)
		b, err := os.ReadFile(out)
		must(t, err)
		block, id := int(b[12])|int(b[13])<<8|int(b[14])<<16, int(b[20])
		if string(b[:4]) != "hsqs" || block != c.block || id != c.ids || len(b)%4096 != 0 {
			t.Errorf("%+v: block size %d, compressor %d, %d bytes", c.opt, block, id, len(b))
		}
	}
}

func TestSquashfsIsReproducible(t *testing.T) {
	tool(t, "mksquashfs")
	t.Setenv("SOURCE_DATE_EPOCH", "1650000000")
	var images [2][]byte
	for i := range images {
		tree, _ := makeTree(t) // two trees with the same content, one with a newer file
		when := time.Unix(1660000000+int64(i), 0)
		must(t, os.Chtimes(filepath.Join(tree, "usr/bin/su"), when, when))
		must(t, exec.Command("touch", "-h", "-d", "@1600000000", filepath.Join(tree, "bin"), filepath.Join(tree, "etc/dangling")).Run())
		out := filepath.Join(t.TempDir(), "out")
		_, err := pack.Squashfs(t.Context(), tree, out, pack.SquashfsOptions{})
		must(t, err)
		images[i], err = os.ReadFile(out)
		must(t, err)
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("the same tree gave two images")
	}
}

// alone checks that dir contains only the named files.
func alone(t *testing.T, dir string, want ...string) {
	t.Helper()
	var got []string
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if !slices.Equal(got, want) {
		t.Errorf("in %s: %q, want %q", dir, got, want)
	}
}

func TestSquashfsErrorsLeaveNothing(t *testing.T) {
	tool(t, "mksquashfs")
	tree, out := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(tree, "f"), []byte("x"), 0o600))
	must(t, os.WriteFile(filepath.Join(out, "old"), []byte("old"), 0o600))
	for _, c := range []struct {
		tree, out string
		opt       pack.SquashfsOptions
		want      string
	}{
		{filepath.Join(tree, "none"), "new", pack.SquashfsOptions{}, "no such file"},
		{filepath.Join(tree, "f"), "new", pack.SquashfsOptions{}, "not a directory"},
		{tree, "none/new", pack.SquashfsOptions{}, "no such file"},
		{tree, "new", pack.SquashfsOptions{Compressor: "brotli"}, "brotli"},
		{tree, "old", pack.SquashfsOptions{BlockSize: 1000}, "block size"},
	} {
		_, err := pack.Squashfs(t.Context(), c.tree, filepath.Join(out, c.out), c.opt)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.tree) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s to %s: %v, want %q", c.tree, c.out, err, c.want)
		}
	}
	alone(t, out, "old")
	if b, _ := os.ReadFile(filepath.Join(out, "old")); string(b) != "old" {
		t.Error("a failed packing replaced the image")
	}
	_, err := pack.Squashfs(t.Context(), tree, filepath.Join(out, "old"), pack.SquashfsOptions{})
	must(t, err)
	alone(t, out, "old")

	t.Setenv("PATH", t.TempDir())
	if _, err := pack.Squashfs(t.Context(), tree, filepath.Join(out, "new"), pack.SquashfsOptions{}); err == nil || !strings.Contains(err.Error(), "squashfs-tools") {
		t.Errorf("without mksquashfs: %v", err)
	}
}

func TestSquashfsUnreadableFile(t *testing.T) {
	tool(t, "mksquashfs")
	unreadable(t, func(tree, out string) error {
		_, err := pack.Squashfs(t.Context(), tree, out, pack.SquashfsOptions{})
		return err
	})
}

// unreadable packs a tree with a file that cannot be read. The file must not become an empty one.
func unreadable(t *testing.T, packTo func(tree, out string) error) {
	t.Helper()
	if os.Geteuid() == 0 {
		t.Skip("root reads everything")
	}
	tree, out := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(tree, "secret"), []byte("x"), 0))
	if err := packTo(tree, filepath.Join(out, "new")); err == nil || !strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
	alone(t, out)
}

func TestSquashfsCancelled(t *testing.T) {
	tool(t, "mksquashfs")
	cancelled(t, func(ctx context.Context, tree, out string, progress func(int)) error {
		_, err := pack.Squashfs(ctx, tree, out, pack.SquashfsOptions{Compressor: "zstd", Level: 19, Progress: progress})
		return err
	})
}

// cancelled cancels a packing that has begun. Nothing must be left.
func cancelled(t *testing.T, packTo func(ctx context.Context, tree, out string, progress func(int)) error) {
	t.Helper()
	tree, out := t.TempDir(), t.TempDir()
	noise := make([]byte, 64<<20)
	for i := range noise {
		noise[i] = byte(i * i >> 7)
	}
	must(t, os.WriteFile(filepath.Join(tree, "f"), noise, 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := packTo(ctx, tree, filepath.Join(out, "new"), func(int) { cancel() }); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	alone(t, out)
}

func TestSquashfsNoSpace(t *testing.T) {
	tool(t, "mksquashfs")
	onSmallDisk(t, func(tree, small string) error {
		_, err := pack.Squashfs(t.Context(), tree, filepath.Join(small, "new"), pack.SquashfsOptions{})
		return err
	})
}

// onSmallDisk packs noise to a small file system. The packing must fail and leave nothing.
func onSmallDisk(t *testing.T, packTo func(tree, small string) error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	if !ownMounts(t) {
		return
	}
	tree, small := t.TempDir(), t.TempDir()
	must(t, unix.Mount("none", small, "tmpfs", 0, "size=1m"))
	defer unix.Unmount(small, 0)
	noise := make([]byte, 4<<20)
	_, err := unix.Getrandom(noise, 0)
	must(t, err, os.WriteFile(filepath.Join(tree, "f"), noise, 0o600))
	if err := packTo(tree, small); err == nil || !strings.Contains(err.Error(), "no space left in "+small) {
		t.Errorf("%v", err)
	}
	alone(t, small)
}

// ownMounts runs the calling test again in a process with private mounts. It returns true in that
// process.
func ownMounts(t *testing.T) bool {
	t.Helper()
	if os.Getenv("TEST_OWN_MOUNTS") != "" {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.count=1")
	cmd.Env = append(os.Environ(), "TEST_OWN_MOUNTS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	output(t, cmd)
	return false
}

func TestCompressor(t *testing.T) {
	for _, c := range []struct {
		config string
		want   string
	}{
		{"", "gzip"},
		{"SQUASHFS_XZ SQUASHFS_ZLIB SQUASHFS_ZSTD", "zstd"},
		{"SQUASHFS_XZ SQUASHFS_ZLIB SQUASHFS_LZO SQUASHFS_LZ4", "xz"}, // EL 7
		{"SQUASHFS_ZLIB SQUASHFS_LZ4", "gzip"},
	} {
		config := kernel.Config{}
		for _, name := range strings.Fields(c.config) {
			config[name] = "y"
		}
		if got := pack.Compressor(config); got != c.want {
			t.Errorf("%q: %s, want %s", c.config, got, c.want)
		}
	}
	if got := pack.Compressor(nil); got != "gzip" {
		t.Errorf("no configuration: %s", got)
	}
}

// BenchmarkSquashfs packs NETROOT_BENCH_TREE at several levels of zstd.
func BenchmarkSquashfs(b *testing.B) {
	tree := os.Getenv("NETROOT_BENCH_TREE")
	if tree == "" {
		b.Skip("NETROOT_BENCH_TREE names no tree")
	}
	for _, level := range []int{1, 3, 6, 9} {
		b.Run(strconv.Itoa(level), func(b *testing.B) {
			for b.Loop() {
				res, err := pack.Squashfs(b.Context(), tree, filepath.Join(b.TempDir(), "out"), pack.SquashfsOptions{Compressor: "zstd", Level: level})
				must(b, err)
				b.ReportMetric(float64(res.Size)/1e6, "MB")
			}
		})
	}
}

// TestSquashfsNamesLostACLs: what squashfs cannot keep is said in one line of our own, with a file
// and the way out. mksquashfs prints a line for each file, without its name.
func TestSquashfsNamesLostACLs(t *testing.T) {
	tool(t, "mksquashfs")
	tree := t.TempDir()
	for _, name := range []string{"a", "b"} {
		file := filepath.Join(tree, name)
		if err := os.WriteFile(file, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := unix.Setxattr(file, "system.posix_acl_access", acl, 0); err != nil {
			t.Skipf("the file system of %s has no ACLs: %v", tree, err)
		}
	}
	res, err := pack.Squashfs(t.Context(), tree, filepath.Join(t.TempDir(), "root"), pack.SquashfsOptions{})
	want := []string{`squashfs has no room for POSIX ACLs, which are left out (2 files, the first is /a): "pack: erofs" keeps them`}
	if err != nil || !slices.Equal(res.Warnings, want) {
		t.Errorf("%v, %q", err, res.Warnings)
	}
}
