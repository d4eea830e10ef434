package build

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestWorkspace(t *testing.T) {
	parent := t.TempDir()
	tree := filepath.Join(parent, "trees/a-1")
	lay(t, parent, map[string]string{
		"trees/.build-a-1-123/stage1/f": "left by a killed build", "trees/.build-a-1-x/f": "not ours", "trees/.build-a-2-123/f": "another label's",
	})
	w, err := openWorkspace(tree, "a-1", false)
	must(t, err)
	left, err := filepath.Glob(filepath.Join(parent, "trees/.build-*"))
	must(t, err)
	want := []string{".build-a-1-x", ".build-a-2-123", filepath.Base(w.dir)}
	for i := range left {
		left[i] = filepath.Base(left[i])
	}
	if d := cmp.Diff(map[string]bool{want[0]: true, want[1]: true, want[2]: true}, set(left)); d != "" {
		t.Errorf("content of the directory of the trees (-want +got):\n%s", d)
	}
	_, err = openWorkspace(tree, "a-1", false)
	if want := fmt.Sprintf("the tree of a-1 is in use by another netroot build (process %d): wait", os.Getpid()); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("a second build: %v; want %q", err, want)
	}

	// The first takes an empty place, the second the place of an old tree.
	for i, text := range []string{"first", "second"} {
		stage := filepath.Join(w.dir, fmt.Sprint("stage", i))
		lay(t, stage, map[string]string{"f": text})
		must(t, w.publish(stage))
		if got, err := os.ReadFile(filepath.Join(tree, "f")); err != nil || string(got) != text {
			t.Errorf("published %q, %v; want %q", got, err, text)
		}
	}
	must(t, w.close(t.Errorf))
	if _, err := os.Lstat(w.dir); !os.IsNotExist(err) {
		t.Errorf("the workspace is left: %v", err)
	}
	l, err := lockTree(tree, "a-1", "shell")
	must(t, err)
	must(t, l.close())
	if left, _ := filepath.Glob(sibling(tree, ".lock")); len(left) != 0 {
		t.Errorf("left beside the tree: %v", left)
	}
}

// Only root and its group reach the trees, also those that an older netroot has left open.
func TestTreesAreClosedToOthers(t *testing.T) {
	top := t.TempDir()
	must(t, os.Chmod(top, 0o755), os.Chmod(filepath.Dir(top), 0o755)) // as t.TempDir makes them, they are private
	if open, err := openToOthers(top); err != nil || !open {
		t.Skipf("a parent of %s is closed to others: %v", top, err)
	}
	for _, c := range []struct {
		name  string
		files map[string]string
		mode  os.FileMode // of the directory of the trees before, 0 if there is none
		want  os.FileMode
		warns bool
	}{
		{"new", nil, 0, 0o700, false},
		{"older", map[string]string{"a/.singularity.d/x": "", ".a.lock": ""}, 0o755, 0o750, false},
		{"private", map[string]string{"home/thesis": ""}, 0o750, 0o750, false},
		{"shared", map[string]string{"home/thesis": ""}, 0o755, 0o755, true},
	} {
		parent := filepath.Join(top, c.name)
		if c.mode != 0 {
			must(t, os.Mkdir(parent, 0o755), os.Chmod(parent, c.mode))
		}
		lay(t, parent, c.files)
		w, err := openWorkspace(filepath.Join(parent, "new"), "new", false)
		must(t, err)
		fi, err := os.Stat(parent)
		must(t, err)
		if fi.Mode().Perm() != c.want || (len(w.warnings) == 1) != c.warns {
			t.Errorf("%s: mode %v with warnings %v, want %v", c.name, fi.Mode().Perm(), w.warnings, c.want)
		}
		must(t, w.close(t.Errorf))
	}
}

// What the directory of the trees gives to all that is made in it does not get into a tree.
func TestInheritsNothing(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "trees")
	must(t, os.Mkdir(parent, 0o755), os.Chmod(parent, 0o2755|os.ModeSetgid))
	// user::rwx, group::rwx, other::rwx, as acl(5) has them on disk: version 2, then tag, permissions and id.
	acl := []byte("\x02\x00\x00\x00" + "\x01\x00\x07\x00\xff\xff\xff\xff" + "\x04\x00\x07\x00\xff\xff\xff\xff" + "\x20\x00\x07\x00\xff\xff\xff\xff")
	if err := unix.Setxattr(parent, "system.posix_acl_default", acl, 0); err != nil {
		t.Logf("without access control lists: %v", err)
	}
	w, err := openWorkspace(filepath.Join(parent, "a"), "a", false)
	must(t, err)
	stage := filepath.Join(w.dir, "stage1")
	must(t, os.Mkdir(stage, 0o755), os.WriteFile(filepath.Join(stage, "f"), nil, 0o644))
	for path, want := range map[string]os.FileMode{w.dir: os.ModeDir | 0o700, stage: os.ModeDir | 0o755, filepath.Join(stage, "f"): 0o644} {
		if fi, err := os.Stat(path); err != nil || fi.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", path, fi.Mode(), err, want)
		}
		if _, err := unix.Getxattr(path, "system.posix_acl_access", nil); err == nil {
			t.Errorf("%s has an access control list", path)
		}
	}
	must(t, w.close(t.Errorf))
}

