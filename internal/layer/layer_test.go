package layer

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// describe lists a tree, one line a file, with everything that a layer keeps.
func describe(t *testing.T, dir string) []string {
	t.Helper()
	var lines []string
	first := make(map[uint64]string)
	err := filepath.WalkDir(dir, func(file string, _ fs.DirEntry, err error) error {
		if err != nil || file == dir {
			return err
		}
		fi, err := os.Lstat(file)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, file)
		st := fi.Sys().(*syscall.Stat_t)
		line := fmt.Sprintf("%s %o %d:%d %s", rel, st.Mode, st.Uid, st.Gid, fi.ModTime().UTC().Format(time.RFC3339Nano))
		switch fi.Mode().Type() {
		case 0:
			b, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %.40q", b)
			if f, ok := first[st.Ino]; ok {
				line += " same as " + f
			} else {
				first[st.Ino] = rel
			}
		case fs.ModeSymlink:
			target, _ := os.Readlink(file)
			line += " -> " + target
		default:
			line += fmt.Sprintf(" dev %d", st.Rdev)
		}
		x, err := readXattrs(file)
		if err != nil {
			return err
		}
		lines = append(lines, fmt.Sprintf("%s %q", line, x))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// sample makes a tree with one file of every kind that this user may make.
func sample(t *testing.T, dir string) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	p := func(s string) string { return filepath.Join(dir, s) }
	must(os.MkdirAll(p("etc/ssh/empty"), 0o755))
	must(os.MkdirAll(p("usr/bin"), 0o755))
	must(os.WriteFile(p("etc/motd"), []byte("hello\n"), 0o644))
	must(os.WriteFile(p("etc/ssh/key"), bytes.Repeat([]byte("x"), 9000), 0o600))
	must(os.WriteFile(p("etc/nothing"), nil, 0o444))
	must(os.WriteFile(p("usr/bin/su"), []byte("#!\n"), 0o755))
	must(os.WriteFile(p("etc/"+strings.Repeat("long", 50)), nil, 0o644))
	must(os.WriteFile(p("etc/caf\xe9 \n\xff"), nil, 0o644))
	must(os.Link(p("usr/bin/su"), p("usr/bin/su2")))
	must(os.Symlink("usr/bin", p("bin")))
	must(os.Symlink("/run/motd", p("etc/motd.dynamic")))
	must(unix.Mkfifo(p("etc/pipe"), 0o640))
	if os.Getuid() == 0 {
		must(unix.Mknod(p("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		must(unix.Mknod(p("disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 1<<18|7))))
		must(os.Lchown(p("usr/bin/su"), 1000, 70000))
		must(os.Lchown(p("bin"), 3, 4))
		// cap_net_raw+ep, as setcap writes it (VFS_CAP_REVISION_2).
		must(unix.Lsetxattr(p("etc/motd"), "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	}
	if err := unix.Lsetxattr(p("etc/motd"), "user.empty", nil, 0); err == nil {
		must(unix.Lsetxattr(p("usr"), "user.note", []byte("a\nb\x00=c"), 0))
	}
	must(unix.Chmod(p("usr/bin/su"), 0o4755))
	must(unix.Chmod(p("usr"), 0o1555))
	old := unix.NsecToTimespec(time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC).UnixNano())
	for _, f := range []string{"etc/motd", "etc/motd.dynamic", "usr", "usr/bin", "etc/ssh/empty", "etc"} {
		must(unix.UtimesNanoAt(unix.AT_FDCWD, p(f), []unix.Timespec{old, old}, unix.AT_SYMLINK_NOFOLLOW))
	}
	t.Cleanup(func() { os.Chmod(p("usr"), 0o755) })
}

func apply(t *testing.T, dir string, archive []byte) error {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	return Apply(root, bytes.NewReader(archive))
}

func TestFromDirAndApplyKeepEverything(t *testing.T) {
	src, dst := t.TempDir(), t.TempDir()
	sample(t, src)
	var archive, again bytes.Buffer
	digest, err := FromDir(&archive, src, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := Digest(archive.Bytes()); digest != want {
		t.Errorf("digest %s, of the bytes %s", digest, want)
	}
	if d2, err := FromDir(&again, src, nil); err != nil || d2 != digest {
		t.Errorf("a second archive of the same tree is another: %s, %s (%v)", digest, d2, err)
	}
	t.Cleanup(func() { os.Chmod(filepath.Join(dst, "usr"), 0o755) })
	want := describe(t, src)
	for _, pass := range []string{"first", "over itself"} {
		if err := apply(t, dst, archive.Bytes()); err != nil {
			t.Fatalf("%s: %v", pass, err)
		}
		if diff := cmp.Diff(want, describe(t, dst)); diff != "" {
			t.Errorf("%s (-source +applied):\n%s", pass, diff)
		}
		os.Chmod(filepath.Join(dst, "usr"), 0o755)
	}
}

// GNU tar must read our archives as we do, and we must read those of GNU tar.
func TestGNUTarAgrees(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root: owners and devices")
	}
	gnutar := needTool(t, "tar")
	src, dst, back := t.TempDir(), t.TempDir(), t.TempDir()
	sample(t, src)
	want := describe(t, src)

	var archive bytes.Buffer
	if _, err := FromDir(&archive, src, nil); err != nil {
		t.Fatal(err)
	}
	run(t, &archive, nil, gnutar, "-C", dst, "-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-f", "-")
	if diff := cmp.Diff(want, describe(t, dst)); diff != "" {
		t.Errorf("extracted by tar (-source +tar):\n%s", diff)
	}

	var theirs bytes.Buffer
	run(t, nil, &theirs, gnutar, "-C", src, "-c", "--format=posix", "--xattrs", "--xattrs-include=*", "-f", "-", ".")
	if err := apply(t, back, theirs.Bytes()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, describe(t, back)); diff != "" {
		t.Errorf("archive of tar, applied (-source +applied):\n%s", diff)
	}
}

func TestBuilder(t *testing.T) {
	uid, gid := os.Getuid(), os.Getgid()
	fill := func(b *Builder, order ...int) {
		add := []func(){
			func() { b.AddFile("root/.ssh/authorized_keys", 0o600, uid, gid, []byte("ssh-ed25519 AAAA\n")) },
			func() { b.AddDir("root/.ssh", 0o700, uid, gid) },
			func() { b.AddFile("usr/bin/tool", 0o4711, uid, gid, nil) },
		}
		for _, i := range order {
			add[i]()
		}
	}
	var one, two Builder
	fill(&one, 0, 1, 2)
	fill(&two, 2, 1, 0)
	a, err := one.Archive()
	if err != nil {
		t.Fatal(err)
	}
	b, err := two.Archive()
	if err != nil {
		t.Fatal(err)
	}
	if Digest(a) != Digest(b) {
		t.Error("the order of adding shows in the archive")
	}
	dir := t.TempDir()
	if err := apply(t, dir, a); err != nil {
		t.Fatal(err)
	}
	own := fmt.Sprintf("%d:%d 1970-01-01T00:00:00Z", uid, gid)
	want := []string{
		"root/.ssh 40700 " + own + " dev 0 map[]",
		"root/.ssh/authorized_keys 100600 " + own + ` "ssh-ed25519 AAAA\n" map[]`,
		"usr/bin/tool 104711 " + own + ` "" map[]`,
	}
	var got []string
	for _, line := range describe(t, dir) {
		if !strings.HasPrefix(line, "root 4") && !strings.HasPrefix(line, "usr 4") && !strings.HasPrefix(line, "usr/bin 4") {
			got = append(got, line)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestBuilderRefuses(t *testing.T) {
	for _, names := range [][]string{{"/etc/passwd"}, {"../x"}, {"a/../b"}, {""}, {"."}, {"a\x00b"}, {"a", "./a"}} {
		var b Builder
		for _, n := range names {
			b.AddFile(n, 0o644, 0, 0, nil)
		}
		if _, err := b.Archive(); err == nil {
			t.Errorf("%q: accepted", names)
		}
	}
}

func TestFromDirLeavesOutSocketsAndItself(t *testing.T) {
	dir := t.TempDir()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, "s")}); err != nil {
		t.Skip(err) // a temporary directory with a long name
	}
	var out bytes.Buffer
	if _, err := FromDir(&out, dir, nil); err != nil {
		t.Fatal(err)
	}
	if hdr, err := tar.NewReader(&out).Next(); err != io.EOF {
		t.Errorf("%+v, %v", hdr, err)
	}
	if _, err := FromDir(io.Discard, filepath.Join(dir, "none"), nil); err == nil {
		t.Error("a missing directory gives no error")
	}
	file := filepath.Join(dir, "f")
	os.WriteFile(file, nil, 0o644)
	if _, err := FromDir(io.Discard, file, nil); err == nil {
		t.Error("a file gives no error")
	}
}

func needTool(t *testing.T, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return p
}

func run(t *testing.T, in io.Reader, out io.Writer, argv ...string) {
	t.Helper()
	cmd := exec.Command(argv[0], argv[1:]...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, &stderr)
	}
}

func TestBelow(t *testing.T) {
	var b Builder
	b.AddDir("run", 0o755, 0, 0)
	b.AddFile("run/netroot/key", 0o600, 0, 0, nil)
	inside, err := b.Archive()
	if err != nil {
		t.Fatal(err)
	}
	if err := Below(inside, "run"); err != nil {
		t.Error(err)
	}
	b.AddFile("running", 0o600, 0, 0, nil)
	outside, err := b.Archive()
	if err != nil {
		t.Fatal(err)
	}
	if err := Below(outside, "run"); err == nil || !strings.Contains(err.Error(), `"running": is not below run/`) {
		t.Errorf("%v", err)
	}
	if err := Below(inside[:600], "run"); err == nil {
		t.Error("half an archive is below anything")
	}
}
