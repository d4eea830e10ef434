package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// newTree makes a tree with a file of every kind that the caller may make.
func newTree(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tree")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(dir, "etc/empty"), 0o755))
	must(os.WriteFile(filepath.Join(dir, "etc/motd"), []byte("hello\n"), 0o640))
	must(os.Link(filepath.Join(dir, "etc/motd"), filepath.Join(dir, "etc/motd2")))
	must(os.Symlink("/etc/motd", filepath.Join(dir, "link")))
	must(os.Symlink("nowhere", filepath.Join(dir, "dangling")))
	must(unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	must(os.WriteFile(filepath.Join(dir, "odd\nname \xff"), []byte{0}, 0o4755))
	must(os.Chmod(filepath.Join(dir, "odd\nname \xff"), 0o755|fs.ModeSetuid|fs.ModeSticky))
	hole, err := os.Create(filepath.Join(dir, "hole"))
	must(err)
	must(hole.Truncate(16 << 20))
	_, err = hole.WriteAt([]byte("end"), 16<<20-3)
	must(errors.Join(err, hole.Close()))
	if err := unix.Lsetxattr(filepath.Join(dir, "etc/motd"), "user.note", []byte("x"), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		addRootOnly(t, dir, must)
	}
	old := time.Unix(1_000_000_000, 123_456_789)
	must(filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		must(err)
		ts := []unix.Timespec{unix.NsecToTimespec(old.UnixNano()), unix.NsecToTimespec(old.UnixNano())}
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW)
	}))
	must(os.Chmod(dir, 0o751))
	must(os.Chtimes(dir, old, old))
	return dir
}

