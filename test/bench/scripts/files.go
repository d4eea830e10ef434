package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// configuration writes netroot.yaml and its layers.
func (b *bench) configuration() error {
	var names []string
	for i := range b.layers {
		name := fmt.Sprintf("layer%d", i)
		names = append(names, name)
		dir := filepath.Join(b.dir, "layers", name, "etc", "many")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		for j := range b.files {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(j)), []byte(strings.Repeat("x", 4096)), 0o644); err != nil {
				return err
			}
		}
	}
	text := "labels:\n  bench:\n    transport: http\n    layers: [" + strings.Join(names, ", ") + "]\n"
	return os.WriteFile(filepath.Join(b.dir, "netroot.yaml"), []byte(text), 0o644)
}

func (b *bench) state(versions int) string {
	return filepath.Join(b.dir, fmt.Sprintf("state%d", versions))
}

// descriptor and the types below are what the store of every version of netroot reads (OCI
// image-spec v1.1).
type descriptor struct {
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Digest       string            `json:"digest"`
	Size         int               `json:"size"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

const (
	imageType    = "application/vnd.netroot.image.v1"
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	refName      = "org.opencontainers.image.ref.name"
)

// store writes an image store with so many versions of the label bench, as netroot wrote it before
// names moved out of images: with the packages in the configuration, and two entries for the newest
// version.
func (b *bench) store(versions int) error {
	dir := filepath.Join(b.state(versions), "images")
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return err
	}
	blob := func(mediaType string, content []byte) (descriptor, error) {
		sum := sha256.Sum256(content)
		name := hex.EncodeToString(sum[:])
		return descriptor{MediaType: mediaType, Digest: "sha256:" + name, Size: len(content)},
			os.WriteFile(filepath.Join(blobs, name), content, 0o644)
	}
	object := func(mediaType string, v any) (descriptor, error) {
		raw, err := json.Marshal(v)
		if err != nil {
			return descriptor{}, err
		}
		return blob(mediaType, raw)
	}
	var packages []string
	for i := range b.packages {
		packages = append(packages, fmt.Sprintf("package-with-a-name-%d 1:2.3.%d-4+deb12u5", i, i))
	}
	var entries []descriptor
	var names []string
	entry := func(d descriptor, name string) {
		d.ArtifactType, d.Annotations = imageType, map[string]string{refName: name}
		entries = append(entries, d)
	}
	var last descriptor
	for i := range versions {
		var layers []descriptor
		for _, role := range []string{"kernel", "initramfs", "root"} {
			d, err := blob("application/vnd.netroot.image."+role+".v1", fmt.Appendf(nil, "%s of version %d", role, i))
			if err != nil {
				return err
			}
			d.Annotations = map[string]string{"org.opencontainers.image.title": role, "vnd.netroot.role": role}
			layers = append(layers, d)
		}
		config, err := object("application/vnd.netroot.image.config.v1+json", map[string]any{
			"label": "bench", "created": time.Unix(1700000000+int64(i), 0).UTC(), "architecture": "amd64", "kernelRelease": "6.1.0-1-amd64",
			"rootFormat": "squashfs", "transports": []string{"http"}, "packages": packages,
		})
		if err != nil {
			return err
		}
		last, err = object(manifestType, map[string]any{
			"schemaVersion": 2, "mediaType": manifestType, "artifactType": imageType, "config": config, "layers": layers,
		})
		if err != nil {
			return err
		}
		name := "bench@" + strings.TrimPrefix(last.Digest, "sha256:")[:12]
		names = append(names, name)
		entry(last, name)
	}
	entry(last, "bench")
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries})
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{
		filepath.Join(dir, "oci-layout"):          []byte(`{"imageLayoutVersion":"1.0.0"}`),
		filepath.Join(dir, "index.json"):          index,
		filepath.Join(b.state(versions), "names"): []byte(strings.Join(names, "\n")),
	} {
		if err := os.WriteFile(name, content, 0o644); err != nil {
			return err
		}
	}
	return nil
}
