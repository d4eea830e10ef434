package bootstrap

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	spec "github.com/opencontainers/image-spec/specs-go/v1"

	"netroot/internal/layer"
)

// ociLayout unpacks an image of an OCI image layout. From is its directory, with :NAME (or a
// digest) when it contains several images.
func ociLayout(ctx context.Context, j Job) error {
	dir, name, err := j.fileAndName()
	if err != nil {
		return err
	}
	return j.installLayout(ctx, dir, name)
}

// ociArchive unpacks an image of an OCI image layout in a tar archive, compressed or not. From is
// the file, with :NAME when it contains several images.
func ociArchive(ctx context.Context, j Job) error {
	file, name, err := j.fileAndName()
	if err != nil {
		return err
	}
	archive, err := openTar(file)
	if err != nil {
		return err
	}
	defer archive.Close()
	dir, err := os.MkdirTemp("", "netroot-oci-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	report := func(n int64) { j.logf("reading %s: %s", file, megabytes(n)) }
	if err := layer.Apply(root, &progress{ctx: ctx, r: archive, report: report}); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return j.installLayout(ctx, dir, name)
}

func (j Job) installLayout(ctx context.Context, dir, name string) error {
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		return fmt.Errorf("From: %s does not contain an OCI image layout: %w", j.header("From"), err)
	}
	img, err := pick(index, name, indexDepth)
	if err != nil {
		return fmt.Errorf("From: %s: %w", j.header("From"), err)
	}
	return j.install(ctx, img)
}

// indexDepth is the greatest depth of nested indexes.
const indexDepth = 4

// pick returns the only image of an index that is for this platform and has the name, if a name is
// given.
func pick(index v1.ImageIndex, name string, depth int) (v1.Image, error) {
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	var found []v1.Descriptor
	var names, platforms []string
	for _, d := range manifest.Manifests {
		called := d.Annotations[spec.AnnotationRefName]
		names = append(names, orDigest(called, d))
		if name != "" && called != name && d.Digest.String() != name || !d.MediaType.IsImage() && !d.MediaType.IsIndex() {
			continue
		}
		if d.Platform != nil && !d.Platform.Satisfies(platform()) {
			platforms = append(platforms, d.Platform.String())
			continue
		}
		same := func(f v1.Descriptor) bool { return f.Digest == d.Digest }
		if !slices.ContainsFunc(found, same) {
			found = append(found, d)
		}
	}
	switch {
	case len(found) == 0 && len(platforms) > 0:
		return nil, fmt.Errorf("no image for %s, only for %s", platform(), strings.Join(platforms, ", "))
	case len(found) == 0 && name != "":
		return nil, fmt.Errorf("no image %q: use one of %s", name, strings.Join(names, ", "))
	case len(found) == 0:
		return nil, fmt.Errorf("no image")
	case len(found) > 1:
		return nil, fmt.Errorf("several images: add one of :%s", strings.Join(names, ", :"))
	case found[0].MediaType.IsImage():
		return index.Image(found[0].Digest)
	case depth == 0:
		return nil, fmt.Errorf("indexes nested too deeply")
	}
	below, err := index.ImageIndex(found[0].Digest)
	if err != nil {
		return nil, err
	}
	return pick(below, "", depth-1)
}

func orDigest(name string, d v1.Descriptor) string {
	if name == "" {
		return d.Digest.String()
	}
	return name
}
