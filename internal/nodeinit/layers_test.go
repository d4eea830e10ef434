package nodeinit

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"netroot/internal/handoff"
	"netroot/internal/layer"
	"netroot/internal/nodeinit/attach"
	"netroot/internal/nodeinit/report"
)

// writeFiles writes files below dir, by name.
func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// serveArchives serves archives as "netroot serve" does; the answer is what a
// command line would name.
func serveArchives(t *testing.T, archives ...[]byte) []handoff.Layer {
	t.Helper()
	var layers []handoff.Layer
	byDigest := map[string][]byte{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write(byDigest[filepath.Base(r.URL.Path)])
	}))
	t.Cleanup(srv.Close)
	for _, archive := range archives {
		l, err := handoff.ParseLayer(srv.URL + "/v1/layers/" + string(layer.Digest(archive)))
		if err != nil {
			t.Fatal(err)
		}
		byDigest[string(l.Digest)] = archive
		layers = append(layers, l)
	}
	return layers
}

// packed is the archive of a layer with these files.
func packed(t *testing.T, files map[string]string) []byte {
	t.Helper()
	dir := t.TempDir()
	writeFiles(t, dir, files)
	var archive bytes.Buffer
	if _, err := layer.FromDir(&archive, dir, nil); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

// TestLayers: the tree's own in reverse, the server's over them, deletions after
// each, and word of what could not be done.
func TestLayers(t *testing.T) {
	n, kmsg := quiet()
	root := t.TempDir()
	writeFiles(t, root, map[string]string{
		"etc/motd": "tree", "etc/issue": "tree", "etc/issue.net": "tree", "var/cache/x/y": "tree",
		"etc/rootovl/a/etc/motd": "a", "etc/rootovl/a/etc/a": "a",
		"etc/rootovl/b/etc/motd": "b", "etc/rootovl/b/etc/b": "b", "etc/rootovl/b/.rootovldel": "/etc/issue\n/var/cache\n",
	})
	n.boot = handoff.Boot{
		Overlay:    handoff.Overlay{Enabled: true},
		TreeLayers: []string{"a", "none", "../b", "b"},
		Layers: serveArchives(t,
			packed(t, map[string]string{"etc/b": "second", "etc/site": "second"}),
			packed(t, map[string]string{"etc/site": "first", ".rootovldel": "/etc/issue.net\n/var/cache/\netc/motd\n"})),
	}
	said, err := n.applyLayersTo(t.Context(), report.Step{Name: "layers", To: n.to}, root)
	if err != nil || !strings.HasPrefix(said, "2 of 4 in the tree, 2 of the server, ") {
		t.Errorf("said %q, %v", said, err)
	}
	for name, want := range map[string]string{"etc/motd": "a", "etc/a": "a", "etc/b": "second", "etc/site": "first", "etc/issue": "", "etc/issue.net": "", "var/cache/x/y": ""} {
		text, err := os.ReadFile(filepath.Join(root, name))
		if string(text) != want || (err == nil) != (want != "") {
			t.Errorf("%s holds %q, %v; want %q", name, text, err, want)
		}
	}
	reports := kmsg.String()
	for _, want := range []string{
		`<3>netroot: layers: FAILED: none: the root has no /etc/rootovl/none`,
		`<3>netroot: layers: FAILED: ../b: "../b" has a slash`,
		`<3>netroot: layers: FAILED: b: .rootovldel line 2: "/var/cache" is a directory`,
		`<3>netroot: layers: FAILED: sha256:`, `.rootovldel line 3: "etc/motd" is not an absolute path`,
	} {
		if !strings.Contains(reports, want) {
			t.Errorf("the console lacks %q:\n%s", want, reports)
		}
	}
	if lines := strings.Split(n.history.String(), "\n"); len(lines) != 4 {
		t.Errorf("history: %q", lines)
	}
}

// TestLayersAreFetchedFirst: while an archive cannot be had, the root is as it was.
func TestLayersAreFetchedFirst(t *testing.T) {
	n, _ := quiet()
	root := t.TempDir()
	writeFiles(t, root, map[string]string{"etc/motd": "tree", "etc/rootovl/a/etc/motd": "a"})
	layers := serveArchives(t, packed(t, map[string]string{"etc/x": "x"}), nil)
	layers[1].Digest = layers[0].Digest // another than what comes
	n.boot = handoff.Boot{Overlay: handoff.Overlay{Enabled: true}, TreeLayers: []string{"a"}, Layers: layers}
	if _, err := n.applyLayersTo(t.Context(), report.Step{Name: "layers", To: n.to}, root); err == nil || !strings.Contains(err.Error(), "what came has digest") {
		t.Errorf("%v", err)
	}
	if text := content(t, root, "etc/motd"); text != "tree" {
		t.Errorf("motd is %q before all layers are there", text)
	}
}

// TestLayersWithoutOverlay: a root that is not under memory stays as it is; what
// is below /run may come.
func TestLayersWithoutOverlay(t *testing.T) {
	n, kmsg := quiet()
	root := t.TempDir()
	writeFiles(t, root, map[string]string{"etc/motd": "tree", "etc/rootovl/a/etc/motd": "a"})
	n.boot = handoff.Boot{TreeLayers: []string{"a"}, Layers: serveArchives(t, packed(t, map[string]string{"run/key": "key"}))}
	if _, err := n.applyLayersTo(t.Context(), report.Step{Name: "layers", To: n.to}, root); err != nil {
		t.Fatal(err)
	}
	if content(t, root, "etc/motd") != "tree" || content(t, root, "run/key") != "key" {
		t.Error("applied to a root without an overlay, or nothing was")
	}
	if said := kmsg.String(); !strings.Contains(said, "rootovlcfg=a needs memory over the root: add rootovl") {
		t.Errorf("the console says\n%s", said)
	}
	for _, files := range []map[string]string{{"etc/motd": "x"}, {"run/key": "k", ".rootovldel": "/etc/motd\n"}} {
		n.boot = handoff.Boot{Layers: serveArchives(t, packed(t, files))}
		if _, err := n.applyLayersTo(t.Context(), report.Step{Name: "layers", To: n.to}, root); err == nil || !strings.Contains(err.Error(), "below run/") {
			t.Errorf("%v: %v", files, err)
		}
	}
	if content(t, root, "etc/motd") != "tree" {
		t.Error("changed")
	}
}

// layersServer answers all requests in place of the network: with the archive when it is back, and
// before with what the server says then.
type layersServer struct {
	archive []byte
	back    time.Time
	status  int // 0: it does not answer
}

func (s layersServer) RoundTrip(r *http.Request) (*http.Response, error) {
	answer := httptest.NewRecorder()
	switch {
	case time.Now().After(s.back):
		answer.Write(s.archive)
	case s.status == 0:
		return nil, errRefused
	default:
		answer.WriteHeader(s.status)
	}
	return answer.Result(), nil
}

// TestWithdrawnLayers: an archive that the server does not have any more requires a new plan; one
// whose server is away for less than the patience does not, and neither do the root's own layers.
func TestWithdrawnLayers(t *testing.T) {
	web := attach.Web.Transport
	t.Cleanup(func() { attach.Web.Transport = web })
	archive := packed(t, map[string]string{"etc/motd": "layer"})
	l, err := handoff.ParseLayer("http://10.0.0.1/v1/layers/" + string(layer.Digest(archive)))
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		away   time.Duration
		status int
		last   string // error, with which the machine restarts
	}{
		"withdrawn":    {100 * time.Hour, http.StatusNotFound, "404 Not Found"},
		"server lost":  {100 * time.Hour, 0, "connection refused"},
		"9 min away":   {9 * time.Minute, 0, ""},
		"replaced":     {100 * time.Hour, http.StatusOK, "what came has digest sha256:"},
		"starting up":  {9 * time.Minute, http.StatusServiceUnavailable, ""},
		"at the first": {-time.Hour, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				attach.Web.Transport = layersServer{archive, time.Now().Add(tt.away), tt.status}
				n, _ := quiet()
				n.boot = handoff.Boot{Overlay: handoff.Overlay{Enabled: true}, Layers: []handoff.Layer{l}}
				s := n.layersStep()
				s.run = func(ctx context.Context, out report.Step) (string, error) { return n.applyLayersTo(ctx, out, root) }
				started := time.Now()
				err := n.try(t.Context(), s)
				took := time.Since(started)
				if tt.last == "" {
					if err != nil || content(t, root, "etc/motd") != "layer" || took > max(tt.away, 0)+longestPause {
						t.Errorf("%v after %s", err, took)
					}
					return
				}
				if err == nil || !strings.Contains(err.Error(), tt.last) || reasonOf(err) != report.LayersFailed || took < defaultPatience {
					t.Errorf("%v after %s, %s", err, took, reasonOf(err))
				}
			})
		})
	}
	n, _ := quiet()
	n.boot.TreeLayers = []string{"a"}
	if s := n.layersStep(); s.needsPlan != "" {
		t.Errorf("the root's own layers need a plan: %s", s.needsPlan)
	}
}
