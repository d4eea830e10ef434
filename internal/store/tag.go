package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"netroot/internal/store/layout"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// update makes one change of the index under the lock. A change without entries is none.
func (s *Store) update(ctx context.Context, plan func(*snapshot) (change, error)) error {
	if err := s.layout.Check(); err != nil {
		return err
	}
	unlock, err := s.layout.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	c, err := plan(snap)
	for _, unlock := range c.unlock {
		defer unlock()
	}
	if err != nil || c.entries == nil {
		return err
	}
	return s.apply(ctx, snap, c)
}

// change is a change of the index.
type change struct {
	entries []layout.Entry // of the new index
	unlock  []func()       // for the use files of versions that it removes, after the change
	layout.Change
}

func (s *Store) apply(ctx context.Context, from *snapshot, c change) error {
	c.Index = &layout.Index{Fields: from.index.Fields, Entries: c.entries}
	return s.layout.Apply(ctx, c.Change)
}

// Tag points the tag name to the version that ref names, and returns that. The tag is made when it
// is not there. The version stays one of its own label, except when name is a label of the store:
// then it becomes a version of that, too. why stands in the journal; empty: "tag".
func (s *Store) Tag(ctx context.Context, ref, name, why string) (*Image, error) {
	return s.tag(ctx, ref, name, why, false)
}

// Add makes the version that ref names one of the label as well, and the label's newest. It is Tag
// for a name that the configuration has a label for, whether or not that has been built.
func (s *Store) Add(ctx context.Context, ref, label, why string) (*Image, error) {
	return s.tag(ctx, ref, label, why, true)
}

func (s *Store) tag(ctx context.Context, ref, name, why string, isLabel bool) (*Image, error) {
	if err := checkName("tag", name); err != nil {
		return nil, err
	}
	var im *Image
	err := s.update(ctx, func(snap *snapshot) (c change, err error) {
		if im, err = s.resolve(snap, ref); err != nil {
			return c, err
		}
		if c.Moves, err = s.moveOf(snap, name, im.Digest, orDefault(why, "tag"), time.Now().UTC()); err != nil {
			return c, err
		}
		entries := s.completed(snap)
		if (isLabel || snap.labels[name] != nil) && im.Label != name {
			i := slices.IndexFunc(entries, func(e layout.Entry) bool { return isVersion(&e, im.Label, im.Digest) })
			if i < 0 {
				return c, fmt.Errorf("image %s has no entry in the index", im.Name())
			}
			own := entries[i]
			var before []layout.Entry
			before, entries = take(entries, versionName(name, im.Digest))
			pin := "" // that of the other label does not count here
			for _, e := range before {
				pin = e.Desc.Annotations[annotationPin]
			}
			entries = append(entries, layout.NewEntry(own.Desc).Annotated(own.With(map[string]string{
				v1.AnnotationRefName: versionName(name, im.Digest), annotationLabel: name, annotationPin: pin,
			})))
			im.Label = name
		}
		_, entries = take(entries, name)
		desc := snap.byDigest[im.Digest][0].entry.Desc
		c.entries = append(entries, tagEntry(name, im.Label, desc))
		return c, nil
	})
	if err != nil {
		return nil, fmt.Errorf("tag %s: %w", name, err)
	}
	im.Ref, im.Newest = name, im.Label == name || im.Newest
	return im, nil
}

// isVersion tells whether the entry is that of this version.
func isVersion(e *layout.Entry, label string, d digest.Digest) bool {
	own, ok := e.Version()
	return e.Ours && ok && own == label && e.Desc.Digest == d
}

// Pin keeps the version that ref names from Remove and GC until it is unpinned, whatever its tags.
// An empty why removes the pin.
func (s *Store) Pin(ctx context.Context, ref, why string) (*Image, error) {
	var im *Image
	err := s.update(ctx, func(snap *snapshot) (c change, err error) {
		if im, err = s.resolve(snap, ref); err != nil {
			return c, err
		}
		c.entries = s.completed(snap)
		found := false
		for i := range c.entries {
			e := &c.entries[i]
			unnamed := e.Ours && e.Name() == "" && e.Desc.Digest == im.Digest
			if unnamed || isVersion(e, im.Label, im.Digest) {
				*e = e.Annotated(e.With(map[string]string{annotationPin: limited(why, maxWhy)}))
				found = true
			}
		}
		if !found {
			return c, fmt.Errorf("image %s has no entry in the index", im.Name())
		}
		return c, nil
	})
	return im, err
}

// Removed says what Remove and GC have removed, or would.
type Removed struct {
	Tags     []string  `json:"tags,omitempty"`
	Versions []Version `json:"versions,omitempty"`
	Kept     []Kept    `json:"kept,omitempty"` // by GC, each with the first reason
	Blobs    int       `json:"blobs"`          // files
	Bytes    int64     `json:"bytes"`          // of those files
	Note     string    `json:"note,omitempty"` // why no blobs were removed
}

// Kept is a version that GC does not remove.
type Kept struct {
	Name string `json:"name"`
	Why  string `json:"why"`
}

