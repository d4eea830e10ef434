package bootstrap

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// oras unpacks a SIF that `apptainer push` put into a registry. From names it as with docker.
func oras(ctx context.Context, j Job) error {
	if err := j.refuseFingerprints("fetch it with `apptainer pull`, run `apptainer verify` on it, use `Bootstrap: localimage`"); err != nil {
		return err
	}
	return j.withRegistry(ctx, func(ref name.Reference, opts []remote.Option) error {
		img, err := remote.Image(ref, opts...)
		if err != nil {
			return err
		}
		blob, err := sifLayer(img)
		if err != nil {
			return fmt.Errorf("%s: %w", ref, err)
		}
		file, err := os.CreateTemp("", "netroot-*.sif")
		if err != nil {
			return err
		}
		defer os.Remove(file.Name())
		defer file.Close()
		if err := j.download(ctx, blob, file); err != nil {
			return fmt.Errorf("%s: %w", ref, err)
		}
		return j.installFile(ctx, file, ref.String())
	})
}

// sifLayer finds the SIF among the parts of an artifact. Several spellings of the media type are in
// use.
func sifLayer(img v1.Image) (v1.Layer, error) {
	manifest, err := img.Manifest()
	if err != nil {
		return nil, err
	}
	var others []string
	for _, d := range manifest.Layers {
		if strings.Contains(string(d.MediaType), "vnd.sylabs.sif.layer") {
			return img.LayerByDigest(d.Digest)
		}
		others = append(others, string(d.MediaType))
	}
	if manifest.Config.MediaType.IsConfig() {
		return nil, fmt.Errorf("an image of layers, not a SIF: use `Bootstrap: docker`")
	}
	return nil, fmt.Errorf("no SIF in the artifact, only %s", strings.Join(others, ", "))
}

func (j Job) download(ctx context.Context, blob v1.Layer, to io.Writer) error {
	size, err := blob.Size()
	if err != nil {
		return err
	}
	j.logf("SIF: %s", megabytes(size))
	r, err := blob.Compressed() // the stored bytes; remote checks their digest
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(to, &progress{ctx: ctx, r: r, report: func(n int64) { j.logf("SIF: %s received", megabytes(n)) }})
	return err
}
