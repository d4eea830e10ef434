package bootstrap

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// siftool returns a SIF that the library of Apptainer's siftool wrote (apptainer/sif 2.24.0). It
// has a definition file, an overlay partition, and the primary partition with /etc/motd.
func siftool(t testing.TB) []byte {
	t.Helper()
	f, err := os.Open("testdata/siftool.sif.gz")
	must(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	must(t, err)
	sif, err := io.ReadAll(z)
	must(t, err)
	return sif
}

const (
	descriptors = 4096 // where siftool puts the table
	primary     = descriptors + 2*sifDescriptorSize
)

// packedTree packs a small tree.
func packedTree(t *testing.T) (tree, squashfs string) {
	t.Helper()
	dir := t.TempDir()
	tree, squashfs = filepath.Join(dir, "tree"), filepath.Join(dir, "squashfs")
	must(t, os.MkdirAll(filepath.Join(tree, "etc"), 0o750))
	must(t, os.WriteFile(filepath.Join(tree, "etc/motd"), []byte("packed\n"), 0o640))
	must(t, os.Link(filepath.Join(tree, "etc/motd"), filepath.Join(tree, "etc/hard")))
	must(t, os.Symlink("/dangling", filepath.Join(tree, "link")))
	if os.Geteuid() == 0 {
		must(t, os.Chown(filepath.Join(tree, "etc/motd"), 12, 34))
		must(t, unix.Mknod(filepath.Join(tree, "null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
		must(t, unix.Setxattr(filepath.Join(tree, "etc/motd"), "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	}
	must(t, os.Chmod(filepath.Join(tree, "etc/motd"), 0o4750))
	output(t, needTool(t, "mksquashfs"), tree, squashfs, "-noappend", "-quiet", "-no-progress")
	return tree, squashfs
}

// packedSIF is siftool's SIF with another root.
func packedSIF(t *testing.T) []byte {
	_, squashfs := packedTree(t)
	root, err := os.ReadFile(squashfs)
	must(t, err)
	return withRoot(t, 1, root)
}

// withRoot replaces the root file system in siftool's SIF. kind is its type.
func withRoot(t testing.TB, kind uint32, root []byte) []byte {
	sif := siftool(t)
	at := binary.LittleEndian.Uint64(sif[primary+17:])
	binary.LittleEndian.PutUint64(sif[primary+25:], uint64(len(root)))
	binary.LittleEndian.PutUint32(sif[primary+201:], kind)
	return append(sif[:at:at], root...)
}

// TestImageFiles unpacks every kind of file, and compares the tree with the one that was packed.
func TestImageFiles(t *testing.T) {
	needRoot(t)
	tree, squashfs := packedTree(t)
	root, err := os.ReadFile(squashfs)
	must(t, err)
	ext := filepath.Join(t.TempDir(), "ext3")
	must(t, os.WriteFile(ext, nil, 0o644))
	must(t, os.Truncate(ext, 8<<20))
	output(t, needTool(t, "mkfs.ext3"), "-q", "-d", tree, ext)
	ext3, err := os.ReadFile(ext)
	must(t, err)
	launcher := []byte("#!/usr/bin/env run-singularity\n")
	t.Setenv("TMPDIR", t.TempDir())
	for name, image := range map[string][]byte{
		"squashfs": root, "sif": withRoot(t, 1, root), "singularity2": append(bytes.Clone(launcher), root...),
		"ext3": ext3, "sif of ext3": withRoot(t, 2, ext3), "ext3 of singularity2": append(bytes.Clone(launcher), ext3...),
	} {
		t.Run(name, func(t *testing.T) {
			if strings.Contains(name, "ext3") {
				needLoop(t, ext)
			}
			j := job(t, "Bootstrap: localimage\nFrom: an image\n")
			must(t, os.WriteFile(filepath.Join(j.Dir, "an image"), image, 0o644))
			must(t, localImage(t.Context(), j))
			want, got := describe(t, tree), describe(t, j.Root)
			for _, m := range []map[string]string{want, got} {
				for name, s := range m { // squashfs and ext3 store whole seconds
					fields := strings.Fields(s)
					fields[4] = fields[4][:10]
					m[name] = strings.Join(fields, " ")
				}
				delete(m, ".")
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("the tree (-packed +unpacked):\n%s", diff)
			}
		})
	}
	if left, _ := os.ReadDir(os.TempDir()); len(left) > 0 {
		t.Errorf("left in TMPDIR: %v", left)
	}
}

// TestOldUnsquashfs copies the partition out for an unsquashfs that has no option for an offset.
func TestOldUnsquashfs(t *testing.T) {
	needRoot(t)
	real := needTool(t, "unsquashfs")
	fakeTool(t, "unsquashfs", `
case $# in 0) echo "usage: unsquashfs [options] filesystem" >&2; exit 1;; esac
case "$*" in *-offset*) echo "invalid option" >&2; exit 1;; esac
exec `+real+` "$@"`)
	t.Setenv("TMPDIR", t.TempDir())
	j := job(t, "Bootstrap: localimage\nFrom: f.sif\n")
	j.Env = nil
	must(t, os.WriteFile(filepath.Join(j.Dir, "f.sif"), siftool(t), 0o644))
	must(t, localImage(t.Context(), j))
	if got, err := os.ReadFile(filepath.Join(j.Root, "etc/motd")); err != nil || string(got) != "made by siftool's library\n" {
		t.Errorf("etc/motd: %q, %v", got, err)
	}
	if left, _ := os.ReadDir(os.TempDir()); len(left) > 0 {
		t.Errorf("left in TMPDIR: %v", left)
	}
}

// needLoop skips the test where the kernel cannot mount files, as in most containers.
func needLoop(t *testing.T, image string) {
	t.Helper()
	cmd := exec.Command("unshare", "--mount", "mount", "-o", "loop,ro,noload", "-t", "ext4", image, "/mnt")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("no loop mounts here: %v: %s", err, out)
	}
}

func TestFindRoot(t *testing.T) {
	sif := siftool(t)
	at := int64(binary.LittleEndian.Uint64(sif[primary+17:]))
	size := int64(binary.LittleEndian.Uint64(sif[primary+25:]))
	got, err := findRoot(bytes.NewReader(sif), int64(len(sif)))
	if want := (packedRoot{formatSquashfs, at, size}); err != nil || got != want {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}

	put := func(n uint64, at ...int) func([]byte) []byte {
		return func(b []byte) []byte {
			for _, at := range at {
				binary.LittleEndian.PutUint64(b[at:], n)
			}
			return b
		}
	}
	set := func(at int, s string) func([]byte) []byte {
		return func(b []byte) []byte { copy(b[at:], s); return b }
	}
	for _, tc := range []struct {
		name string
		edit func([]byte) []byte
		want string
	}{
		{"empty", func([]byte) []byte { return nil }, "not an image: neither SIF"},
		{"text", func([]byte) []byte { return []byte("#!/bin/sh\necho hello\n") }, "not an image"},
		{"cut in the header", func(b []byte) []byte { return b[:100] }, "damaged SIF: 100 bytes are fewer than a header has"},
		{"cut in the table", func(b []byte) []byte { return b[:5000] }, "damaged SIF: 48 descriptors from byte 4096 on do not fit into its 5000 bytes"},
		{"cut in the root", func(b []byte) []byte { return b[:at+100] }, "the file is truncated"},
		{"version", set(42, "02"), `version "02" is not supported, only version 01`},
		{"many descriptors", put(1<<62, 88), "do not fit"},
		{"negative descriptors", put(1<<63, 88), "do not fit"},
		{"descriptors before the file", put(1<<64-1, 96), "do not fit"},
		{"descriptors behind the file", put(1<<40, 96), "do not fit"},
		{"offset overflows", put(1<<63-1, primary+17, primary+25), "does not fit"},
		{"negative size", put(1<<63, primary+25), "does not fit"},
		{"no primary partition", set(primary+205, "\x03"), "SIF without a root file system"},
		{"a system partition will do", set(primary+205, "\x01"), ""},
		{"unused", set(primary+4, "\x00"), "SIF without a root file system"},
		{"other architecture", set(primary+209, "09"), ""},
		{"known other architecture", set(primary+209, "11"), "SIF for s390x"},
		{"any architecture", set(primary+209, "00"), ""},
		{"encrypted", set(primary+201, "\x05"), "encrypted SIF"},
		{"archive", set(primary+201, "\x03"), "whose root has the unknown type 3"},
		{"no squashfs", set(int(at), "nope"), "there is no squashfs at byte"},
		{"no ext3", set(primary+201, "\x02"), "there is no ext3 at byte"},
		{"OCI-SIF", set(descriptors, "\x09\x40"), "OCI-SIF"},
	} {
		if goarch != "amd64" && strings.Contains(tc.name, "architecture") {
			continue
		}
		b := tc.edit(bytes.Clone(sif))
		_, err := findRoot(bytes.NewReader(b), int64(len(b)))
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}

// TestCutShort checks that a truncated squashfs is found before unsquashfs runs.
func TestCutShort(t *testing.T) {
	_, squashfs := packedTree(t)
	must(t, os.Truncate(squashfs, 200))
	j := job(t, "Bootstrap: localimage\nFrom: "+squashfs+"\n")
	if err := runAgent(t, j); err == nil || !strings.Contains(err.Error(), "the file is truncated") {
		t.Errorf("error %v", err)
	}
}

// FuzzFindRoot checks that the root that findRoot finds is inside the file.
func FuzzFindRoot(f *testing.F) {
	sif := siftool(f)
	f.Add(sif[:6000])
	f.Add(sif)
	f.Add([]byte("hsqs"))
	f.Add([]byte("#!/usr/bin/env run-singularity\nhsqs"))
	f.Fuzz(func(t *testing.T, b []byte) {
		at, err := findRoot(bytes.NewReader(b), int64(len(b)))
		if err == nil && (at.offset < 0 || at.size < 0 || at.offset+at.size > int64(len(b)) || at.format == "") {
			t.Errorf("%+v in %d bytes", at, len(b))
		}
		if err == nil {
			_ = at.checkWhole(bytes.NewReader(b))
		}
	})
}
