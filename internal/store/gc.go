package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"netroot/internal/store/layout"

	"github.com/opencontainers/go-digest"
)

// Limits say what GC keeps beside what a tag, a pin or a machine needs.
type Limits struct {
	Keep   int           // so many versions of each label, the newest ones
	Older  time.Duration // versions that a tag pointed to, or that were added, less than this ago
	Grace  time.Duration // versions that a machine was given less than this ago; blobs without an owner that are younger
	DryRun bool          // remove nothing
}

// GC removes the versions that no tag points to, that are not pinned, that no machine runs from,
// and that are beyond the limits; then the blobs that nothing in the index leads to, whoever wrote
// them.
func (s *Store) GC(ctx context.Context, l Limits) (*Removed, error) {
	out := new(Removed)
	err := s.update(ctx, func(snap *snapshot) (change, error) {
		moved, err := s.layout.LastMoves()
		if err != nil {
			return change{}, err
		}
		var errs []error
		var gone []*version
		place := map[string]int{} // of the next version within its label
		for _, v := range s.ordered(snap, &errs) {
			i := place[v.label]
			place[v.label]++
			if why := s.needed(snap, v, i, l, moved); why != "" {
				out.Kept = append(out.Kept, Kept{nameOf(v.label, v.digest), why})
				continue
			}
			gone = append(gone, v)
		}
		if err := errors.Join(errs...); err != nil {
			return change{}, err
		}
		c, err := s.removal(snap, nil, gone, removalOptions{grace: l.Grace, dryRun: l.DryRun, orphans: true}, out)
		if err == nil && !l.DryRun {
			err = s.forget(snap)
		}
		return c, err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// needed is why a version stays, the i-th of its label; empty when it need not.
func (s *Store) needed(snap *snapshot, v *version, i int, l Limits, moved map[digest.Digest]time.Time) string {
	for _, t := range snap.tags {
		if t.to == v {
			return "the tag " + t.name + " points to it"
		}
	}
	if why := v.entry.Desc.Annotations[annotationPin]; why != "" {
		return "it is pinned: " + why
	}
	if i < l.Keep {
		return fmt.Sprintf("it is one of the %d newest of its label", l.Keep)
	}
	last := moved[v.digest]
	if info, err := os.Stat(s.layout.BlobPath(v.digest)); err == nil && info.ModTime().After(last) {
		last = info.ModTime()
	}
	if ago := time.Since(last); l.Older > 0 && ago < l.Older {
		return fmt.Sprintf("it was in use by a tag, or added, %s ago", max(ago, 0).Round(time.Second))
	}
	return ""
}

// forget removes the use files of versions that are not there any more.
func (s *Store) forget(snap *snapshot) error {
	entries, err := os.ReadDir(s.layout.Path(layout.UseDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("image store: %w", err)
	}
	for _, e := range entries {
		d := digest.NewDigestFromEncoded(digest.SHA256, e.Name())
		if d.Validate() != nil || snap.byDigest[d] != nil {
			continue
		}
		why, unlock := s.busy(d, 0, false)
		if why == "" {
			err = s.layout.Remove(s.usePath(d))
		}
		unlock()
		if err != nil {
			return s.layout.Unwritable(err)
		}
	}
	return nil
}
