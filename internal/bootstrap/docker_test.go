package bootstrap

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"go.uber.org/goleak"
)

// imageOf makes an image for an architecture.
func imageOf(t testing.TB, arch string, env []string, layers ...[]byte) v1.Image {
	t.Helper()
	img := v1.Image(empty.Image)
	for _, l := range layers {
		l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(l)), nil })
		must(t, err)
		img, err = mutate.AppendLayers(img, l)
		must(t, err)
	}
	config, err := img.ConfigFile()
	must(t, err)
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Config.Env = "linux", arch, env
	img, err = mutate.ConfigFile(img, config)
	must(t, err)
	return img
}

// sample is an image whose layers have every effect on each other; wantSample is the resulting
// tree.
func sample(t testing.TB) v1.Image {
	root := []file{
		{name: "null", typ: tar.TypeChar, mode: 0o666, edit: func(h *tar.Header) { h.Devmajor, h.Devminor = 1, 3 }},
		{name: "ping", body: "x", mode: 0o4755, edit: func(h *tar.Header) {
			h.Uid, h.PAXRecords = 7, map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}
		}},
	}
	if os.Geteuid() != 0 {
		root = nil
	}
	img := imageOf(t, goarch, []string{"PATH=/opt/bin:/bin", "QUOTE=it's $HOME", "MINE=image", "BAD-NAME=x"},
		layerOf(t, append(root, lower...)...),
		layerOf(t, file{name: "a/.wh.x"}, file{name: "hard", to: "a/y", typ: tar.TypeLink}, file{name: strings.Repeat("long/", 60) + "f", body: "5"}),
		layerOf(t, file{name: ".wh.long"}, file{name: "a/d/"}, file{name: "a/d/.wh..wh..opq"}, file{name: "a/d/new", body: "6"}, file{name: "f", to: "a/d/new"}),
	)
	return startOf(t, img, []string{"printf", "<%s>"}, []string{"it's", "a $b\nc"}, map[string]string{"org.example.who": "the \"image\""})
}

// startOf sets the command and the labels of an image.
func startOf(t testing.TB, img v1.Image, entrypoint, cmd []string, labels map[string]string) v1.Image {
	t.Helper()
	config, err := img.ConfigFile()
	must(t, err)
	config = config.DeepCopy()
	config.Config.Entrypoint, config.Config.Cmd, config.Config.Labels = entrypoint, cmd, labels
	img, err = mutate.ConfigFile(img, config)
	must(t, err)
	return img
}

// checkStart runs the runscript of an unpacked sample, and reads its labels.
func checkStart(t *testing.T, dir string) {
	t.Helper()
	script := filepath.Join(dir, ".singularity.d/runscript")
	if fi, err := os.Lstat(script); err != nil || fi.Mode() != 0o755 {
		t.Fatalf("the runscript: %v %v", fi, err)
	}
	for want, args := range map[string][]string{"<it's><a $b\nc>": nil, "<x y><>": {"x y", ""}} {
		if got := string(output(t, "/bin/sh", append([]string{script}, args...)...)); got != want {
			t.Errorf("the runscript with %q: %q, want %q", args, got, want)
		}
	}
	labels, err := os.ReadFile(filepath.Join(dir, ".singularity.d/labels.json"))
	if want := "{\n\t\"org.example.who\": \"the \\\"image\\\"\"\n}"; err != nil || string(labels) != want {
		t.Errorf("labels %s %v, want %s", labels, err, want)
	}
}

// TestRunscript checks Docker's table of ENTRYPOINT and CMD.
func TestRunscript(t *testing.T) {
	for _, tc := range []struct {
		entrypoint, cmd, args []string
		want                  string
	}{
		{nil, nil, nil, ""},
		{nil, nil, []string{"echo", "arg"}, "arg\n"},
		{nil, []string{"echo", "cmd"}, nil, "cmd\n"},
		{nil, []string{"echo", "cmd"}, []string{"echo", "arg"}, "arg\n"},
		{[]string{"echo", "entry"}, nil, nil, "entry\n"},
		{[]string{"echo", "entry"}, nil, []string{"arg"}, "entry arg\n"},
		{[]string{"echo", "entry"}, []string{"cmd"}, nil, "entry cmd\n"},
		{[]string{"echo", "entry"}, []string{"cmd"}, []string{"arg"}, "entry arg\n"},
	} {
		script := filepath.Join(t.TempDir(), "runscript")
		must(t, os.WriteFile(script, []byte(runscript(tc.entrypoint, tc.cmd)), 0o755))
		if got := string(output(t, "/bin/sh", append([]string{script}, tc.args...)...)); got != tc.want {
			t.Errorf("%q %q with %q: %q, want %q", tc.entrypoint, tc.cmd, tc.args, got, tc.want)
		}
	}
}

