package layout

import (
	_ "crypto/sha256" // go-digest computes with what is linked in
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tidwall/gjson"
)

// OpenBlob opens the blob that d describes, when it is there in full length.
func (l *Layout) OpenBlob(d v1.Descriptor) (*os.File, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w", d.Digest, err)
	}
	f, err := os.Open(l.BlobPath(d.Digest))
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	if info.Size() != d.Size {
		f.Close()
		return nil, fmt.Errorf("%s is damaged: it has %d bytes and should have %d: build the image again", f.Name(), info.Size(), d.Size)
	}
	return f, nil
}

// ReadAll reads a small blob and checks its digest.
func (l *Layout) ReadAll(d v1.Descriptor) ([]byte, error) {
	const limit = 64 << 20 // a package list is a few hundred KiB
	if d.Size > limit {
		return nil, fmt.Errorf("%s has %d bytes, too many for a description", d.Digest, d.Size)
	}
	f, err := l.OpenBlob(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw := make([]byte, d.Size)
	if _, err := io.ReadFull(f, raw); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	if d.Digest.Algorithm().FromBytes(raw) != d.Digest {
		return nil, Damaged(f.Name())
	}
	return raw, nil
}

// ReadJSON decodes a JSON blob after checking its digest.
func (l *Layout) ReadJSON(d v1.Descriptor, v any) error {
	raw, err := l.ReadAll(d)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%s: %w", l.BlobPath(d.Digest), err)
	}
	return nil
}

// Damaged is the error for a file whose bytes do not have its digest.
func Damaged(path string) error { return &damaged{path} }

type damaged struct{ path string }

func (e *damaged) Error() string {
	return e.path + " is damaged: its bytes do not have its digest: build the image again"
}

// IsDamaged reports whether the error is about bytes that were read, and not about the reading.
func IsDamaged(err error) bool {
	_, ok := errors.AsType[*damaged](err)
	return ok
}

// BlobFile is a file among the blobs.
type BlobFile struct {
	Digest  digest.Digest
	Size    int64
	Changed time.Time // when its bytes or its name last changed
}

// Blobs lists the blobs of all algorithms. Files with other names are not ours to judge.
func (l *Layout) Blobs() ([]BlobFile, error) {
	var out []BlobFile
	err := fs.WalkDir(os.DirFS(l.Path("blobs")), ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		algorithm, name, _ := strings.Cut(path, "/")
		d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), name)
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) || d.Validate() != nil || err == nil && !info.Mode().IsRegular() {
			return nil
		}
		if err != nil {
			return err
		}
		changed := info.ModTime()
		if sys, ok := info.Sys().(*syscall.Stat_t); ok {
			changed = time.Unix(sys.Ctim.Unix())
		}
		out = append(out, BlobFile{d, info.Size(), changed})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	slices.SortFunc(out, func(a, b BlobFile) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	return out, nil
}

// Reachable are the blobs that the index leads to, of our images and of everything else in the
// layout. It is an error when the manifest of an entry cannot be read. What an index of another
// program names need not be here.
func (l *Layout) Reachable(entries []Entry) (map[digest.Digest]bool, error) {
	used := map[digest.Digest]bool{}
	var errs []error
	for i := range entries {
		e := &entries[i]
		for _, d := range digestsIn(e.Raw, 0) {
			if err := l.reach(d, e.Desc.MediaType, used, 0); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return used, errors.Join(errs...)
}

// ReachableFrom are the blobs that a manifest leads to, and itself, as far as they can be read.
func (l *Layout) ReachableFrom(manifest digest.Digest) map[digest.Digest]bool {
	used := map[digest.Digest]bool{}
	l.reach(manifest, "", used, 0) //nolint:errcheck // as far as they can be read
	return used
}

// maxDepth is how deep indexes may be nested; a digest cannot be part of what it is computed of, so
// only damaged ones go deeper than a few.
const maxDepth = 8

// reach follows a manifest or an index; what has another media type leads nowhere.
func (l *Layout) reach(d digest.Digest, mediaType string, used map[digest.Digest]bool, depth int) error {
	if used[d] {
		return nil
	}
	used[d] = true
	if depth > maxDepth || mediaType != "" && !strings.Contains(mediaType, "manifest") && !strings.Contains(mediaType, "index") {
		return nil
	}
	const limit = 16 << 20
	info, err := os.Stat(l.BlobPath(d))
	if err == nil && info.Size() > limit {
		return nil
	}
	raw, err := os.ReadFile(l.BlobPath(d))
	if err == nil && d.Algorithm().FromBytes(raw) != d {
		err = Damaged(l.BlobPath(d))
	}
	if err != nil {
		if depth > 0 {
			return nil //nolint:nilerr // see Reachable
		}
		return fmt.Errorf("manifest %s: %w", d.Encoded()[:12], err)
	}
	gjson.ParseBytes(raw).ForEach(func(key, value gjson.Result) bool {
		for _, inner := range digestsIn([]byte(value.Raw), 1) {
			if key.String() == "config" || key.String() == "layers" || key.String() == "blobs" {
				used[inner] = true
				continue
			}
			l.reach(inner, "", used, depth+1) //nolint:errcheck // see Reachable
		}
		return true
	})
	return nil
}

// digestsIn finds the values of "digest" in a JSON value and in what it holds.
func digestsIn(raw []byte, depth int) (out []digest.Digest) {
	if depth > maxDepth {
		return nil
	}
	gjson.ParseBytes(raw).ForEach(func(key, value gjson.Result) bool {
		switch {
		case value.IsObject() || value.IsArray():
			out = append(out, digestsIn([]byte(value.Raw), depth+1)...)
		case key.String() == "digest":
			if d := digest.Digest(value.String()); d.Validate() == nil {
				out = append(out, d)
			}
		}
		return true
	})
	return out
}
