package build

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	diff "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"netroot/internal/handoff"
	"netroot/internal/recipe"
	"netroot/internal/store"
	"netroot/internal/term"
)

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// lay writes files below dir. A value is the content of a file, or "-> target" for a link; a name
// that ends in a slash is a directory.
func lay(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		p := filepath.Join(dir, name)
		must(t, os.MkdirAll(filepath.Dir(p), 0o755))
		target, link := strings.CutPrefix(text, "-> ")
		switch {
		case strings.HasSuffix(name, "/"):
			must(t, os.MkdirAll(p, 0o755))
		case link:
			must(t, os.Symlink(target, p))
		default:
			must(t, os.WriteFile(p, []byte(text), 0o644))
		}
	}
}

const release = "6.1.0-test"

// site is a directory in which recipes are built. It has a busybox to fill trees with and a kernel
// that has everything built in.
type site struct {
	dir, tree string
	store     *store.Store
	out       bytes.Buffer
}

func newSite(t *testing.T) *site {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: a build makes mounts, and files of many owners")
	}
	s := &site{dir: t.TempDir()}
	for _, tool := range []string{"busybox", "mksquashfs"} {
		path, err := exec.LookPath(tool)
		if err != nil && os.Getenv("CI") == "true" {
			t.Fatalf("%s is missing (packages busybox-static, squashfs-tools)", tool)
		} else if err != nil {
			t.Skipf("%s is missing", tool)
		}
		if tool == "busybox" {
			must(t, os.Mkdir(filepath.Join(s.dir, "bin"), 0o755))
			data, err := os.ReadFile(path)
			must(t, err, os.WriteFile(filepath.Join(s.dir, "bin/busybox"), data, 0o755))
		}
	}
	lay(t, s.dir, map[string]string{
		"kernel/boot/vmlinuz-" + release:                     "a kernel",
		"kernel/boot/config-" + release:                      "CONFIG_PACKET=y\nCONFIG_SQUASHFS=y\nCONFIG_OVERLAY_FS=y\nCONFIG_BLK_DEV_NBD=y\nCONFIG_SQUASHFS_ZSTD=y\nCONFIG_RD_ZSTD=y\n",
		"kernel/lib/modules/" + release + "/modules.dep":     "kernel/none.ko:\n",
		"kernel/lib/modules/" + release + "/modules.builtin": "\n",
	})
	// The init is only an ELF header that says that the file is a program (elf(5)).
	init := slices.Concat([]byte("\x7fELF\x02\x01\x01"), make([]byte, 57))
	init[16], init[20], init[52] = 2, 1, 64
	must(t, os.WriteFile(filepath.Join(s.dir, "init"), init, 0o755))
	s.tree = filepath.Join(s.dir, "state/trees/tiny")
	var err error
	s.store, err = store.Create(filepath.Join(s.dir, "state/images"))
	must(t, err)
	mounts := mountinfo(t)
	t.Cleanup(func() {
		if d := diff.Diff(mounts, mountinfo(t)); d != "" {
			t.Errorf("mounts changed (-before +after):\n%s", d)
		}
		if left, _ := filepath.Glob(filepath.Join(filepath.Dir(s.tree), workPrefix+"*")); len(left) > 0 {
			t.Errorf("workspaces are left: %v", left)
		}
	})
	return s
}

func mountinfo(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	return string(data)
}

// tinySetup makes a tree that looks bootable to a build.
const tinySetup = `
%setup
    mkdir -p "$SINGULARITY_ROOTFS/bin"
    cp bin/busybox "$SINGULARITY_ROOTFS/bin/"
    for i in sh cat mkdir sleep setsid touch rm; do ln -sf busybox "$SINGULARITY_ROOTFS/bin/$i"; done
%files
    kernel/* /
`

const tiny = "Bootstrap: scratch\n" + tinySetup

// options returns the options for a build of a recipe, changed by adjust.
func (s *site) options(t testing.TB, text string, adjust func(*Options)) Options {
	t.Helper()
	s.out.Reset()
	opt := Options{
		Label: "tiny", Dir: s.dir, Tree: s.tree, LogDir: filepath.Join(s.dir, "state/logs"), Store: s.store,
		Init: filepath.Join(s.dir, "init"), Level: 1, Transport: handoff.NBD, Version: "test", Progress: term.New(&s.out, term.Options{}),
	}
	if adjust != nil {
		adjust(&opt)
	}
	var err error
	opt.Recipe, err = recipe.Parse("tiny.def", []byte(text), recipe.Options{Strict: opt.Strict})
	must(t, err)
	return opt
}

func (s *site) build(t testing.TB, text string, adjust func(*Options)) *Result {
	t.Helper()
	r, err := Run(t.Context(), s.options(t, text, adjust))
	if err != nil {
		var failed *Error
		if errors.As(err, &failed) {
			t.Log(strings.Join(failed.Tail, "\n"))
		}
		t.Fatal(err)
	}
	return r
}

// listing describes every file of a tree: type, mode, owner, path, content.
func listing(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	names := map[uint64]string{}
	must(t, filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		must(t, err, unix.Lstat(name, &st))
		rel := cmp.Or(strings.TrimPrefix(name, dir), "/")
		kind := map[uint32]string{unix.S_IFREG: "-", unix.S_IFDIR: "d", unix.S_IFLNK: "l", unix.S_IFIFO: "p", unix.S_IFCHR: "c"}[st.Mode&unix.S_IFMT]
		fmt.Fprintf(&b, "%s %04o %d:%d %s", kind, st.Mode&0o7777, st.Uid, st.Gid, rel)
		switch kind {
		case "l":
			target, err := os.Readlink(name)
			must(t, err)
			fmt.Fprintf(&b, " -> %s", target)
		case "c":
			fmt.Fprintf(&b, " %d,%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		case "-":
			if first := names[st.Ino]; first != "" {
				fmt.Fprintf(&b, " = %s", first)
				break
			}
			names[st.Ino] = rel
			fmt.Fprintf(&b, " %s", content(t, name))
		}
		attr := make([]byte, 256)
		if n, err := unix.Lgetxattr(name, "security.capability", attr); err == nil {
			fmt.Fprintf(&b, " capability=%s", hex.EncodeToString(attr[:n]))
		}
		if n, err := unix.Lgetxattr(name, "user.note", attr); err == nil {
			fmt.Fprintf(&b, " note=%s", attr[:n])
		}
		b.WriteByte('\n')
		return nil
	}))
	return b.String()
}

// content returns the text of a short file or the digest of a long one. The host's busybox has a
// fixed name, because its content differs between hosts.
func content(t testing.TB, name string) string {
	if filepath.Base(name) == "busybox" {
		return "busybox"
	}
	text, err := os.ReadFile(name)
	must(t, err)
	text = bytes.ReplaceAll(text, []byte(runtime.GOARCH), []byte("ARCH"))
	if len(text) <= 60 {
		return fmt.Sprintf("%q", text)
	}
	return fmt.Sprintf("%d bytes %s", len(text), shortDigest(text))
}

func imageOf(t *testing.T, s *site) string {
	t.Helper()
	im, err := s.store.Resolve("tiny")
	must(t, err)
	return im.Name()
}

func processesWith(arg string) []string {
	var found []string
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range all {
		if text, _ := os.ReadFile(p); strings.Contains(string(text), "\x00"+arg+"\x00") {
			found = append(found, p)
		}
	}
	return found
}
