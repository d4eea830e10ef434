package build

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"netroot/internal/sandbox"
)

// TestImageForContainers builds on an image that has an ENTRYPOINT, a CMD and labels. The tree has
// them, unless the recipe sets its own.
func TestImageForContainers(t *testing.T) {
	s := newSite(t)
	ociImage(t, filepath.Join(s.dir, "img"))
	for _, tc := range []struct {
		name, text string
		strict     bool
		run, args  string
		who, kept  string
	}{
		{"nothing said", "", false, "image cmd\n", "image a b\n", "image", "yes"},
		{"runscript and labels", "%runscript\necho recipe \"$@\"\n%labels\nwho recipe\n", false, "recipe\n", "recipe a b\n", "recipe", "yes"},
		{"strict", "%labels\nwho recipe\n", true, "image cmd\n", "image a b\n", "image", "yes"},
	} {
		s.build(t, "Bootstrap: oci\nFrom: img\n"+tinySetup+tc.text, func(o *Options) { o.Strict = tc.strict })
		for want, args := range map[string][]string{tc.run: nil, tc.args: {"a", "b"}} {
			var out bytes.Buffer
			box := sandbox.Sandbox{Root: s.tree, Env: []string{"PATH=/bin"}, Stdout: &out}
			must(t, box.Run(t.Context(), append([]string{"/.run"}, args...)))
			if out.String() != want {
				t.Errorf("%s: run %q: %q, want %q", tc.name, args, out.String(), want)
			}
		}
		var labels map[string]string
		text, err := os.ReadFile(filepath.Join(s.tree, labelsFile))
		must(t, err, json.Unmarshal(text, &labels))
		if labels["who"] != tc.who || labels["kept"] != tc.kept || labels["org.label-schema.usage.netroot.version"] != "test" {
			t.Errorf("%s: labels %q", tc.name, labels)
		}
	}
}

// ociImage writes an image of a busybox into an OCI layout.
func ociImage(t *testing.T, dir string) {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	must(t, w.WriteHeader(&tar.Header{Name: "bin", Typeflag: tar.TypeDir, Mode: 0o755}), w.Close())
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	must(t, err)
	img, err := mutate.AppendLayers(empty.Image, l)
	must(t, err)
	config, err := img.ConfigFile()
	must(t, err)
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config.Entrypoint, config.Config.Cmd = []string{"busybox", "echo", "image"}, []string{"cmd"}
	config.Config.Labels = map[string]string{"who": "image", "kept": "yes"}
	img, err = mutate.ConfigFile(img, config)
	must(t, err)
	at, err := layout.Write(dir, empty.Index)
	must(t, err, at.AppendImage(img))
}