// TestMetaOfALayer has a layer with links at the places of the files about the image.
func TestMetaOfALayer(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(outside, []byte("outside"), 0o644))
	dir := t.TempDir()
	writeLayout(t, dir, map[string]mutate.Appendable{"": startOf(t, imageOf(t, goarch, nil, layerOf(t,
		file{name: ".singularity.d/"},
		file{name: ".singularity.d/runscript", to: outside},
		file{name: ".singularity.d/labels.json/"},
		file{name: ".singularity.d/labels.json/x"},
	)), []string{"printf", "<%s>"}, []string{"it's", "a $b\nc"}, map[string]string{"org.example.who": "the \"image\""})})
	j := job(t, "Bootstrap: oci\nFrom: "+dir+"\n")
	must(t, runAgent(t, j))
	checkStart(t, j.Root)
	if text, err := os.ReadFile(outside); string(text) != "outside" {
		t.Errorf("a link was written through: %q %v", text, err)
	}
}

// wantSample lists sample's tree, without devices and base directories.
var wantSample = []string{"a/", "a/d/", "a/d/new=6", "a/y=2", "abs->/a/d", "f->a/d/new", "hard=2", "l->a"}

// sampleOf lists the files of an unpacked sample.
func sampleOf(t testing.TB, dir string) []string {
	var got []string
	for _, line := range list(t, dir) {
		if line[0] == 'a' || line[0] == 'f' || line[0] == 'h' || line[0] == 'l' {
			got = append(got, line)
		}
	}
	return got
}

// serveImages starts a registry with images on loopback.
func serveImages(t *testing.T, images map[string]remote.Taggable) (host string) {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host = strings.TrimPrefix(server.URL, "http://")
	for at, img := range images {
		push(t, host+"/"+at, img)
	}
	return host
}

func push(t *testing.T, at string, img remote.Taggable) {
	t.Helper()
	ref, err := name.ParseReference(at)
	must(t, err)
	if index, ok := img.(v1.ImageIndex); ok {
		must(t, remote.WriteIndex(ref, index))
		return
	}
	must(t, remote.Write(ref, img.(v1.Image)))
}

func runAgent(t *testing.T, j Job) error {
	t.Helper()
	agent, err := For(j.Stage.Agent())
	must(t, err)
	return agent(t.Context(), j)
}

func TestDockerReference(t *testing.T) {
	for _, tc := range []struct{ header, want string }{
		{"From: debian:12", name.DefaultRegistry + "/library/debian:12"},
		{"From: docker://debian", name.DefaultRegistry + "/library/debian:latest"},
		{"From: docker:27", name.DefaultRegistry + "/library/docker:27"},
		{"From: //me/img:1", name.DefaultRegistry + "/me/img:1"},
		{"From: img\nRegistry: r.example:5000\nNamespace: a/b", "https://r.example:5000/a/b/img:latest"},
		{"From: img:2\nRegistry: http://r.example/\nNamespace: /a/", "http://r.example/a/img:2"},
		{"From: localhost:5000/img", "http://localhost:5000/img:latest"},
		{"From: r.example/img:1@sha256:" + strings.Repeat("a", 64), "https://r.example/img@sha256:" + strings.Repeat("a", 64)},
		{"From:", "From: is missing"},
		{"From: UPPER/case", "From: could not parse reference"},
		{"From: img@sha256:12", "From: could not parse reference"},
	} {
		ref, err := job(t, "Bootstrap: docker\n"+tc.header+"\n").reference()
		if err != nil {
			if !strings.HasPrefix(err.Error(), tc.want) {
				t.Errorf("%q: %v", tc.header, err)
			}
			continue
		}
		got := ref.Name()
		if strings.Contains(tc.want, "://") {
			got = ref.Context().Scheme() + "://" + got
		}
		if got != tc.want {
			t.Errorf("%q: %s, want %s", tc.header, got, tc.want)
		}
	}
}

