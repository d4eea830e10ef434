package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gofrs/flock"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tidwall/gjson"
)

// pendingFile holds a pending.
const pendingFile = "pending.json"

// pending is what a change is about to do. When its process is killed, the next change finds out
// whether the index was replaced, which is when the change counts: then it writes the missing lines
// of the journals. In both cases it removes those of the blobs that nothing refers to.
type pending struct {
	Index string          `json:"index"`           // SHA-256 of the new index.json
	Moves []tagMove       `json:"moves,omitempty"` // lines for the journals
	Blobs []digest.Digest `json:"blobs,omitempty"` // that were added, or are to be removed
	Added []digest.Digest `json:"added,omitempty"` // the same, in the words of earlier versions
}

// committed tells whether the index is the one of this change, or, after another program has
// written to it, shows all its moves.
func (p *pending) committed(raw []byte) bool {
	if hexSum(raw) == p.Index {
		return true
	}
	x, err := parseIndex(raw)
	if err != nil || len(p.Moves) == 0 {
		return false
	}
	for _, m := range p.Moves {
		var to digest.Digest
		for _, e := range x.entries {
			if e.name() == m.Tag {
				to = e.desc.Digest
			}
		}
		if to != m.To {
			return false
		}
	}
	return true
}

func hexSum(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// readPending returns nil when there is none. It is written at once, so one that cannot be read is
// not ours; blobs that it may mean are left to gc.
func (s *Store) readPending() *pending {
	raw, err := os.ReadFile(filepath.Join(s.path(tempDir), pendingFile))
	if err != nil {
		return nil
	}
	p := new(pending)
	if json.Unmarshal(raw, p) != nil {
		return nil
	}
	p.Blobs = append(p.Blobs, p.Added...)
	return p
}

// recover completes or takes back what a killed process left, and empties the temporary directory
// of everything that no process is writing. The caller holds the lock.
func (s *Store) recover() error {
	if err := s.disk.makeDir(s.path(tempDir)); err != nil {
		return s.unwritable(err)
	}
	if p := s.readPending(); p != nil {
		raw, _, err := s.readIndex()
		if err != nil {
			return err
		}
		if raw != nil && p.committed(raw) {
			if err := s.record(p.Moves); err != nil {
				return err
			}
		}
		if err := s.dropUnused(p.Blobs); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(s.path(tempDir))
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(s.path(tempDir), e.Name())
		if e.IsDir() && inUse(path) {
			continue
		}
		if err := s.disk.removeAll(path); err != nil {
			return s.unwritable(err)
		}
	}
	return nil
}

// inUse tells whether a process is writing into a directory of parts.
func inUse(dir string) bool {
	name := filepath.Join(dir, lockFile)
	if !exists(name) {
		return false
	}
	l := flock.New(name)
	defer l.Close()
	free, err := l.TryLock()
	return err != nil || !free
}

// change is a change of the index.
type change struct {
	from    *snapshot       // what it changes
	entries []entry         // of the new index
	moves   []tagMove       // that it makes
	add     []staged        // files that become blobs
	drop    []digest.Digest // blobs that may have no user afterwards
	unused  []digest.Digest // versions that it removes, whose use files are locked
	unlock  []func()        // for the use files, after the change
}

// apply makes the change: blobs first, then the index, which is the moment from which it counts.
// The caller holds the lock.
func (s *Store) apply(ctx context.Context, c change) error {
	content := (&index{fields: c.from.index.fields, entries: c.entries}).bytes()
	todo := pending{Index: hexSum(content), Moves: c.moves, Blobs: slices.Clone(c.drop)}
	for _, f := range c.add {
		todo.Blobs = append(todo.Blobs, f.Digest)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.writePending(todo); err != nil {
		return err
	}
	for _, f := range c.add {
		if err := s.disk.rename(f.path, s.blobPath(f.Digest)); err != nil {
			return s.unwritable(err)
		}
	}
	if len(c.add) > 0 {
		if err := s.disk.syncDir(s.path(s.blobDir())); err != nil {
			return s.unwritable(err)
		}
	}
	if err := s.replace(v1.ImageIndexFile, content); err != nil {
		return err
	}
	if err := s.record(c.moves); err != nil {
		return err
	}
	for _, d := range c.unused {
		if err := s.disk.remove(s.usePath(d)); err != nil {
			return s.unwritable(err)
		}
	}
	if err := s.dropUnused(c.drop); err != nil {
		return err
	}
	if err := s.disk.remove(filepath.Join(s.path(tempDir), pendingFile)); err != nil {
		return s.unwritable(err)
	}
	return nil
}

func (s *Store) writePending(todo pending) error {
	raw, err := json.Marshal(todo)
	if err != nil {
		return err
	}
	return s.replace(filepath.Join(tempDir, pendingFile), append(raw, '\n'))
}

// dropUnused removes those of the blobs that the index does not lead to. Where a manifest cannot be
// read, it is not known what that leads to, and all stay.
func (s *Store) dropUnused(blobs []digest.Digest) error {
	blobs = slices.DeleteFunc(slices.Clone(blobs), func(d digest.Digest) bool {
		return d.Validate() != nil || !exists(s.blobPath(d))
	})
	if len(blobs) == 0 {
		return nil
	}
	snap, err := s.snapshot()
	if err != nil {
		return err
	}
	used, err := s.reachable(snap)
	if err != nil {
		return nil //nolint:nilerr // gc says so
	}
	for _, d := range blobs {
		if !used[d] {
			if err := s.disk.remove(s.blobPath(d)); err != nil {
				return s.unwritable(err)
			}
		}
	}
	return nil
}

// reachable are the blobs that the index leads to, of our images and of everything else in the
// layout. It is an error when the manifest of an entry cannot be read. What an index of another
// program names need not be here.
func (s *Store) reachable(snap *snapshot) (map[digest.Digest]bool, error) {
	used := map[digest.Digest]bool{}
	var errs []error
	if snap == nil {
		return used, nil
	}
	for i := range snap.index.entries {
		e := &snap.index.entries[i]
		for _, d := range digestsIn(e.raw, 0) {
			if err := s.reach(d, e.desc.MediaType, used, 0); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return used, errors.Join(errs...)
}

// maxDepth is how deep indexes may be nested; a digest cannot be part of what it is computed of, so
// only damaged ones go deeper than a few.
const maxDepth = 8

// reach follows a manifest or an index; what has another media type leads nowhere.
func (s *Store) reach(d digest.Digest, mediaType string, used map[digest.Digest]bool, depth int) error {
	if used[d] {
		return nil
	}
	used[d] = true
	if depth > maxDepth || mediaType != "" && !strings.Contains(mediaType, "manifest") && !strings.Contains(mediaType, "index") {
		return nil
	}
	const limit = 16 << 20
	info, err := os.Stat(s.blobPath(d))
	if err == nil && info.Size() > limit {
		return nil
	}
	raw, err := os.ReadFile(s.blobPath(d))
	if err == nil && d.Algorithm().FromBytes(raw) != d {
		err = damaged(s.blobPath(d))
	}
	if err != nil {
		if depth > 0 {
			return nil //nolint:nilerr // see reachable
		}
		return fmt.Errorf("manifest %s: %w", shortID(d), err)
	}
	gjson.ParseBytes(raw).ForEach(func(key, value gjson.Result) bool {
		for _, inner := range digestsIn([]byte(value.Raw), 1) {
			if key.String() == "config" || key.String() == "layers" || key.String() == "blobs" {
				used[inner] = true
				continue
			}
			s.reach(inner, "", used, depth+1) //nolint:errcheck // see reachable
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

// completed are the entries of a snapshot as a change writes them: each of ours has our artifact
// type and its label, each version an entry of its own with a summary. It brings stores of earlier
// versions, and what other programs have copied, forward. Entries whose image cannot be read stay
// as they are.
func (s *Store) completed(snap *snapshot) []entry {
	var out []entry
	has := map[string]bool{}
	for _, e := range snap.index.entries {
		if label, ok := e.version(); ok && e.ours {
			has[label+"@"+string(e.desc.Digest)] = true
		}
	}
	label := map[*entry]string{} // of entries that are not a version's
	for _, v := range snap.versions {
		label[v.entry] = v.label
	}
	for i := range snap.index.entries {
		e := &snap.index.entries[i]
		if _, ok := e.version(); e.ours && !ok && e.name() != "" {
			label[e] = labelOf(e, snap)
		}
	}
	for i := range snap.index.entries {
		e := &snap.index.entries[i]
		switch own, isVersion := e.version(); {
		case !e.ours:
			out = append(out, *e)
		case isVersion:
			out = append(out, s.summarised(*e, own))
		default:
			own := label[e]
			if key := own + "@" + string(e.desc.Digest); own != "" && !has[key] {
				has[key] = true
				version := v1.Descriptor{MediaType: e.desc.MediaType, ArtifactType: ArtifactType, Digest: e.desc.Digest, Size: e.desc.Size,
					Annotations: map[string]string{v1.AnnotationRefName: versionName(own, e.desc.Digest)}}
				out = append(out, s.summarised(newEntry(version), own))
			}
			if own == "" {
				out = append(out, *e)
			} else {
				out = append(out, e.annotated(e.with(map[string]string{annotationLabel: own})))
			}
		}
	}
	return out
}

// summarised is the entry of a version with its label and its summary.
func (s *Store) summarised(e entry, label string) entry {
	a := e.with(map[string]string{annotationLabel: label})
	if a[annotationSize] == "" {
		c, err := s.read(e.desc)
		if err != nil {
			return e
		}
		a = e.with(summaryOf(c))
		a[annotationLabel] = label
	}
	return e.annotated(a)
}
