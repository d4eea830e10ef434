package bootstrap

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	spec "github.com/opencontainers/image-spec/specs-go/v1"
)

// artifactOf makes what oras pushes: one blob, and a configuration that is not an image's.
func artifactOf(t *testing.T, mediaType string, body []byte) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), static.NewLayer(body, types.MediaType(mediaType)))
	must(t, err)
	return mutate.ConfigMediaType(img, "application/vnd.sylabs.sif.config.v1+json")
}

// writeLayout writes images with their names into an OCI layout.
func writeLayout(t *testing.T, dir string, images map[string]mutate.Appendable) {
	t.Helper()
	l, err := layout.Write(dir, empty.Index)
	must(t, err)
	for name, img := range images {
		opt := layout.WithAnnotations(map[string]string{spec.AnnotationRefName: name})
		if index, ok := img.(v1.ImageIndex); ok {
			must(t, l.AppendIndex(index, opt))
		} else {
			must(t, l.AppendImage(img.(v1.Image), opt))
		}
	}
}

// packed makes an archive of a directory.
func packed(t *testing.T, dir, file string) {
	t.Helper()
	output(t, needTool(t, "tar"), "-C", dir, "-cf", file, ".")
}

func compressed(t *testing.T, file string) {
	t.Helper()
	plain, err := os.ReadFile(file)
	must(t, err)
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	w.Write(plain)
	must(t, w.Close())
	must(t, os.WriteFile(file+".gz", gz.Bytes(), 0o644))
	z, err := zstd.NewWriter(nil)
	must(t, err)
	must(t, os.WriteFile(file+".zst", z.EncodeAll(plain, nil), 0o644))
}

func TestLayoutsAndArchives(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	img := sample(t)
	digest, err := img.Digest()
	must(t, err)
	foreign := imageOf(t, "mips64", nil, layerOf(t, file{name: "wrong"}))
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: foreign, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "mips64"}}},
		mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: goarch}}})
	writeLayout(t, at("one"), map[string]mutate.Appendable{"": img})
	writeLayout(t, at("many"), map[string]mutate.Appendable{"a:1": img, "b": foreign, "all": index})
	packed(t, at("one"), at("one.tar"))
	packed(t, at("many"), at("many.tar"))
	tag := func(s string) name.Reference {
		r, err := name.NewTag(s)
		must(t, err)
		return r
	}
	must(t, tarball.WriteToFile(at("save.tar"), tag("x/img:1"), img))
	must(t, tarball.MultiRefWriteToFile(at("saves.tar"), map[name.Reference]v1.Image{tag("x/img:1"): img, tag("other:2"): foreign}))
	for _, archive := range []string{"one.tar", "save.tar"} {
		compressed(t, at(archive))
	}
	must(t, os.Mkdir(at("empty"), 0o755))
	must(t, os.WriteFile(at("text"), []byte("no archive"), 0o644))
	must(t, os.CopyFS(at("damaged"), os.DirFS(at("one"))))
	layers, err := img.Layers()
	must(t, err)
	last, err := layers[2].Digest()
	must(t, err)
	first, err := layers[0].Digest()
	must(t, err)
	must(t, os.Rename(at("damaged/blobs/sha256/"+first.Hex), at("damaged/blobs/sha256/"+last.Hex)))
	must(t, os.WriteFile(at("hostile.tar"), layerOf(t, file{name: "../../escaped", body: "x"}), 0o644))
	t.Setenv("TMPDIR", t.TempDir())

	for header, want := range map[string]string{
		"oci\nFrom: one":          "",
		"oci\nFrom: oci://one":    "",
		"oci\nFrom: many:a:1":     "",
		"oci\nFrom: many:all":     "",
		"oci\nFrom: " + at("one"): "",
		// A digest follows a colon, like a name.
		"oci\nFrom: many@" + digest.String():       "From: stat ",
		"oci\nFrom: many:" + digest.String():       "",
		"oci\nFrom: many:b":                        "the image is for linux/mips64",
		"oci\nFrom: many:c":                        `no image "c": use one of `,
		"oci\nFrom: many":                          "several images: add one of :",
		"oci\nFrom: none":                          "From: stat ",
		"oci\nFrom:":                               "From: is missing",
		"oci\nFrom: empty":                         "does not contain an OCI image layout",
		"oci\nFrom: text":                          "does not contain an OCI image layout",
		"oci\nFrom: damaged":                       "layer 1 of 3",
		"oci-archive\nFrom: one.tar":               "",
		"oci-archive\nFrom: one.tar.gz":            "",
		"oci-archive\nFrom: one.tar.zst":           "",
		"oci-archive\nFrom: many.tar:a:1":          "",
		"oci-archive\nFrom: text":                  "unexpected EOF",
		"oci-archive\nFrom: hostile.tar":           `has ".." in its name`,
		"oci-archive\nFrom: save.tar":              "does not contain an OCI image layout",
		"docker-archive\nFrom: save.tar":           "",
		"docker-archive\nFrom: save.tar:x/img:1":   "",
		"docker-archive\nFrom: save.tar.gz":        "",
		"docker-archive\nFrom: save.tar.zst":       "",
		"docker-archive\nFrom: saves.tar:x/img:1":  "",
		"docker-archive\nFrom: saves.tar":          "several images: add one of :",
		"docker-archive\nFrom: saves.tar:other:2":  "the image is for linux/mips64",
		"docker-archive\nFrom: saves.tar:third:2":  "not found in tarball",
		"docker-archive\nFrom: text":               "is not an archive of `docker save`",
		"docker-archive\nFrom: one.tar":            "is not an archive of `docker save`",
		"docker-archive\nFrom: save.tar:UPPER/x:1": "From: ",
	} {
		if strings.HasSuffix(header, "oci-archive\nFrom: save.tar") && os.Geteuid() != 0 {
			continue // its files belong to root
		}
		j := job(t, "Bootstrap: "+header+"\n")
		j.Dir = dir
		err := runAgent(t, j)
		if want != "" {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %q", header, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", header, err)
			continue
		}
		if diff := cmp.Diff(wantSample, sampleOf(t, j.Root)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", header, diff)
		}
		checkStart(t, j.Root)
	}
	if left, _ := os.ReadDir(os.TempDir()); len(left) > 0 {
		t.Errorf("left in TMPDIR: %v", left)
	}
	if _, err := os.Stat(at("escaped")); err == nil {
		t.Error("an archive wrote beside its directory")
	}
}