// A file that chattr has fixed is removed with its tree, and one that cannot be removed is not the end of a build.
func TestRemoveFixedFiles(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "trees")
	left := filepath.Join(parent, ".build-a-1")
	lay(t, left, map[string]string{"etc/resolv.conf": "", "var/log/log": ""})
	if !fix(t, filepath.Join(left, "etc/resolv.conf"), 0x10) || !fix(t, filepath.Join(left, "var/log"), 0x20) {
		t.Skip("needs root and a file system with attributes")
	}
	w, err := openWorkspace(filepath.Join(parent, "a"), "a", false)
	must(t, err)
	if _, err := os.Lstat(left); !os.IsNotExist(err) || len(w.warnings) > 0 {
		t.Errorf("the workspace of a killed build is left: %v, %v", err, w.warnings)
	}
	must(t, w.close(t.Errorf))

	must(t, os.MkdirAll(left+"/mnt", 0o755), unix.Mount("tmpfs", left+"/mnt", "tmpfs", 0, "size=64k"))
	defer unix.Unmount(left+"/mnt", 0)
	w, err = openWorkspace(filepath.Join(parent, "a"), "a", false)
	must(t, err)
	if len(w.warnings) != 1 || !strings.Contains(w.warnings[0].Error(), left+"/mnt is a mount point: unmount it") {
		t.Errorf("with a mount in what is left: %v", w.warnings)
	}
	must(t, w.close(t.Errorf))
}

// fix sets attributes of chattr(1), and returns whether that is possible here. They are removed in the end.
func fix(t *testing.T, path string, flags int) bool {
	set := func(flags int) error {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags)
	}
	t.Cleanup(func() { set(0) })
	return set(flags) == nil
}

// TestLockIsOnes checks that only one process holds the lock, although the lock file comes and
// goes.
func TestLockIsOnes(t *testing.T) {
	tree := filepath.Join(t.TempDir(), "tree")
	var holders, most atomic.Int32
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			for range 200 {
				l, err := lockTree(tree, "x", "shell")
				if err != nil {
					continue // another holder has it
				}
				if n := holders.Add(1); n > most.Load() {
					most.Store(n)
				}
				runtime.Gosched()
				holders.Add(-1)
				if err := l.close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	group.Wait()
	if most.Load() != 1 {
		t.Errorf("%d had the lock at once", most.Load())
	}
}

func set(list []string) map[string]bool {
	m := map[string]bool{}
	for _, s := range list {
		m[s] = true
	}
	return m
}

// TestReplaceable checks that a build does not replace a directory that holds other files.
func TestReplaceable(t *testing.T) {
	for _, tc := range []struct {
		name  string
		files map[string]string
		force bool
		want  string
	}{
		{"nothing", nil, false, ""},
		{"empty", map[string]string{"tree/": ""}, false, ""},
		{"a tree", map[string]string{"tree/.singularity.d/env/x": ""}, false, ""},
		{"a home", map[string]string{"tree/thesis.tex": ""}, false, "was not built by netroot or Apptainer"},
		{"a home, by force", map[string]string{"tree/thesis.tex": ""}, true, ""},
		{"a file", map[string]string{"tree": ""}, true, "is not a directory"},
		{"a link", map[string]string{"tree": "-> /"}, true, "is not a directory"},
	} {
		dir := t.TempDir()
		lay(t, dir, tc.files)
		err := replaceable(filepath.Join(dir, "tree"), tc.force)
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
}

func TestMountsAreLeftAlone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
	dir := filepath.Join(t.TempDir(), "a b")
	lay(t, dir, map[string]string{"f": "", "mnt/": ""})
	must(t, unix.Mount("tmpfs", filepath.Join(dir, "mnt"), "tmpfs", 0, ""))
	defer unix.Unmount(filepath.Join(dir, "mnt"), unix.MNT_DETACH)
	lay(t, dir, map[string]string{"mnt/dear": ""})
	want := filepath.Join(dir, "mnt") + " is a mount point"
	if err := removeTree(dir); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("remove: %v, want %q", err, want)
	}
	if err := replaceable(dir, true); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("replace: %v, want %q", err, want)
	}
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(dir, link))
	if err := removeTree(link + "/mnt"); err == nil {
		t.Error("a mount point behind a link was removed")
	}
	if _, err := os.Stat(filepath.Join(dir, "mnt/dear")); err != nil {
		t.Error(err)
	}
	must(t, unix.Unmount(filepath.Join(dir, "mnt"), 0), removeTree(dir), removeTree(dir))
}

func TestLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	l, err := newLog(dir, "tiny")
	must(t, err)
	if tail := l.tail(); tail != nil {
		t.Errorf("the tail of nothing is %q", tail)
	}
	fmt.Fprint(l, "of another part\n")
	l.mark()
	for i := range 50 {
		fmt.Fprintf(l, "line %d\n", i)
	}
	tail := l.tail()
	if len(tail) != tailLines || tail[0] != "line 10" || tail[tailLines-1] != "line 49" {
		t.Errorf("tail %q", tail)
	}
	l.mark()
	fmt.Fprint(l, strings.Repeat(strings.Repeat("x", 999)+"\n", 1000)+"bad \xff byte, no newline")
	if tail := l.tail(); len(tail) != tailLines || tail[tailLines-1] != "bad ? byte, no newline" || len(l.last) > 128<<10 {
		t.Errorf("tail of %d lines ends in %q; %d bytes are kept", len(tail), tail[len(tail)-1], len(l.last))
	}
	must(t, l.Close())
	fi, err := os.Stat(l.Name())
	must(t, err)
	if fi.Mode().Perm() != 0o600 || fi.Size() < 1000*1000 {
		t.Errorf("the log is %v with %d bytes", fi.Mode(), fi.Size())
	}
	if l, err = newLog(dir, "tiny"); err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(l.Name()); err != nil || fi.Size() != 0 {
		t.Errorf("a second build's log begins with the first one's: %v", err)
	}
	must(t, l.Close())
}
