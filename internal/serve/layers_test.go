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
	"testing"

	"golang.org/x/sync/errgroup"

	"netroot/internal/handoff"
	"netroot/internal/layer"
	"netroot/internal/layer/folder"
	"netroot/internal/site"
	"netroot/internal/store"
	"netroot/internal/testlog"
)

func put(t testing.TB, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func renderings(log *testlog.Buffer) int { return strings.Count(log.String(), "layer rendered") }

// thousand is a server whose label "debian" has two layers.
func thousand(t testing.TB, files int) (server *Server, dir string, log *testlog.Buffer) {
	t.Helper()
	text := map[string]string{"site/etc/motd": "site", "rack/etc/motd": "rack"}
	for i := range files {
		text[fmt.Sprintf("site/etc/many/%d", i)] = strings.Repeat("x", 4096)
	}
	dir = filepath.Join(t.TempDir(), "layers")
	for name, content := range text {
		put(t, filepath.Join(dir, name), content)
	}
	log = new(testlog.Buffer)
	l := folder.New(dir, t.TempDir(), slog.New(slog.NewTextHandler(log, nil)))
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
	t.Cleanup(func() { l.Close() })
	return server, dir, log
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

// bootOnce does what a node does: it asks for its script, and fetches the layers that this names.
// It returns the digests of what came.
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

// A thousand nodes that boot at once cost one rendering of each layer; after an edit, one more of
// that layer.
func TestLayerForAThousandNodes(t *testing.T) {
	server, dir, log := thousand(t, 20)
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
	put(t, dir+"/rack/etc/motd", "edit")
	server.renderLayers()
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

// BenchmarkLayer1000Nodes is a thousand nodes' scripts and layers (1.6 MiB in 400 files), rendered
// once.
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

// A layer with a secret is not served to machines whose label does not allow it. The log and the
// problems say so; other labels are served.
func TestLayerWithSecret(t *testing.T) {
	server, dir, log := thousand(t, 0)
	server.cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	server.cfg.Site.Labels["open"] = &site.Label{Name: "open", Layers: []string{"site"}, AllowSecrets: []string{"/etc/munge"}}
	before, err := bootOnce(server.handler())
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir+"/site/etc/munge/munge.key", "k3y")
	server.renderLayers()
	const want = "label debian: layer site contains secrets: /etc/munge/munge.key (munge key): served meanwhile: sha256:"
	if !strings.Contains(log.String(), want) || strings.Contains(log.String(), "label open:") {
		t.Errorf("the log does not say %q:\n%s", want, log)
	}
	if all := strings.Join(server.Problems(), "\n"); !strings.Contains(all, want) {
		t.Errorf("problems:\n%s", all)
	}
	if after, err := bootOnce(server.handler()); err != nil || after != before {
		t.Errorf("a machine gets %s, %v; want what it got before, %s", after, err, before)
	}
	if digest, err := server.View().Layers.Digest("site", []string{"/etc/munge"}); err != nil || strings.Contains(before, string(digest)[7:]) {
		t.Errorf("the label that allows it gets %s, %v", digest, err)
	}
	server.renderLayers()
	if n := strings.Count(log.String(), want); n != 1 {
		t.Errorf("logged %d times", n)
	}
}
