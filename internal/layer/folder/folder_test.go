package folder

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"netroot/internal/handoff"
	"netroot/internal/layer"
	"netroot/internal/testlog"
)

// layersIn makes a folder of layers: text by "LAYER/path".
func layersIn(t testing.TB, files map[string]string) (folder string, l *Folder, log *testlog.Buffer) {
	t.Helper()
	folder = filepath.Join(t.TempDir(), "layers")
	for name, text := range files {
		put(t, filepath.Join(folder, name), text)
	}
	log = new(testlog.Buffer)
	l = New(folder, t.TempDir(), slog.New(slog.NewTextHandler(log, nil)))
	t.Cleanup(func() { l.Close() })
	return folder, l, log
}

func put(t testing.TB, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func digestOf(t testing.TB, l *Folder, name string) handoff.Digest {
	t.Helper()
	digest, err := l.Digest(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	return digest
}

// content is the archive of that digest, nil when there is none.
func content(t testing.TB, l *Folder, digest handoff.Digest) []byte {
	t.Helper()
	c, err := l.Open(digest)
	if err == ErrUnknown {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func renderings(log *testlog.Buffer) int { return strings.Count(log.String(), "layer rendered") }

// What the server has is what FromDir makes, and an edit shows at once, however quickly it follows.
func TestLayerFollowsItsDirectory(t *testing.T) {
	folder, l, log := layersIn(t, map[string]string{"a/etc/motd": "0"})
	seen := make(map[handoff.Digest]bool)
	for i := range 20 {
		put(t, folder+"/a/etc/motd", fmt.Sprint(i%10)) // the same size, and perhaps within the same tick of the clock
		if i >= 10 {
			os.Chmod(folder+"/a/etc/motd", os.FileMode(0o600+i))
		}
		digest := digestOf(t, l, "a")
		var want bytes.Buffer
		if _, err := layer.FromDir(&want, folder+"/a", l.place.Load().edit); err != nil {
			t.Fatal(err)
		}
		if got := content(t, l, digest); !bytes.Equal(got, want.Bytes()) {
			t.Fatalf("edit %d does not show", i)
		}
		seen[digest] = true
	}
	if len(seen) != 20 || renderings(log) != 20 {
		t.Errorf("%d archives of 20 edits, rendered %d times", len(seen), renderings(log))
	}
	for digest := range seen { // who was told of one may still fetch it
		if content(t, l, digest) == nil {
			t.Error("an archive is gone while nodes may boot with it")
		}
	}
	before := digestOf(t, l, "a")
	put(t, folder+"/a/new/file", "x")
	put(t, folder+"/b/other", "x")
	if digestOf(t, l, "a") == before {
		t.Error("a new file does not show")
	}
}

func TestLayerArchivesAreDroppedInTheEnd(t *testing.T) {
	folder, l, _ := layersIn(t, map[string]string{"a/f": "1"})
	fixed := l.Add([]byte("made elsewhere"))
	old := digestOf(t, l, "a")
	put(t, folder+"/a/f", "2")
	kept := digestOf(t, l, "a")
	for _, a := range l.archives {
		a.used = a.used.Add(-keepRetired - time.Second)
	}
	put(t, folder+"/a/f", "3")
	young := digestOf(t, l, "a")
	for digest, want := range map[handoff.Digest]bool{fixed: true, old: false, kept: true, young: true} {
		if ok := content(t, l, digest) != nil; ok != want {
			t.Errorf("%s is there: %v, want %v", digest, ok, want)
		}
	}
	l.archives[young].Close()
	delete(l.archives, young) // as if it had been dropped while its directory stayed as it is
	if digest := digestOf(t, l, "a"); digest != young {
		t.Errorf("%s", digest)
	} else if content(t, l, young) == nil {
		t.Error("a digest without an archive")
	}
}

func TestLayerThatChangesWhileItIsRead(t *testing.T) {
	folder, l, log := layersIn(t, map[string]string{"a/f": "1"})
	d, err := l.Dir("a")
	if err != nil {
		t.Fatal(err)
	}
	var r rendered
	before := state{newest: time.Now().Add(time.Hour)} // of before the change; the clock was wrong, too
	if err := l.archive(&r, d, before); err != nil {
		t.Fatal(err)
	}
	if state, err := stateOf(folder + "/a"); err != nil || r.state.sum != state.sum || renderings(log) != 1 {
		t.Errorf("%v; taken for another state than it has, or rendered %d times", err, renderings(log))
	}
}

func TestLayerNames(t *testing.T) {
	folder, l, log := layersIn(t, map[string]string{"a/f": "1", "file": "x", "a b/f": "x", "bad/.rootovldel": "/etc/x\n/\nrelative\n"})
	put(t, folder+"/../elsewhere/f", "linked")
	os.Symlink("../elsewhere", folder+"/linked")
	os.Symlink("nowhere", folder+"/dangling")
	names, err := l.Names()
	if got := strings.Join(names, " "); got != "a bad linked" || err != nil {
		t.Errorf("names %q, %v", got, err)
	}
	for name, want := range map[string]string{
		"file": "is not a directory", "none": "no such file", "dangling": "no such file", "": "empty", "..": "directory above", "a/..": "slash", "a b": "cannot name",
	} {
		if _, err := l.Digest(name, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for name, want := range map[string]bool{"a": true, "file": true, "linked": true, "dangling": true, "none": false, "..": false, ".": false, "": false, "../elsewhere": false} {
		if l.Has(name) != want {
			t.Errorf("has %q: %v", name, !want)
		}
	}
	if !bytes.Contains(content(t, l, digestOf(t, l, "linked")), []byte("linked")) {
		t.Error("a linked directory's file is not in the archive")
	}
	digestOf(t, l, "bad")
	if said := log.String(); strings.Count(said, "nodes will not do this") != 2 || !strings.Contains(said, "line 3") {
		t.Errorf("the log does not tell of bad lines:\n%s", said)
	}
	none := New("", "", nil)
	if names, err := none.Names(); names != nil || err != nil || none.Has("a") || none.Place("a") != "" {
		t.Errorf("without a folder: %q, %v", names, err)
	}
	absent := New(folder+"/none/layers", "", nil)
	if names, err := absent.Names(); names != nil || err != nil || absent.Has("a") {
		t.Errorf("without that folder: %q, %v", names, err)
	}
}

// A checkout in somebody's home gives nobody files on the nodes.
func TestLayerOwners(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: files of other owners")
	}
	folder, _, _ := layersIn(t, map[string]string{"a/mine": "1", "a/daemons": "1"})
	for file, id := range map[string]int{"/..": 1000, "/a/mine": 1000, "/a/daemons": 2} {
		if err := os.Chown(folder+file, id, id); err != nil {
			t.Fatal(err)
		}
	}
	l := New(folder, "", slog.New(slog.DiscardHandler))
	archive := content(t, l, digestOf(t, l, "a"))
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := layer.Apply(root, bytes.NewReader(archive)); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]uint32{"mine": 0, "daemons": 2} {
		fi, err := root.Lstat(name)
		if err != nil || fi.Sys().(*syscall.Stat_t).Uid != want {
			t.Errorf("%s: %+v, %v; want owner %d", name, fi, err, want)
		}
	}
}

// A Snapshot does not change, and one layer's damage leaves the others and its own last archive.
func TestSnapshot(t *testing.T) {
	dir, l, log := layersIn(t, map[string]string{"a/f": "1", "b/f": "1", "unused/f": "x"})
	first := l.Render([]string{"a", "b", "a", "none"})
	if !first.Has("a") || !first.Has("b") || first.Has("none") || first.Has("unused") || len(first.Problems()) != 0 {
		t.Fatalf("%+v", first)
	}
	one, err := first.Digest("a", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Digest("unused", nil); err == nil {
		t.Error("a layer that nobody asked for has a digest")
	}
	if n := renderings(log); n != 2 {
		t.Errorf("%d renderings", n)
	}
	if again := l.Render([]string{"a", "b"}); !again.Equal(first) || renderings(log) != 2 {
		t.Errorf("nothing was changed: %+v, %d renderings", again, renderings(log))
	}
	put(t, dir+"/a/f", "2")
	second := l.Render([]string{"a", "b"})
	if two, err := second.Digest("a", nil); err != nil || two == one || second.Equal(first) {
		t.Errorf("%s, %v", two, err)
	}
	if still, err := first.Digest("a", nil); err != nil || still != one {
		t.Errorf("the first snapshot has changed: %s, %v", still, err)
	}
	// a cannot be read any more, and b is gone.
	if err := os.RemoveAll(dir + "/b"); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir + "/a"); err != nil {
		t.Fatal(err)
	}
	put(t, dir+"/a", "a file")
	third := l.Render([]string{"a", "b"})
	l.Render([]string{"a", "b"})
	kept, err := third.Digest("a", nil)
	if two, _ := second.Digest("a", nil); err != nil || kept != two || third.Has("b") || content(t, l, kept) == nil {
		t.Errorf("%s, %v, %+v", kept, err, third)
	}
	if why := third.Problems()["a"]; why == nil || !strings.Contains(why.Error(), "is not a directory") || third.Equal(second) {
		t.Errorf("problem %v", why)
	}
	if n := strings.Count(log.String(), "layer: not rendered"); n != 1 {
		t.Errorf("said %d times:\n%s", n, log)
	}
	if strings.Contains(log.String(), "layer a: layer a") {
		t.Errorf("a layer is named twice:\n%s", log)
	}
	if n := strings.Count(log.String(), "layer: it does not exist any more"); n != 1 {
		t.Errorf("said %d times that b is gone:\n%s", n, log)
	}
}

// An archive is an open file, so small ones are not kept without a bound either.
func TestOpenFilesAreBounded(t *testing.T) {
	_, l, _ := layersIn(t, nil)
	for i := range maxRetiredFiles + 20 {
		a, err := l.create()
		if err != nil {
			t.Fatal(err)
		}
		digest := handoff.DigestOf([]byte{byte(i), byte(i >> 8)})
		l.keep(digest, a)
		l.retire(digest)
	}
	if n := len(l.archives); n != maxRetiredFiles {
		t.Errorf("%d archives are kept", n)
	}
}

// Two layers of the same bytes share an archive, which stays while one of them has it.
func TestSameBytes(t *testing.T) {
	dir, l, _ := layersIn(t, map[string]string{"a/f": "1"})
	if err := os.MkdirAll(dir+"/b", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(dir+"/a/f", dir+"/b/f"); err != nil {
		t.Fatal(err)
	}
	first := l.Render([]string{"a", "b"})
	shared, _ := first.Digest("a", nil)
	if b, _ := first.Digest("b", nil); b != shared {
		t.Fatalf("%s and %s", shared, b)
	}
	if err := os.Remove(dir + "/a/f"); err != nil {
		t.Fatal(err)
	}
	second := l.Render([]string{"a", "b"})
	if b, _ := second.Digest("b", nil); b != shared {
		t.Fatalf("%s instead of %s", b, shared)
	}
	if a := l.archives[shared]; a == nil || a.retired {
		t.Errorf("the archive that b has is %+v", a)
	}
	l.Render([]string{"a"})
	if a := l.archives[shared]; a == nil || !a.retired {
		t.Errorf("an archive that no layer has is %+v", a)
	}
}

// Archives lie in files: eight edits of a large layer need neither memory nor, beyond a bound, room
// on the disk.
func TestMemoryAndDiskAreBounded(t *testing.T) {
	dir, l, _ := layersIn(t, map[string]string{"a/f": "1"})
	const size = 24 << 20 // sparse
	l.room = 3 * size
	if err := os.Truncate(dir+"/a/f", size); err != nil {
		t.Fatal(err)
	}
	last := handoff.Digest("")
	for i := range 6 {
		put(t, dir+"/a/edit", fmt.Sprint(i))
		last = digestOf(t, l, "a")
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > 16<<20 {
		t.Errorf("%d MiB are in use", m.HeapAlloc>>20)
	}
	var retired int64
	for _, a := range l.archives {
		if a.retired {
			retired += a.size
		}
	}
	if retired == 0 || retired > l.room || len(l.archives) != 3 {
		t.Errorf("%d archives, %d MiB of them retired", len(l.archives), retired>>20)
	}
	c, err := l.Open(last)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := c.Seek(0, io.SeekEnd); err != nil || n < size {
		t.Errorf("%d bytes, %v", n, err)
	}
	if entries, err := os.ReadDir(l.scratch); err != nil || len(entries) != 0 {
		t.Errorf("%d files are left where archives lie, %v", len(entries), err)
	}
}

// Without room in the state directory archives go where temporary files go.
func TestScratch(t *testing.T) {
	dir, _, _ := layersIn(t, map[string]string{"a/f": "1"})
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	l := New(dir, dir+"/none", slog.New(slog.DiscardHandler))
	defer l.Close()
	if content(t, l, digestOf(t, l, "a")) == nil {
		t.Error("no archive")
	}
	t.Setenv("TMPDIR", tmp+"/none")
	put(t, dir+"/a/f", "2")
	if _, err := l.Digest("a", nil); err == nil || !strings.Contains(err.Error(), "no place for its archive") {
		t.Errorf("error %v", err)
	}
}

// TestSecrets: a layer with a secret has no archive for machines whose label does not allow it.
// They keep the archive from before the secret, if there was one.
func TestSecrets(t *testing.T) {
	dir, l, _ := layersIn(t, nil)
	put(t, dir+"/new/etc/munge/munge.key", "k3y")
	put(t, dir+"/old/etc/motd", "hello")
	put(t, dir+"/old/root/.ssh/authorized_keys", "ssh-ed25519 AAAA me\n") // what layers are for
	names := []string{"new", "old"}
	first := l.Render(names)
	clean, err := first.Digest("old", nil)
	if err != nil || first.Refused("old", nil) != "" {
		t.Fatal(err)
	}
	if _, err := first.Digest("new", nil); err == nil || err.Error() != "layer new contains secrets; the server's log says which" {
		t.Errorf("for machines: %v", err)
	}
	if why := first.Refused("new", nil); !strings.HasPrefix(why, "layer new contains secrets: /etc/munge/munge.key (munge key): served meanwhile: nothing") {
		t.Errorf("for the log: %q", why)
	}
	if _, err := l.Digest("new", nil); err == nil || !strings.Contains(err.Error(), "/etc/munge/munge.key: munge key: ") || !strings.Contains(err.Error(), "allow_secrets") {
		t.Errorf("for people: %v", err)
	}
	allow := []string{"/etc/munge", "/tmp"}
	if digest, err := first.Digest("new", allow); err != nil || content(t, l, digest) == nil || first.Refused("new", allow) != "" {
		t.Errorf("allowed: %s, %v", digest, err)
	}

	put(t, dir+"/old/tmp/key", "TOKEN=gh"+"p_"+strings.Repeat("0aZ9bY8cX7dW", 3)) // packed images have no /tmp, layers do
	second := l.Render(names)
	if second.Equal(first) {
		t.Error("nothing has changed")
	}
	with, err := second.Digest("old", allow)
	if err != nil || with == clean {
		t.Errorf("allowed: %s, %v", with, err)
	}
	if digest, err := second.Digest("old", nil); digest != clean || err != nil || content(t, l, digest) == nil {
		t.Errorf("not allowed: %s, %v; want the archive before, %s", digest, err, clean)
	}
	if why := second.Refused("old", nil); !strings.Contains(why, "served meanwhile: "+string(clean)) {
		t.Errorf("for the log: %q", why)
	}
	put(t, dir+"/old/etc/motd", "another edit")
	if digest, err := l.Render(names).Digest("old", nil); digest != clean || err != nil {
		t.Errorf("after another edit: %s, %v; want %s", digest, err, clean)
	}
	if err := os.Remove(dir + "/old/tmp/key"); err != nil {
		t.Fatal(err)
	}
	third := l.Render(names)
	if digest, err := third.Digest("old", nil); digest == clean || err != nil || third.Refused("old", nil) != "" {
		t.Errorf("without the secret: %s, %v", digest, err)
	}
}