// Remove removes tags and versions: a tag is removed by its name, and the version that it points to
// stays; "label@id" removes a version of the label, "id" one from all its labels, with the blobs
// that nothing else needs. All are removed or, with an error that names the reason, none: a version
// to which a tag points that stays, that is pinned, that machines run from or were given within the
// grace time. why stands in the journals of the tags; empty: "rm".
func (s *Store) Remove(ctx context.Context, refs []string, grace time.Duration, why string) (*Removed, error) {
	out := new(Removed)
	err := s.update(ctx, func(snap *snapshot) (change, error) {
		tags, gone, err := s.selected(snap, refs)
		if err != nil {
			return change{}, err
		}
		for _, v := range gone {
			if err := removable(snap, v, tags); err != nil {
				return change{}, err
			}
		}
		return s.removal(snap, tags, gone, removalOptions{grace: grace, why: orDefault(why, "rm"), refuse: true}, out)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// selected are the tags and versions that the references name, each once.
func (s *Store) selected(snap *snapshot, refs []string) (tags []string, gone []*version, err error) {
	for _, ref := range refs {
		if snap != nil && snap.byTag[ref] != nil {
			if !slices.Contains(tags, ref) {
				tags = append(tags, ref)
			}
			continue
		}
		v, name, err := s.find(snap, ref)
		if err != nil {
			return nil, nil, err
		}
		named := []*version{v}
		if name == "" {
			named = snap.byDigest[v.digest]
		}
		for _, v := range named {
			if !slices.Contains(gone, v) {
				gone = append(gone, v)
			}
		}
	}
	return tags, gone, nil
}

// removable refuses what a tag or a pin needs.
func removable(snap *snapshot, v *version, without []string) error {
	for _, t := range snap.tags {
		if t.to == v && !slices.Contains(without, t.name) {
			return fmt.Errorf("image %s: the tag %s points to it: move the tag (\"netroot image tag IMAGE %s\") or remove it first", nameOf(v.label, v.digest), t.name, t.name)
		}
	}
	if why := v.entry.Desc.Annotations[annotationPin]; why != "" {
		return fmt.Errorf("image %s is pinned (%s): unpin it first", nameOf(v.label, v.digest), why)
	}
	return nil
}

type removalOptions struct {
	grace   time.Duration
	why     string
	refuse  bool // a version in use is an error, and otherwise it stays
	dryRun  bool
	orphans bool // remove also blobs that belonged to nothing before
}

// removal makes the change that removes tags and versions, and notes down what it removes.
func (s *Store) removal(snap *snapshot, tags []string, gone []*version, opt removalOptions, out *Removed) (change, error) {
	var c change
	gone, err := s.unused(gone, opt, &c, out)
	if err != nil {
		return c, err
	}
	now := time.Now().UTC()
	for _, name := range tags {
		moves, err := s.moveOf(snap, name, "", opt.why, now)
		if err != nil {
			return c, err
		}
		c.Moves = append(c.Moves, moves...)
		out.Tags = append(out.Tags, name)
	}
	for _, v := range gone {
		said, err := s.summary(snap, v)
		if err != nil {
			said = Version{Label: v.label, Digest: v.digest} // a damaged one can be removed, too
		}
		out.Versions = append(out.Versions, said)
	}
	left := map[digest.Digest]int{}
	for d, versions := range snap.byDigest {
		left[d] = len(versions)
	}
	for _, v := range gone {
		left[v.digest]--
	}
	c.entries = []layout.Entry{} // not nil: there is a change
	for _, e := range s.completed(snap) {
		label, isVersion := e.Version()
		drop := e.Ours && (!isVersion && slices.Contains(tags, e.Name()) ||
			isVersion && slices.ContainsFunc(gone, func(v *version) bool { return v.label == label && v.digest == e.Desc.Digest }) ||
			e.Name() == "" && len(snap.byDigest[e.Desc.Digest]) > 0 && left[e.Desc.Digest] == 0)
		if !drop {
			c.entries = append(c.entries, e)
		}
	}
	if err := s.unowned(&c, gone, opt, out); err != nil {
		return c, err
	}
	if opt.dryRun || len(tags)+len(gone)+len(c.Drop) == 0 {
		c.entries = nil
		return c, nil
	}
	for d, n := range left {
		if n == 0 {
			c.After = append(c.After, s.usePath(d))
		}
	}
	return c, nil
}

// unused leaves out, or refuses, versions that machines need. Until the change is over nobody
// begins to use the others.
func (s *Store) unused(gone []*version, opt removalOptions, c *change, out *Removed) (free []*version, err error) {
	state := map[digest.Digest]string{}
	for _, v := range gone {
		why, seen := state[v.digest]
		if !seen {
			var unlock func()
			why, unlock = s.busy(v.digest, opt.grace, !opt.dryRun)
			c.unlock = append(c.unlock, unlock)
			state[v.digest] = why
		}
		switch name := nameOf(v.label, v.digest); {
		case why == "":
			free = append(free, v)
		case opt.refuse:
			return nil, fmt.Errorf("image %s: %s", name, why)
		default:
			out.Kept = append(out.Kept, Kept{name, why})
		}
	}
	return free, nil
}

// unowned finds the blobs that the change leaves without an owner.
func (s *Store) unowned(c *change, gone []*version, opt removalOptions, out *Removed) error {
	used, err := s.layout.Reachable(c.entries)
	if err != nil {
		out.Note = "no blobs are removed, because it is not known which ones belong to " + strings.ReplaceAll(err.Error(), "\n", "; ")
		return nil
	}
	candidates := map[digest.Digest]bool{}
	for _, v := range gone {
		for d := range s.layout.ReachableFrom(v.digest) { // what cannot be read is left to a later gc
			candidates[d] = true
		}
	}
	present, err := s.layout.Blobs()
	if err != nil {
		return err
	}
	for _, b := range present {
		old := opt.orphans && (opt.grace <= 0 || time.Since(b.Changed) >= opt.grace)
		if used[b.Digest] || !candidates[b.Digest] && !old {
			continue
		}
		c.Drop = append(c.Drop, b.Digest)
		out.Blobs++
		out.Bytes += b.Size
	}
	return nil
}
