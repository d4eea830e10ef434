package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"netroot/internal/store/layout"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Report is what a check of the store has found.
type Report struct {
	Images   int       `json:"images"`
	Blobs    int       `json:"blobs"`
	Bytes    int64     `json:"bytes"` // that were read
	Problems []Problem `json:"problems"`
	err      error     // of a check that ended early
}

// Problem is a blob that is missing or damaged.
type Problem struct {
	Digest digest.Digest `json:"digest"`
	File   string        `json:"file"`
	Part   string        `json:"part"` // "manifest", "configuration", or the role
	Reason string        `json:"reason"`
	Images []string      `json:"images"` // "label@id" of those that need it
	Fix    string        `json:"fix"`
}

// Err is the report as an error; nil when all blobs are whole.
func (r *Report) Err() error {
	errs := []error{r.err}
	for _, p := range r.Problems {
		errs = append(errs, fmt.Errorf("image %s, %s: %s", strings.Join(p.Images, ", "), p.Part, p.Reason))
	}
	return errors.Join(errs...)
}

// Check reads every blob of the images that the references name, or of all images, and compares it
// with its digest. progress, which may be nil, is called with the bytes read and those to read.
func (s *Store) Check(ctx context.Context, refs []string, progress func(done, total int64)) (*Report, error) {
	snap, err := s.snapshot()
	if err != nil {
		return nil, err
	}
	var versions []*version
	if len(refs) == 0 && snap != nil {
		versions = snap.versions
	}
	for _, ref := range refs {
		v, _, err := s.find(snap, ref)
		if err != nil {
			return nil, err
		}
		versions = append(versions, v)
	}
	var images []*Image
	unread := []Problem{} // never nil, which would be null in JSON
	for _, v := range versions {
		c, err := s.read(v.entry.Desc)
		if err == nil {
			images = append(images, s.imageOf(c, v.entry.Desc, v.label, ""))
			continue
		}
		unread = append(unread, problem(s, v.entry.Desc, "manifest", err, []string{nameOf(v.label, v.digest)}))
	}
	report := s.verify(ctx, images, progress)
	report.Images += len(unread)
	report.Problems = append(unread, report.Problems...)
	return report, s.stillThere(report)
}

// stillThere drops problems of images that were removed during the check.
func (s *Store) stillThere(r *Report) error {
	if r.err != nil || len(r.Problems) == 0 {
		return r.err
	}
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	here := map[string]bool{}
	for _, v := range snap.versions {
		here[nameOf(v.label, v.digest)] = true
	}
	r.Problems = slices.DeleteFunc(r.Problems, func(p Problem) bool {
		return !slices.ContainsFunc(p.Images, func(name string) bool { return here[name] })
	})
	return nil
}

// need is a blob that images need.
type need struct {
	desc   v1.Descriptor
	part   string
	images []string
}

// verify reads the blobs of the images, each once.
func (s *Store) verify(ctx context.Context, images []*Image, progress func(done, total int64)) *Report {
	r := &Report{Images: len(images), Problems: []Problem{}}
	needs := map[digest.Digest]*need{}
	for _, im := range images {
		add := func(d v1.Descriptor, part string) {
			n := needs[d.Digest]
			if n == nil {
				n = &need{desc: d, part: part}
				needs[d.Digest] = n
				r.Bytes += d.Size
			}
			if name := im.Name(); !slices.Contains(n.images, name) {
				n.images = append(n.images, name)
			}
		}
		add(v1.Descriptor{Digest: im.Digest, Size: im.size}, "manifest")
		add(im.Manifest.Config, "configuration")
		for _, l := range im.Manifest.Layers {
			add(l, l.Annotations[AnnotationRole])
		}
	}
	r.Blobs = len(needs)
	var done int64
	for _, d := range slices.Sorted(maps.Keys(needs)) {
		n := needs[d]
		err := s.verifyBlob(ctx, n.desc, func(read int) {
			if done += int64(read); progress != nil {
				progress(done, r.Bytes)
			}
		})
		if ctx.Err() != nil {
			r.err = context.Cause(ctx)
			return r
		}
		if err != nil {
			slices.Sort(n.images)
			r.Problems = append(r.Problems, problem(s, n.desc, n.part, err, n.images))
		}
	}
	return r
}

func problem(s *Store, d v1.Descriptor, part string, err error, images []string) Problem {
	p := Problem{Digest: d.Digest, Part: part, Reason: err.Error(), Images: images}
	label, _, _ := splitRef(images[0])
	p.Fix = fmt.Sprintf("build again (\"netroot build %s\"); a build with the same bytes replaces the file, another one moves the tag, after which \"netroot image rm %s\" removes the damaged image", label, images[0])
	if d.Digest.Validate() == nil {
		p.File = s.layout.BlobPath(d.Digest)
	}
	if errors.Is(err, fs.ErrNotExist) && p.File != "" {
		p.Reason = p.File + " is missing"
	}
	return p
}

func (s *Store) verifyBlob(ctx context.Context, d v1.Descriptor, read func(int)) error {
	f, err := s.layout.OpenBlob(d)
	if err != nil {
		return err
	}
	defer f.Close()
	verifier := d.Digest.Verifier()
	if _, err := io.Copy(io.MultiWriter(verifier, counter(read)), reader{ctx, f}); err != nil {
		return err
	}
	if !verifier.Verified() {
		return layout.Damaged(f.Name())
	}
	return nil
}

// counter calls itself with the length of each piece.
type counter func(int)

func (c counter) Write(p []byte) (int, error) {
	c(len(p))
	return len(p), nil
}

// Repair brings the index forward, as the next change would: entries of ours get the annotations
// that copies by other programs dropped or that earlier versions did not write. It returns whether
// there was something to do. It does not repair blobs.
func (s *Store) Repair(ctx context.Context) (changed bool, err error) {
	err = s.update(ctx, func(snap *snapshot) (change, error) {
		entries := s.completed(snap)
		changed = !slices.EqualFunc(entries, snap.index.Entries, func(a, b layout.Entry) bool { return string(a.Raw) == string(b.Raw) })
		if !changed {
			return change{}, nil
		}
		return change{entries: entries}, nil
	})
	return changed, err
}
