package layout

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/gofrs/flock"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// pendingFile holds a pending.
const pendingFile = "pending.json"

// pending is what a change is about to do. When its process is killed, the next change finds out
// whether the index was replaced, which is when the change counts: then it writes the missing lines
// of the journals. In both cases it removes those of the blobs that nothing refers to.
type pending struct {
	Index string          `json:"index"`           // SHA-256 of the new index.json
	Moves []TagMove       `json:"moves,omitempty"` // lines for the journals
	Blobs []digest.Digest `json:"blobs,omitempty"` // that were added, or are to be removed
	Added []digest.Digest `json:"added,omitempty"` // the same, in the words of earlier versions
}

// committed tells whether the index is the one of this change, or, after another program has
// written to it, shows all its moves.
func (p *pending) committed(raw []byte) bool {
	if hexSum(raw) == p.Index {
		return true
	}
	x, err := Parse(raw)
	if err != nil || len(p.Moves) == 0 {
		return false
	}
	for _, m := range p.Moves {
		var to digest.Digest
		for _, e := range x.Entries {
			if e.Name() == m.Tag {
				to = e.Desc.Digest
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
func (l *Layout) readPending() *pending {
	raw, err := os.ReadFile(filepath.Join(l.Path(TempDir), pendingFile))
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
func (l *Layout) recover() error {
	if err := l.MakeDir(l.Path(TempDir)); err != nil {
		return l.Unwritable(err)
	}
	if p := l.readPending(); p != nil {
		raw, _, err := l.ReadIndex()
		if err != nil {
			return err
		}
		if raw != nil && p.committed(raw) {
			if err := l.record(p.Moves); err != nil {
				return err
			}
		}
		if err := l.dropUnused(p.Blobs); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(l.Path(TempDir))
	if err != nil {
		return fmt.Errorf("image store: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(l.Path(TempDir), e.Name())
		if e.IsDir() && inUse(path) {
			continue
		}
		if err := l.RemoveAll(path); err != nil {
			return l.Unwritable(err)
		}
	}
	return nil
}

// inUse tells whether a process is writing into a directory of parts.
func inUse(dir string) bool {
	name := filepath.Join(dir, LockFile)
	if !exists(name) {
		return false
	}
	f := flock.New(name)
	defer f.Close()
	free, err := f.TryLock()
	return err != nil || !free
}

// File is a complete file that becomes a blob.
type File struct {
	Path   string
	Digest digest.Digest
}

// Change is a change of the index.
type Change struct {
	Index *Index          // the new one
	Moves []TagMove       // that it makes
	Add   []File          // files that become blobs
	Drop  []digest.Digest // blobs that may have no user afterwards
	After []string        // files that are removed afterwards
}

// Apply makes the change: blobs first, then the index, which is the moment from which it counts.
// The caller holds the lock.
func (l *Layout) Apply(ctx context.Context, c Change) error {
	content := c.Index.Bytes()
	todo := pending{Index: hexSum(content), Moves: c.Moves, Blobs: slices.Clone(c.Drop)}
	for _, f := range c.Add {
		todo.Blobs = append(todo.Blobs, f.Digest)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := l.writePending(todo); err != nil {
		return err
	}
	for _, f := range c.Add {
		if err := l.rename(f.Path, l.BlobPath(f.Digest)); err != nil {
			return l.Unwritable(err)
		}
	}
	if len(c.Add) > 0 {
		if err := l.syncDir(l.Path(l.blobDir())); err != nil {
			return l.Unwritable(err)
		}
	}
	if err := l.replace(v1.ImageIndexFile, content); err != nil {
		return err
	}
	if err := l.record(c.Moves); err != nil {
		return err
	}
	for _, path := range c.After {
		if err := l.Remove(path); err != nil {
			return l.Unwritable(err)
		}
	}
	if err := l.dropUnused(c.Drop); err != nil {
		return err
	}
	if err := l.Remove(filepath.Join(l.Path(TempDir), pendingFile)); err != nil {
		return l.Unwritable(err)
	}
	return nil
}

func (l *Layout) writePending(todo pending) error {
	raw, err := json.Marshal(todo)
	if err != nil {
		return err
	}
	return l.replace(filepath.Join(TempDir, pendingFile), append(raw, '\n'))
}

// dropUnused removes those of the blobs that the index does not lead to. Where a manifest cannot be
// read, it is not known what that leads to, and all stay.
func (l *Layout) dropUnused(blobs []digest.Digest) error {
	blobs = slices.DeleteFunc(slices.Clone(blobs), func(d digest.Digest) bool {
		return d.Validate() != nil || !exists(l.BlobPath(d))
	})
	if len(blobs) == 0 {
		return nil
	}
	x, err := l.index()
	if err != nil {
		return err
	}
	used, err := l.Reachable(x.Entries)
	if err != nil {
		return nil //nolint:nilerr // gc says so
	}
	for _, d := range blobs {
		if !used[d] {
			if err := l.Remove(l.BlobPath(d)); err != nil {
				return l.Unwritable(err)
			}
		}
	}
	return nil
}

// index is what the file says; it is empty where there is none.
func (l *Layout) index() (*Index, error) {
	raw, _, err := l.ReadIndex()
	if raw == nil || err != nil {
		return new(Index), err
	}
	x, err := Parse(raw)
	if err != nil {
		return nil, l.DamagedIndex(err)
	}
	return x, nil
}
