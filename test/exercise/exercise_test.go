package main

import (
	"bytes"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// brief returns the options of a short run.
func brief(seed uint64) options {
	return options{seed: seed, ops: 800, workers: 2, files: 200, threads: 60, log: io.Discard}
}

// two returns directories of two local file systems, if the machine has two: they must not differ.
func two(t *testing.T) (dir, ref string) {
	dir = t.TempDir()
	ref, err := os.MkdirTemp("/dev/shm", "exercise-test-")
	if err != nil {
		return dir, t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(ref) })
	return dir, ref
}

// TestLocal runs all exercises on local file systems, each in turn as the one under test.
func TestLocal(t *testing.T) {
	dir, ref := two(t)
	for _, p := range parts() {
		for i, d := range [][2]string{{dir, ref}, {ref, dir}} {
			summary, err := p.run(t.Context(), brief(uint64(i+1)), d[0], d[1])
			if err != nil {
				t.Errorf("%s in %s: %v", p.name, d[0], err)
			}
			t.Logf("%s in %s: %s", p.name, d[0], summary)
		}
	}
	for _, d := range []string{dir, ref} {
		if left, err := os.ReadDir(d); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v %v", d, left, err)
		}
	}
}

// spoil changes the first file for which do does something, and reports whether there was one.
func spoil(t *testing.T, dir string, do func(p string, e fs.DirEntry) (bool, error)) (done bool) {
	filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err == nil && p != dir && !done {
			if done, err = do(p, e); err != nil {
				t.Error(err)
			}
		}
		return nil
	})
	return done
}

func regular(do func(p string) error) func(string, fs.DirEntry) (bool, error) {
	return func(p string, e fs.DirEntry) (bool, error) {
		if i, err := e.Info(); err != nil || !i.Mode().IsRegular() || i.Size() < 100 {
			return false, nil
		}
		return true, do(p)
	}
}

// flip changes one bit of the content, but neither times nor mode.
func flip(p string) error {
	var before unix.Stat_t
	if err := unix.Stat(p, &before); err != nil {
		return err
	}
	if err := unix.Chmod(p, 0o600); err != nil {
		return err
	}
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, 50); err != nil {
		return err
	}
	b[0] ^= 1
	if _, err := f.WriteAt(b, 50); err != nil {
		return err
	}
	if err := unix.Chmod(p, before.Mode&0o7777); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{before.Atim, before.Mtim}, 0)
}

func grow(p string) error {
	f, err := os.OpenFile(p, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString("x")
	return err
}

// TestFinds changes the directory under test in the middle of each exercise, in one way at a time.
// The exercise must find the change.
func TestFinds(t *testing.T) {
	for _, c := range []struct {
		part, fault string
		when        int // number of the operation before which it happens
		do          func(string, fs.DirEntry) (bool, error)
		want        string
	}{
		{"data", "a bit", 150, regular(flip), "differs from 0x32 to 0x32 in 1 bytes"},
		{"data", "a byte more", 150, regular(grow), "want"},
		{"data", "a lost file", 150, regular(os.Remove), "no such file"},
		{"data", "holes", 150, regular(func(p string) error { return unix.Truncate(p, 64) }), "has 64 bytes"},

		{"names", "a bit", 797, regular(flip), "differ"},
		{"names", "a mode", 797, regular(func(p string) error { return unix.Chmod(p, 0o4123) }), "want"},
		{"names", "a time", 797, regular(func(p string) error { return unix.Utime(p, &unix.Utimbuf{Modtime: 12345}) }), "12345.0"},
		{"names", "a link more", 797, regular(func(p string) error { return os.Link(p, filepath.Join(filepath.Dir(p), "more")) }), "links"},
		{"names", "a lost file", 797, regular(os.Remove), "is missing"},

		{"readdir", "a lost entry", 1, regularOrNot(os.Remove), "was listed 0 times, want once"},
		{"readdir", "an entry more", 3, regularOrNot(func(p string) error { return os.Mkdir(p+"more", 0o700) }), "exists: false"},

		{"root", "a bit", 100, regular(flip), "the trees differ"},
		{"root", "a mode", 100, regular(func(p string) error { return unix.Chmod(p, 0o123) }), "0100123"},
		{"root", "a time", 100, regular(func(p string) error { return unix.Utime(p, &unix.Utimbuf{Modtime: 12345}) }), "12345.0"},
		{"root", "a lost link", 100, linked(os.Remove), "is missing"},
		{"root", "a link less", 100, linked(func(p string) error { return command(t.Context(), "cp", "--remove-destination", "-a", p, p+"~") }), "the trees differ"},
	} {
		t.Run(c.part+"/"+c.fault, func(t *testing.T) {
			ref, dir := two(t) // the directory under test is in memory, which is fast
			o, done := brief(1), false
			o.disturb = func(n int, d string) {
				if n >= c.when && !done {
					done = spoil(t, d, c.do)
				}
			}
			if c.part == "data" {
				o.workers = 1
			}
			for _, p := range parts() {
				if p.name != c.part {
					continue
				}
				summary, err := p.run(t.Context(), o, dir, ref)
				if !done || err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%s: %v, want an error that says %q; spoiled: %v", summary, err, c.want, done)
				}
			}
		})
	}
}