func addRootOnly(t *testing.T, dir string, must func(error)) {
	t.Helper()
	file := filepath.Join(dir, "ping")
	must(os.WriteFile(file, []byte("ELF"), 0o755))
	must(os.Lchown(file, 12, 34))
	must(os.Lchown(filepath.Join(dir, "dangling"), 1, 2))
	// vfs_cap_data, version 2, effective, CAP_NET_RAW: linux/capability.h.
	must(unix.Lsetxattr(file, "security.capability", []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0))
	// posix_acl_xattr: user::rwx user:7:r-- group::r-x mask::r-x other::r-x
	acl := []byte{2, 0, 0, 0}
	for _, e := range [][2]uint32{{0x01 | 7<<16, ^uint32(0)}, {0x02 | 4<<16, 7}, {0x04 | 5<<16, ^uint32(0)}, {0x10 | 5<<16, ^uint32(0)}, {0x20 | 5<<16, ^uint32(0)}} {
		acl = append(acl, byte(e[0]), byte(e[0]>>8), byte(e[0]>>16), byte(e[0]>>24), byte(e[1]), byte(e[1]>>8), byte(e[1]>>16), byte(e[1]>>24))
	}
	if err := unix.Lsetxattr(filepath.Join(dir, "etc/empty"), "system.posix_acl_default", acl, 0); !errors.Is(err, unix.ENOTSUP) {
		must(err)
	}
	must(unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(unix.Mknod(filepath.Join(dir, "disk"), unix.S_IFBLK|0o660, int(unix.Mkdev(8, 0))))
}

// look describes every file of a tree. A further hard link is described by the first name.
func look(t *testing.T, dir string) []string {
	t.Helper()
	first := map[uint64]string{}
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		name := strings.TrimPrefix(path, dir)
		line := fmt.Sprintf("%q %o %d:%d %d %d.%09d", name, st.Mode, st.Uid, st.Gid, st.Rdev, st.Mtim.Sec, st.Mtim.Nsec)
		if attrs, err := xattrs(path); err != nil || attrs != nil {
			line += fmt.Sprintf(" %q %v", attrs, err)
		}
		switch d.Type() {
		case fs.ModeSymlink:
			target, _ := os.Readlink(path)
			line += " -> " + target
		case 0:
			if same, ok := first[st.Ino]; ok {
				out = append(out, line+" = "+same)
				return nil
			}
			first[st.Ino] = name
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d in %v %x", st.Size, st.Blocks*512 < st.Size, bytes.TrimLeft(content, "\x00"))
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func newCache(t *testing.T, opt Options) *Cache {
	return New(filepath.Join(t.TempDir(), "cache"), opt)
}

func save(t *testing.T, c *Cache, key Key, tree, what string) {
	t.Helper()
	if err := c.Save(t.Context(), key, tree, Meta{What: what, Took: time.Second}); err != nil {
		t.Fatal(err)
	}
}

func whats(t *testing.T, c *Cache) string {
	t.Helper()
	entries, err := c.List()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.What)
	}
	return strings.Join(names, " ")
}

func TestSaveAndRestore(t *testing.T) {
	c, tree, key := newCache(t, Options{}), newTree(t), NewKey("a")
	want := look(t, tree)
	if _, ok, err := c.Restore(t.Context(), key, t.TempDir()); ok || err != nil {
		t.Fatalf("from a cache that is not there: %v, %v", ok, err)
	}
	save(t, c, key, tree, "one")
	if diff := cmp.Diff(want, look(t, tree)); diff != "" {
		t.Errorf("Save changed the tree: %s", diff)
	}
	for range 2 { // the restored tree shares nothing with the snapshot
		into := t.TempDir()
		meta, ok, err := c.Restore(t.Context(), key, into)
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		if meta.What != "one" || meta.Took != time.Second || meta.Size == 0 || time.Since(meta.Created) > time.Minute {
			t.Errorf("meta: %+v", meta)
		}
		if diff := cmp.Diff(want, look(t, into)); diff != "" {
			t.Error(diff)
		}
		if err := os.WriteFile(filepath.Join(into, "etc/motd"), []byte("changed"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if meta, ok := c.Lookup(key); !ok || meta.What != "one" || meta.Created.IsZero() {
		t.Errorf("Lookup: %+v, %v", meta, ok)
	}
	if _, ok := c.Lookup(NewKey("b")); ok {
		t.Error("Lookup finds another key")
	}
	if _, ok, err := c.Restore(t.Context(), NewKey("b"), t.TempDir()); ok || err != nil {
		t.Errorf("another key: %v, %v", ok, err)
	}
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Restore(t.Context(), key, full); err == nil || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("into a full directory: %v", err)
	}
}

func TestSaveReplaces(t *testing.T) {
	c, key := newCache(t, Options{}), NewKey("a")
	tree := newTree(t)
	save(t, c, key, tree, "old")
	if err := os.WriteFile(filepath.Join(tree, "more"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	// A build that restores the old one is not disturbed, and the new one is dropped.
	reading, err := shareDir(c.place(key))
	if err != nil {
		t.Fatal(err)
	}
	save(t, c, key, tree, "new")
	if got := whats(t, c); got != "old" {
		t.Errorf("while it is read: %s", got)
	}
	if err := c.Remove(string(key)); !errors.Is(err, errBusy) {
		t.Errorf("Remove: %v", err)
	}
	if removed, err := c.Prune(0); err != nil || len(removed) != 0 {
		t.Errorf("Prune: %v, %v", removed, err)
	}
	reading.Close()
	save(t, c, key, tree, "new")
	into := t.TempDir()
	if meta, ok, err := c.Restore(t.Context(), key, into); !ok || err != nil || meta.What != "new" {
		t.Errorf("%+v %v %v", meta, ok, err)
	}
	if diff := cmp.Diff(look(t, tree), look(t, into)); diff != "" {
		t.Error(diff)
	}
	if entries, err := os.ReadDir(c.dir); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestLastUsedStays(t *testing.T) {
	tree := t.TempDir()
	if err := os.WriteFile(filepath.Join(tree, "x"), bytes.Repeat([]byte("x"), 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	size, err := diskUsage(tree)
	if err != nil {
		t.Fatal(err)
	}
	c := newCache(t, Options{Limit: 3 * size})
	ago := func(what string, d time.Duration) {
		then := time.Now().Add(-d)
		if err := os.Chtimes(filepath.Join(c.place(NewKey(what)), metaName), then, then); err != nil {
			t.Fatal(err)
		}
	}
	for i, what := range []string{"a", "b", "c"} {
		save(t, c, NewKey(what), tree, what)
		ago(what, time.Hour-time.Duration(i)*time.Minute)
	}
	if _, ok, err := c.Restore(t.Context(), NewKey("a"), t.TempDir()); !ok || err != nil {
		t.Fatal(ok, err)
	}
	save(t, c, NewKey("d"), tree, "d")
	if got := whats(t, c); got != "d a c" {
		t.Errorf("after a fourth where three fit: %s", got)
	}
	if removed, err := c.Prune(size); err != nil || len(removed) != 2 || whats(t, c) != "d" {
		t.Errorf("Prune: %v %v, left %s", removed, err, whats(t, c))
	}
	small := New(c.dir, Options{Limit: size - 1})
	if err := small.Save(t.Context(), NewKey("e"), tree, Meta{What: "e"}); err == nil || !strings.Contains(err.Error(), "limit") {
		t.Errorf("more than the limit: %v", err)
	}
	if got := whats(t, c); got != "d" {
		t.Errorf("room was made for what is not kept: %s", got)
	}
}

func TestTooOldOrDamaged(t *testing.T) {
	c, tree, key := newCache(t, Options{}), newTree(t), NewKey("a")
	for name, meta := range map[string]string{
		"of the future": `{"what":"x","created":"2999-01-01T00:00:00Z"}`,
		"old":           `{"what":"x","created":"2020-01-01T00:00:00Z"}`, "empty": "", "no date": `{"what":"x"}`, "not JSON": `{"what`,
	} {
		save(t, c, key, tree, "x")
		if err := os.WriteFile(filepath.Join(c.place(key), metaName), []byte(meta), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, ok, err := c.Restore(t.Context(), key, t.TempDir()); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	if removed, err := c.Prune(DefaultLimit); err != nil || len(removed) != 1 {
		t.Errorf("Prune: %v, %v", removed, err)
	}
	forever := New(c.dir, Options{MaxAge: -1})
	save(t, forever, key, tree, "x")
	old := `{"what":"x","created":"2020-01-01T00:00:00Z"}`
	if err := os.WriteFile(filepath.Join(c.place(key), metaName), []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := forever.Restore(t.Context(), key, t.TempDir()); !ok || err != nil {
		t.Errorf("without a bound: %v, %v", ok, err)
	}
}

func TestRemove(t *testing.T) {
	c, tree := newCache(t, Options{}), newTree(t)
	save(t, c, NewKey("a"), tree, "a")
	for _, prefix := range []string{"", "abc", "zzzz", "../..", NewKey("b").ID()} {
		if err := c.Remove(prefix); err == nil || !strings.Contains(err.Error(), "no snapshot") {
			t.Errorf("%q: %v", prefix, err)
		}
	}
	if err := c.Remove(NewKey("a").ID()); err != nil || whats(t, c) != "" {
		t.Errorf("%v, left %q", err, whats(t, c))
	}
}

func TestKeys(t *testing.T) {
	seen := map[Key]string{}
	for _, parts := range [][]string{{}, {""}, {"", ""}, {"a", "b"}, {"ab"}, {"a,1:b"}, {"b", "a"}} {
		key := NewKey(parts...)
		if err := key.check(); err != nil {
			t.Error(err)
		}
		if other, ok := seen[key]; ok || key != NewKey(parts...) {
			t.Errorf("%q has the key of %s", parts, other)
		}
		seen[key] = fmt.Sprintf("%q", parts)
	}
	if NewKey("a").Then("b") == NewKey("a", "b") || NewKey("a").Then("b") == NewKey("a").Then("c") {
		t.Error("Then")
	}
	for _, bad := range []Key{"", "..", Key(strings.Repeat("g", 64)), Key(strings.Repeat("../a", 16))} {
		if err := New(t.TempDir(), Options{}).Save(t.Context(), bad, t.TempDir(), Meta{}); err == nil {
			t.Errorf("Save takes the key %q", bad)
		}
	}
}

func TestContent(t *testing.T) {
	tree := newTree(t)
	sum := func(path string) string {
		t.Helper()
		s, err := Content(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := sum(tree)
	now := time.Now()
	if err := os.Chtimes(filepath.Join(tree, "etc/motd"), now, now); err != nil {
		t.Fatal(err)
	}
	if sum(tree) != before {
		t.Error("times count")
	}
	if link := filepath.Join(t.TempDir(), "l"); os.Symlink(tree, link) != nil || sum(link) != before {
		t.Error("a link to it has another digest")
	}
	for what, change := range map[string]func() error{
		"content": func() error { return os.WriteFile(filepath.Join(tree, "etc/motd"), []byte("hullo\n"), 0) },
		"mode":    func() error { return os.Chmod(filepath.Join(tree, "etc/motd"), 0o600) },
		"new":     func() error { return os.WriteFile(filepath.Join(tree, "new"), nil, 0o644) },
		"link": func() error {
			return errors.Join(os.Remove(filepath.Join(tree, "link")), os.Symlink("x", filepath.Join(tree, "link")))
		},
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		after := sum(tree)
		if after == before {
			t.Errorf("%s does not count", what)
		}
		before = after
	}
	a, b := filepath.Join(tree, "etc/motd"), filepath.Join(tree, "new")
	if sum(a) == sum(b) {
		t.Error("two files have one digest")
	}
	if _, err := Content(t.Context(), filepath.Join(tree, "not there")); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestCancelled(t *testing.T) {
	c, tree, key := newCache(t, Options{}), newTree(t), NewKey("a")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Save(ctx, key, tree, Meta{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Save: %v", err)
	}
	if left, err := os.ReadDir(c.dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	save(t, c, key, tree, "x")
	into := t.TempDir()
	if _, ok, err := c.Restore(ctx, key, into); ok || !errors.Is(err, context.Canceled) {
		t.Errorf("Restore: %v, %v", ok, err)
	}
	if left, err := os.ReadDir(into); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestNoRoom saves onto a file system that is too small.
func TestNoRoom(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting a small file system needs root")
	}
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skip("cannot mount a tmpfs: ", err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	tree := t.TempDir()
	if err := os.WriteFile(filepath.Join(tree, "x"), bytes.Repeat([]byte("x"), 2<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	c := New(filepath.Join(dir, "cache"), Options{})
	if err := c.Save(t.Context(), NewKey("a"), tree, Meta{}); err == nil || !strings.Contains(err.Error(), "too little") {
		t.Errorf("Save: %v", err)
	}
	roomy := newCache(t, Options{})
	save(t, roomy, NewKey("a"), tree, "x")
	into := filepath.Join(dir, "into")
	if err := os.Mkdir(into, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := roomy.Restore(t.Context(), NewKey("a"), into); ok || err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("Restore: %v, %v", ok, err)
	}
	if left, err := os.ReadDir(into); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

const savedByChild = "NETROOT_TEST_CACHE"

// TestMain also runs the process that TestKilled kills.
func TestMain(m *testing.M) {
	if dir, tree, ok := strings.Cut(os.Getenv(savedByChild), ":"); ok {
		if err := New(dir, Options{}).Save(context.Background(), NewKey("a"), tree, Meta{What: "child"}); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// TestKilled kills a process in the middle of Save.
func TestKilled(t *testing.T) {
	tree := t.TempDir()
	for i := range 3000 {
		if err := os.WriteFile(filepath.Join(tree, fmt.Sprint(i)), []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := newCache(t, Options{})
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), savedByChild+"="+c.dir+":"+tree)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var half []string
	// The process has begun to copy, or has finished.
	for len(half) == 0 && !exists(c.place(NewKey("a"))) {
		half, _ = filepath.Glob(filepath.Join(c.dir, newPrefix+"*", treeName, "*"))
	}
	if len(half) > 0 { // another process works there
		if err := c.sweep(); err != nil || !exists(filepath.Dir(half[0])) {
			t.Errorf("swept away under a living process: %v", err)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	into := t.TempDir()
	_, ok, err := c.Restore(t.Context(), NewKey("a"), into)
	if err != nil {
		t.Fatal(err)
	}
	if files, err := os.ReadDir(into); err != nil || ok && len(files) != 3000 || !ok && len(files) != 0 {
		t.Errorf("restored: %v, %d files, %v", ok, len(files), err)
	}
	save(t, c, NewKey("b"), tree, "b")
	left, err := filepath.Glob(filepath.Join(c.dir, ".*"))
	if err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// The digest of a file with holes does not read them: these would take minutes.
func TestContentOfHoles(t *testing.T) {
	name := filepath.Join(t.TempDir(), "f")
	digests := map[string]string{}
	for what, at := range map[string]int64{"middle": 1 << 39, "next": 1<<39 + 1<<21, "start": 0, "end": 1<<40 - 4} {
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt([]byte("data"), at)
		if err := errors.Join(err, f.Truncate(1<<40), f.Close()); err != nil {
			t.Skip("no such large files here: ", err)
		}
		d, err := Content(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		for other, same := range digests {
			if same == d {
				t.Errorf("%s and %s have one digest", what, other)
			}
		}
		digests[what] = d
	}
}
