package serve

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"netroot/internal/handoff"
	"netroot/internal/layer"
	"netroot/internal/site"
	"netroot/internal/store"
	"netroot/internal/testlog"
)

// layersIn makes a folder of layers: text by "LAYER/path".
func layersIn(t testing.TB, files map[string]string) (folder string, l *Layers, log *testlog.Buffer) {
	t.Helper()
	folder = filepath.Join(t.TempDir(), "layers")
	for name, text := range files {
		put(t, filepath.Join(folder, name), text)
	}
	log = new(testlog.Buffer)
	return folder, NewLayers(folder, slog.New(slog.NewTextHandler(log, nil))), log
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

func digestOf(t testing.TB, l *Layers, name string) handoff.Digest {
	t.Helper()
	digest, err := l.Digest(name)
	if err != nil {
		t.Fatal(err)
	}
	return digest
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
		if _, err := layer.FromDir(&want, folder+"/a", l.edit); err != nil {
			t.Fatal(err)
		}
		if got, ok := l.Archive(digest); !ok || !bytes.Equal(got, want.Bytes()) {
			t.Fatalf("edit %d does not show", i)
		}
		seen[digest] = true
	}
	if len(seen) != 20 || renderings(log) != 20 {
		t.Errorf("%d archives of 20 edits, rendered %d times", len(seen), renderings(log))
	}
	for digest := range seen { // who was told of one may still fetch it
		if _, ok := l.Archive(digest); !ok {
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
		a.used = a.used.Add(-keepArchive - time.Second)
	}
	put(t, folder+"/a/f", "3")
	young := digestOf(t, l, "a")
	for digest, want := range map[handoff.Digest]bool{fixed: true, old: false, kept: false, young: true} {
		if _, ok := l.Archive(digest); ok != want {
			t.Errorf("%s is there: %v, want %v", digest, ok, want)
		}
	}
	delete(l.archives, young) // as if it had been dropped while its directory stayed as it is
	if digest := digestOf(t, l, "a"); digest != young {
		t.Errorf("%s", digest)
	} else if _, ok := l.Archive(young); !ok {
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
	before := dirState{newest: time.Now().Add(time.Hour)} // of before the change; the clock was wrong, too
	if err := l.render(&r, d, before); err != nil {
		t.Fatal(err)
	}
	if state, err := stateOf(folder + "/a"); err != nil || r.state != state.sum || renderings(log) != 1 {
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
		if _, err := l.Digest(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for name, want := range map[string]bool{"a": true, "file": true, "linked": true, "dangling": true, "none": false, "..": false, ".": false, "": false, "../elsewhere": false} {
		if l.Has(name) != want {
			t.Errorf("has %q: %v", name, !want)
		}
	}
	if archive, _ := l.Archive(digestOf(t, l, "linked")); !bytes.Contains(archive, []byte("linked")) {
		t.Error("a linked directory's file is not in the archive")
	}
	digestOf(t, l, "bad")
	if said := log.String(); strings.Count(said, "nodes will not do this") != 2 || !strings.Contains(said, "line 3") {
		t.Errorf("the log does not tell of bad lines:\n%s", said)
	}
	none := NewLayers("", nil)
	if names, err := none.Names(); names != nil || err != nil || none.Has("a") || none.Place("a") != "" {
		t.Errorf("without a folder: %q, %v", names, err)
	}
	absent := NewLayers(folder+"/none/layers", nil)
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
	l := NewLayers(folder, slog.New(slog.DiscardHandler))
	archive, _ := l.Archive(digestOf(t, l, "a"))
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

// thousand is a server whose label "debian" has two layers.
func thousand(t testing.TB, files int) (server *Server, folder string, log *testlog.Buffer) {
	t.Helper()
	text := map[string]string{"site/etc/motd": "site", "rack/etc/motd": "rack"}
	for i := range files {
		text[fmt.Sprintf("site/etc/many/%d", i)] = strings.Repeat("x", 4096)
	}
	folder, l, log := layersIn(t, text)
	s, err := store.Create(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	commit(t, s, "debian", map[store.Role][]byte{store.RoleRoot: []byte("r"), store.RoleKernel: []byte("k"), store.RoleInitramfs: []byte("i")})
	web, err := Listen("--http", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { web.Close() })
	server, err = New(Config{
		Store: s, Layers: l,
		Site: labels(site.Label{Name: "debian", Transport: handoff.HTTP, Overlay: site.DefaultOverlay(), Layers: []string{"site", "rack"}}),
	}, web, nil)
	if err != nil {
		t.Fatal(err)
	}
	return server, folder, log
}

// node is a client that keeps a script, and of an archive what tells it from others.
type node struct {
	header http.Header
	status int
	script bytes.Buffer
	layer  hash.Hash
}

func (n *node) Header() http.Header    { return n.header }
func (n *node) WriteHeader(status int) { n.status = status }
func (n *node) Write(p []byte) (int, error) {
	if n.header.Get("Content-Type") == layer.MediaType {
		return n.layer.Write(p)
	}
	return n.script.Write(p)
}

// bootOnce does what a node does: it asks for its script, and fetches the layers that this names. It returns the digests
// of what came.
func bootOnce(h http.Handler) (digests string, err error) {
	get := func(path string) (*node, error) {
		n := &node{header: make(http.Header), status: http.StatusOK, layer: sha256.New()}
		h.ServeHTTP(n, httptest.NewRequest(http.MethodGet, path, nil))
		if n.status != http.StatusOK {
			return nil, fmt.Errorf("GET %s: %d %s", path, n.status, &n.script)
		}
		return n, nil
	}
	boot, err := get("/boot/debian.ipxe")
	if err != nil {
		return "", err
	}
	for word := range strings.FieldsSeq(boot.script.String()) {
		if url, ok := strings.CutPrefix(word, "netroot.layer=http://example.com"); ok {
			n, err := get(url)
			if err != nil {
				return "", err
			}
			digest := hex.EncodeToString(n.layer.Sum(nil))
			if !strings.HasSuffix(url, digest) {
				return "", fmt.Errorf("GET %s brought %s", url, digest)
			}
			digests += digest
		}
	}
	return digests, nil
}

// A thousand nodes that boot at once cost one rendering of each layer; after an edit, one more of that layer.
func TestLayerForAThousandNodes(t *testing.T) {
	server, folder, log := thousand(t, 20)
	h := server.handler()
	boots := func() map[string]bool {
		var mu sync.Mutex
		got := make(map[string]bool)
		var g errgroup.Group
		for range 1000 {
			g.Go(func() error {
				digests, err := bootOnce(h)
				mu.Lock()
				defer mu.Unlock()
				got[digests] = true
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		return got
	}
	first := boots()
	if n := renderings(log); n != 2 || len(first) != 1 {
		t.Errorf("1000 nodes: %d renderings of 2 layers, %d different answers", n, len(first))
	}
	put(t, folder+"/rack/etc/motd", "edit")
	second := boots()
	if n := renderings(log); n != 3 || len(second) != 1 {
		t.Errorf("1000 more after an edit: %d renderings, %d different answers", n, len(second))
	}
	for digests := range second {
		if first[digests] || len(digests) != 2*64 {
			t.Errorf("the edit does not show: %q", digests)
		}
	}
}

// BenchmarkLayer1000Nodes is a thousand nodes' scripts and layers (1.6 MiB in 400 files), rendered once.
func BenchmarkLayer1000Nodes(b *testing.B) {
	server, _, log := thousand(b, 400)
	h := server.handler()
	for b.Loop() {
		var g errgroup.Group
		for range 1000 {
			g.Go(func() error {
				_, err := bootOnce(h)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(renderings(log)), "renderings")
}