func TestDocker(t *testing.T) {
	img := sample(t)
	digest, err := img.Digest()
	must(t, err)
	other := imageOf(t, "mips64", nil, layerOf(t, file{name: "wrong"}))
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "mips64"}}},
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: goarch}}},
	)
	host := serveImages(t, map[string]remote.Taggable{"ns/img:1": img, "index": index, "other": other})
	for _, header := range []string{
		"From: " + host + "/ns/img:1",
		"From: img:1\nNamespace: ns\nRegistry: " + host,
		"From: img:1\nNamespace: ns\nRegistry: http://" + host + "/",
		"From: " + host + "/ns/img@" + digest.String(),
		"From: " + host + "/index",
	} {
		var out bytes.Buffer
		j := job(t, "Bootstrap: docker\n"+header+"\n")
		j.Log = &out
		must(t, runAgent(t, j))
		if diff := cmp.Diff(wantSample, sampleOf(t, j.Root)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", header, diff)
		}
		for _, line := range []string{"fetching " + host, "layer 1 of 3: ", "layer 3 of 3: "} {
			if !strings.Contains(out.String(), line) {
				t.Errorf("the log lacks %q:\n%s", line, &out)
			}
		}
		script := `MINE=caller; . "$0"; echo "$PATH|$QUOTE|$MINE"`
		got := string(output(t, "/bin/sh", "-eu", "-c", script, filepath.Join(j.Root, envFile)))
		if want := "/opt/bin:/bin|it's $HOME|caller\n"; got != want {
			t.Errorf("the environment is %q, want %q", got, want)
		}
		checkStart(t, j.Root)
	}
	for from, want := range map[string]string{
		"ns/img:2": "MANIFEST_UNKNOWN",
		"none":     "NAME_UNKNOWN",
		"other":    "the image is for linux/mips64, but this host makes trees for linux/" + goarch,
		"img:!":    "could not parse reference",
	} {
		if err := runAgent(t, job(t, "Bootstrap: docker\nFrom: "+host+"/"+from+"\n")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", from, err, want)
		}
	}
}

// TestDockerCredentials has a registry that requires a password, and stores it in every place that
// users have.
func TestDockerCredentials(t *testing.T) {
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, ok := r.BasicAuth(); !ok || user != "u" || password != "secret" {
			w.Header().Set("WWW-Authenticate", `Basic realm="ours"`)
			w.WriteHeader(http.StatusUnauthorized)
			io.WriteString(w, `{"errors":[{"code":"UNAUTHORIZED","message":"who are you?"}]}`)
			return
		}
		images.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	ref, err := name.ParseReference(host + "/img")
	must(t, err)
	must(t, remote.Write(ref, sample(t), remote.WithAuth(&authn.Basic{Username: "u", Password: "secret"})))

	const good, bad = "dTpzZWNyZXQ=", "dTp3cm9uZw==" // u:secret, u:wrong
	for _, tc := range []struct {
		name, file, auth string
		env              []string
		want             string
	}{
		{name: "none", want: "who are you?"},
		{name: "wrong", file: ".docker/config.json", auth: bad, want: "log in with `docker login`"},
		{name: "docker", file: ".docker/config.json", auth: good},
		{name: "podman", file: ".config/containers/auth.json", auth: good},
		{name: "apptainer", file: ".apptainer/docker-config.json", auth: good},
		{name: "singularity", file: ".singularity/docker-config.json", auth: good},
		{name: "environment", env: []string{"APPTAINER_DOCKER_USERNAME=u", "APPTAINER_DOCKER_PASSWORD=secret"}},
		{name: "environment first", env: []string{"SINGULARITY_DOCKER_USERNAME=u", "SINGULARITY_DOCKER_PASSWORD=secret"}, file: ".docker/config.json", auth: bad},
		{name: "broken file", file: ".apptainer/docker-config.json", auth: "\n", want: "docker-config.json: invalid character"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			home := t.TempDir()
			for _, unset := range []string{"XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "REGISTRY_AUTH_FILE"} {
				t.Setenv(unset, "")
			}
			t.Setenv("HOME", home)
			// Docker's library keeps the first HOME that it reads.
			t.Setenv("DOCKER_CONFIG", filepath.Join(home, ".docker"))
			if tc.file != "" {
				path := filepath.Join(home, tc.file)
				must(t, os.MkdirAll(filepath.Dir(path), 0o700))
				must(t, os.WriteFile(path, []byte(`{"auths":{"`+host+`":{"auth":"`+tc.auth+`"}}}`), 0o600))
			}
			j := job(t, "Bootstrap: docker\nFrom: "+host+"/img\n")
			j.Env = append(j.Env, append(tc.env, "HOME="+home)...)
			err := runAgent(t, j)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error contains the password: %v", err)
			}
		})
	}
}