// regularOrNot selects entries that can be removed, except for the first few.
func regularOrNot(do func(p string) error) func(string, fs.DirEntry) (bool, error) {
	n := 0
	return func(p string, _ fs.DirEntry) (bool, error) {
		n++
		return n > 50, map[bool]func(string) error{true: do, false: func(string) error { return nil }}[n > 50](p)
	}
}

// linked selects files that have another name.
func linked(do func(p string) error) func(string, fs.DirEntry) (bool, error) {
	return func(p string, _ fs.DirEntry) (bool, error) {
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink < 2 {
			return false, nil
		}
		return true, do(p)
	}
}

// TestTornVersion checks that a reader of a file that is replaced detects a torn version.
func TestTornVersion(t *testing.T) {
	p := filepath.Join(t.TempDir(), "current")
	for name, c := range map[string]struct {
		text []byte
		last byte
		want string
	}{
		"whole": {[]byte{3, 3, 3}, 3, ""},
		"older": {[]byte{3, 3, 3}, 4, "saw version 3 after 4"},
		"torn":  {[]byte{3, 3, 4}, 3, "two at once"},
		"short": {[]byte{3, 3}, 3, "has 2 bytes, want 3"},
		"empty": {nil, 3, "has 0 bytes, want 3"},
	} {
		if err := os.WriteFile(p, c.text, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := readVersion(p, 3, c.last)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestSameSeed checks that a seed determines the sequence of operations, so that a report can be
// reproduced.
func TestSameSeed(t *testing.T) {
	dir, ref := two(t)
	for _, p := range []part{parts()[0], parts()[1]} {
		var logs [2]bytes.Buffer
		for i := range logs {
			o := brief(7)
			o.workers, o.log = 1, &logs[i]
			if _, err := p.run(t.Context(), o, dir, ref); err != nil {
				t.Fatal(err)
			}
		}
		if a, b := logs[0].String(), logs[1].String(); a != b || strings.Count(a, "\n") < 500 {
			t.Errorf("%s: the same seed made %d and %d bytes of operations", p.name, len(a), len(b))
		}
	}
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"stroll", "/tmp"}, `there is no exercise "stroll"`},
		{[]string{"names", "/tmp"}, "names: the directory and the reference are required"},
		{[]string{"data"}, "data: the directory is required"},
		{[]string{"all", "/nonexistent"}, "all: the directory and the reference are required"},
		{[]string{"data", "/nonexistent"}, "/nonexistent"},
	} {
		if err := run(t.Context(), c.args, io.Discard, io.Discard); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.args, err, c.want)
		}
	}
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-seed", "5", "-ops", "50", "-workers", "1", "data", t.TempDir()}, &out, io.Discard); err != nil ||
		!strings.Contains(out.String(), "data: 50 operations of 1 workers") || !strings.Contains(out.String(), "(-seed 5)") {
		t.Errorf("%v %q", err, out.String())
	}
}

// TestConfined makes random calls with root's rights and through links to arbitrary places. None
// may reach files outside.
func TestConfined(t *testing.T) {
	if !confined() {
		n := &names{rng: rand.New(rand.NewPCG(1, 0)), journal: &journal{}}
		for range 5000 {
			if text := n.symlink().text; strings.Contains(text, `"/`) || strings.Contains(text, `"..`) {
				t.Fatalf("a link leads out: %s", text)
			}
		}
		return
	}
	work := t.TempDir()
	if err := os.MkdirAll(filepath.Join(work, top), 0o755); err != nil {
		t.Fatal(err)
	}
	a, err := newActor(users()[0], work, top)
	if err != nil {
		t.Fatal(err)
	}
	defer close(a.todo)
	for _, target := range []string{"/", "../../../../../..", "/proc/self/root", work} {
		got := a.run(func() string {
			unix.Unlink("out")
			if err := unix.Symlink(target, "out"); err != nil {
				return errno(err)
			}
			var st unix.Stat_t
			return errno(unix.Stat("out/etc/passwd", &st)) + errno(unix.Stat("/etc/passwd", &st))
		})
		if got != "ENOENTENOENT" {
			t.Errorf("by a link to %s: %s", target, got)
		}
	}
}