// TestSkopeo makes skopeo fetch an image and write every format that the agents read. All formats
// must give the same tree.
func TestSkopeo(t *testing.T) {
	skopeo := needTool(t, "skopeo")
	host := serveImages(t, map[string]remote.Taggable{"img:1": sample(t)})
	dir := t.TempDir()
	for transport, from := range map[string]string{
		"oci:" + dir + "/layout:tag":                  "oci\nFrom: layout:tag",
		"oci-archive:" + dir + "/oci.tar:tag":         "oci-archive\nFrom: oci.tar",
		"docker-archive:" + dir + "/save.tar:img:one": "docker-archive\nFrom: save.tar:img:one",
	} {
		output(t, skopeo, "--insecure-policy", "copy", "--src-tls-verify=false", "docker://"+host+"/img:1", transport)
		j := job(t, "Bootstrap: "+from+"\n")
		j.Dir = dir
		must(t, runAgent(t, j))
		if diff := cmp.Diff(wantSample, sampleOf(t, j.Root)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", transport, diff)
		}
	}
	output(t, skopeo, "--insecure-policy", "copy", "--dest-tls-verify=false", "--dest-compress-format=zstd", "oci:"+dir+"/layout:tag", "docker://"+host+"/zstd")
	j := job(t, "Bootstrap: docker\nFrom: "+host+"/zstd\n")
	must(t, runAgent(t, j))
	if diff := cmp.Diff(wantSample, sampleOf(t, j.Root)); diff != "" {
		t.Errorf("zstd (-want +got):\n%s", diff)
	}
}

// TestUmoci compares our tree of an image with that of another unpacker, file by file.
func TestUmoci(t *testing.T) {
	needRoot(t)
	umoci := needTool(t, "umoci")
	dir := t.TempDir()
	host := serveImages(t, map[string]remote.Taggable{"img": sample(t)})
	output(t, needTool(t, "skopeo"), "--insecure-policy", "copy", "--src-tls-verify=false", "docker://"+host+"/img", "oci:"+dir+"/oci:tag")
	output(t, umoci, "raw", "unpack", "--image", filepath.Join(dir, "oci:tag"), filepath.Join(dir, "theirs"))
	j := job(t, "Bootstrap: oci\nFrom: oci:tag\n")
	j.Dir = dir
	must(t, ociLayout(t.Context(), j))
	must(t, os.RemoveAll(filepath.Join(j.Root, ".singularity.d")))
	want, got := describe(t, filepath.Join(dir, "theirs")), describe(t, j.Root)
	for _, m := range []map[string]string{want, got} {
		delete(m, ".")
		delete(m, "a") // its time changed when files were removed from it
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-umoci +ours):\n%s", diff)
	}
}