// TestDockerCancelled cancels a download in the middle of a layer: the download must end.
func TestDockerCancelled(t *testing.T) {
	goleak.VerifyNone(t)
	defer goleak.VerifyNone(t)
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	var slow bool
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slow && strings.Contains(r.URL.Path, "/blobs/") {
			full := httptest.NewRecorder()
			images.ServeHTTP(full, r)
			if full.Body.Len() > 100_000 {
				w.Write(full.Body.Bytes()[:50_000])
				w.(http.Flusher).Flush()
				<-r.Context().Done()
				return
			}
		}
		images.ServeHTTP(w, r)
	}))
	defer server.Close()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	host := strings.TrimPrefix(server.URL, "http://")
	noise := make([]byte, 1<<20)
	for i, x := 0, uint32(1); i < len(noise); i++ {
		x = x*1664525 + 1013904223
		noise[i] = byte(x >> 24)
	}
	ref, err := name.ParseReference(host + "/img")
	must(t, err)
	must(t, remote.Write(ref, imageOf(t, goarch, nil, layerOf(t, file{name: "f", body: string(noise)})), remote.WithTransport(http.DefaultTransport)))
	slow = true
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	j := job(t, "Bootstrap: docker\nFrom: "+host+"/img\n")
	j.Log = writerFunc(func(p []byte) {
		if bytes.HasPrefix(p, []byte("layer 1")) {
			cancel()
		}
	})
	if err := docker(ctx, j); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// TestDockerDamaged has a registry whose bytes do not match the digest.
func TestDockerDamaged(t *testing.T) {
	images := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	l := layerOf(t, file{name: "f", body: "right"})
	swapped, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layerOf(t, file{name: "f", body: "wrong"}))), nil
	})
	must(t, err)
	var damage []byte
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/blobs/") && damage != nil && r.Method == http.MethodGet {
			full := httptest.NewRecorder()
			images.ServeHTTP(full, r)
			if full.Body.Bytes()[0] == 0x1f {
				w.Write(damage)
				return
			}
			w.Write(full.Body.Bytes())
			return
		}
		images.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	push(t, host+"/img", imageOf(t, goarch, nil, l))
	r, err := swapped.Compressed()
	must(t, err)
	damage, err = io.ReadAll(r)
	must(t, err)
	if err := runAgent(t, job(t, "Bootstrap: docker\nFrom: "+host+"/img\n")); err == nil || !strings.Contains(err.Error(), "layer 1 of 1") {
		t.Errorf("error %v", err)
	}
}

func TestOras(t *testing.T) {
	needRoot(t)
	sif := packedSIF(t)
	host := serveImages(t, map[string]remote.Taggable{"plain": sample(t)})
	push(t, host+"/img:1", artifactOf(t, "application/vnd.sylabs.sif.layer.v1.sif", sif))
	push(t, host+"/text", artifactOf(t, "text/plain", []byte("x")))
	push(t, host+"/broken", artifactOf(t, "application/vnd.sylabs.sif.layer.v1.sif", sif[:40000]))
	t.Setenv("TMPDIR", t.TempDir())
	j := job(t, "Bootstrap: oras\nFrom: oras://"+host+"/img:1\n")
	must(t, runAgent(t, j))
	if got, err := os.ReadFile(filepath.Join(j.Root, "etc/motd")); err != nil || string(got) != "packed\n" {
		t.Errorf("etc/motd: %q, %v", got, err)
	}
	for from, want := range map[string]string{
		"plain":  "an image of layers, not a SIF: use `Bootstrap: docker`",
		"text":   "no SIF in the artifact, only text/plain",
		"broken": "damaged SIF",
		"none":   "NAME_UNKNOWN",
	} {
		if err := runAgent(t, job(t, "Bootstrap: oras\nFrom: "+host+"/"+from+"\n")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", from, err, want)
		}
	}
	if left, _ := os.ReadDir(os.TempDir()); len(left) > 0 {
		t.Errorf("left in TMPDIR: %v", left)
	}
}

// TestElsewhere checks the advice for the agents that netroot does not have.
func TestElsewhere(t *testing.T) {
	for _, name := range []string{"docker-daemon", "library", "shub", "dockerfile", "buildkit"} {
		if _, err := For(name); err == nil || !strings.Contains(err.Error(), name+" is not built in: ") || !strings.Contains(err.Error(), "`Bootstrap: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
