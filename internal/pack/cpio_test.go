package pack_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"netroot/internal/pack"
)

// archive writes an entry of every kind.
func archive(t *testing.T, modTime time.Time) []byte {
	t.Helper()
	var out bytes.Buffer
	c := pack.NewCPIO(&out)
	c.ModTime = modTime
	write := func(name string, perm fs.FileMode, data string) error {
		return c.WriteFile(name, perm, int64(len(data)), strings.NewReader(data))
	}
	for _, err := range []error{
		c.Mkdir("tmp", fs.ModeSticky|0o777),
		c.Device("/dev/console", fs.ModeDevice|fs.ModeCharDevice|0o600, 5, 1),
		c.Device("dev/nbd3", fs.ModeDevice|0o660, 43, 300),
		write("/init", 0o755, "12345"),
		write("bin/su", fs.ModeSetuid|fs.ModeSetgid|0o750, strings.Repeat("x", 4096)),
		write("lib/empty", 0o444, ""),
		write("lib/naïve ☃", 0o644, "u"),
		c.Symlink("lib/here", "../bin/su"),
		c.Close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}

// TestCPIOListing makes GNU cpio list the archive.
func TestCPIOListing(t *testing.T) {
	cmd := exec.Command(tool(t, "cpio"), "-itv", "--numeric-uid-gid")
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC")
	cmd.Stdin = bytes.NewReader(archive(t, time.Time{}))
	var got []string
	for line := range strings.Lines(output(t, cmd)) {
		if strings.HasSuffix(line, "blocks\n") {
			continue
		}
		got = append(got, strings.Join(strings.Fields(line), " "))
	}
	want := []string{
		"drwxrwxrwt 2 0 0 0 Jan 1 1970 tmp",
		"drwxr-xr-x 2 0 0 0 Jan 1 1970 dev",
		"crw------- 1 0 0 5, 1 Jan 1 1970 dev/console",
		"brw-rw---- 1 0 0 43, 300 Jan 1 1970 dev/nbd3",
		"-rwxr-xr-x 1 0 0 5 Jan 1 1970 init",
		"drwxr-xr-x 2 0 0 0 Jan 1 1970 bin",
		"-rwsr-s--- 1 0 0 4096 Jan 1 1970 bin/su",
		"drwxr-xr-x 2 0 0 0 Jan 1 1970 lib",
		"-r--r--r-- 1 0 0 0 Jan 1 1970 lib/empty",
		"-rw-r--r-- 1 0 0 1 Jan 1 1970 lib/naïve ☃",
		"lrwxrwxrwx 1 0 0 9 Jan 1 1970 lib/here -> ../bin/su",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// TestCPIOExtraction makes GNU cpio unpack the archive, and compares contents and times.
func TestCPIOExtraction(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making device nodes needs root")
	}
	dir, when := t.TempDir(), time.Unix(1700000000, 999)
	cmd := exec.Command(tool(t, "cpio"), "-idm", "--quiet")
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(archive(t, when))
	output(t, cmd)
	for name, want := range map[string]string{"init": "12345", "lib/here": strings.Repeat("x", 4096), "lib/naïve ☃": "u"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %.20q %v", name, got, err)
		}
	}
	info, err := os.Lstat(filepath.Join(dir, "bin/su"))
	if err != nil || info.Mode() != fs.ModeSetuid|fs.ModeSetgid|0o750 || info.ModTime().Unix() != when.Unix() {
		t.Errorf("bin/su: %v %v %v", info.Mode(), info.ModTime(), err)
	}
}

func TestCPIOIsDeterministic(t *testing.T) {
	if a, b := archive(t, time.Time{}), archive(t, time.Time{}); !bytes.Equal(a, b) {
		t.Error("the same calls wrote different bytes")
	}
	if a, b := archive(t, time.Unix(-5, 0)), archive(t, time.Time{}); !bytes.Equal(a, b) {
		t.Error("a time before 1970 is not written as 1970")
	}
	if n := len(archive(t, time.Time{})); n%4 != 0 {
		t.Errorf("%d bytes: an archive after this one would not be aligned", n)
	}
}

type fullDisk struct{ room int }

var errFull = errors.New("disk full")

func (f *fullDisk) Write(b []byte) (int, error) {
	if f.room -= len(b); f.room < 0 {
		return 0, errFull
	}
	return len(b), nil
}

func TestCPIOErrors(t *testing.T) {
	c := pack.NewCPIO(io.Discard)
	one := strings.NewReader("")
	for _, s := range []struct {
		err  error
		want string
	}{
		{c.Mkdir("", 0o755), `"" is not a valid file name`},
		{c.Mkdir("/", 0o755), `"/" is not a valid file name`},
		{c.Mkdir("../etc", 0o755), `"../etc" is not a valid file name`},
		{c.Mkdir("a\x00b", 0o755), "is not a valid file name"},
		{c.Symlink("TRAILER!!!", "x"), "is not a valid file name"},
		{c.Symlink("l", ""), "cannot be the target"},
		{c.WriteFile("big", 0o644, 1<<32, one), "big has 4294967296 bytes, but the format allows less than 4 GiB"},
		{c.WriteFile("short", 0o644, 3, strings.NewReader("ab")), "has only 2 of 3 bytes"},
		{c.WriteFile("etc/a", 0o644, 0, one), ""},
		{c.WriteFile("etc//a", 0o644, 0, one), "etc/a was already written"},
		{c.Mkdir("etc", 0o700), "etc was already written"},
		{c.Mkdir("etc/a/b", 0o700), "etc/a is not a directory"},
	} {
		if s.want == "" && s.err != nil || s.want != "" && (s.err == nil || !strings.Contains(s.err.Error(), s.want)) {
			t.Errorf("%v, want %q", s.err, s.want)
		}
	}
	for room := range 400 {
		c := pack.NewCPIO(&fullDisk{room})
		err := errors.Join(c.WriteFile("a", 0o644, 1, strings.NewReader("x")), c.Close())
		if room < 112+4+124 && !errors.Is(err, errFull) || room >= 112+4+124 && err != nil {
			t.Fatalf("room for %d bytes: %v", room, err)
		}
	}
}

func BenchmarkCPIO(b *testing.B) {
	data := make([]byte, 256<<10)
	b.SetBytes(int64(len(data)))
	c := pack.NewCPIO(io.Discard)
	for i := 0; b.Loop(); i++ {
		if err := c.WriteFile(strings.Repeat("d/", 5)+time.Duration(i).String(), 0o644, int64(len(data)), bytes.NewReader(data)); err != nil {
			b.Fatal(err)
		}
	}
}
