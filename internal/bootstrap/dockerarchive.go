package bootstrap

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"
)

// dockerArchive unpacks an image from the output of `docker save`, compressed or not. From is the
// file, with :NAME:TAG when it contains several images.
func dockerArchive(ctx context.Context, j Job) error {
	file, called, err := j.fileAndName()
	if err != nil {
		return err
	}
	opener := func() (io.ReadCloser, error) { return openTar(file) }
	manifest, err := tarball.LoadManifest(opener)
	if err != nil {
		return fmt.Errorf("From: %s is not an archive of `docker save`: %w", file, err)
	}
	var tag *name.Tag
	if called != "" {
		t, err := name.NewTag(called)
		if err != nil {
			return fmt.Errorf("From: %w", err)
		}
		tag = &t
	} else if len(manifest) != 1 {
		var names []string
		for _, m := range manifest {
			names = append(names, m.RepoTags...)
		}
		return fmt.Errorf("From: %s contains several images: add one of :%s", file, strings.Join(names, ", :"))
	}
	img, err := tarball.Image(opener, tag)
	if err != nil {
		return fmt.Errorf("From: %s: %w", file, err)
	}
	return j.install(ctx, img)
}

// fileAndName splits From into the path of a file or directory and the name of an image in it,
// which may be empty.
func (j Job) fileAndName() (file, called string, err error) {
	from, err := j.from("a file or directory")
	if err != nil {
		return "", "", err
	}
	file = j.absolute(from)
	_, err = os.Stat(file)
	// Take the shortest path that exists, because names contain colons too.
	for i := 0; err != nil && i < len(from); i++ {
		if from[i] != ':' || i == 0 {
			continue
		}
		if _, e := os.Stat(j.absolute(from[:i])); e == nil {
			return j.absolute(from[:i]), strings.TrimPrefix(from[i+1:], "@"), nil
		}
	}
	if err != nil {
		return "", "", fmt.Errorf("From: %w", err)
	}
	return file, "", nil
}

// openTar opens an archive, which may be compressed with gzip or zstd.
func openTar(file string) (io.ReadCloser, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	r, err := decompress(f)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", file, err), f.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{r, closeAll{r, f}}, nil
}

func decompress(f io.Reader) (io.ReadCloser, error) {
	r := bufio.NewReaderSize(f, 1<<16)
	magic, err := r.Peek(4)
	switch {
	case err == nil && bytes.HasPrefix(magic, []byte{0x1f, 0x8b}): // RFC 1952, 2.3.1
		return gzip.NewReader(r)
	case err == nil && bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}): // RFC 8878, 3.1.1
		z, err := zstd.NewReader(r)
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(r), nil
}

type closeAll []io.Closer

func (c closeAll) Close() error {
	var errs []error
	for _, closer := range c {
		errs = append(errs, closer.Close())
	}
	return errors.Join(errs...)
}
