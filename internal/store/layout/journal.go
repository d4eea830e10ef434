package layout

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// Move is one line in the journal of a tag.
type Move struct {
	Time time.Time     `json:"time"`
	From digest.Digest `json:"from,omitempty"` // empty: the tag is new
	To   digest.Digest `json:"to,omitempty"`   // empty: the tag was removed
	By   string        `json:"by,omitempty"`   // "user@host"
	Why  string        `json:"why,omitempty"`  // "build", "tag", "rm", "import", or what the user said
}

// JournalPath is the file of a tag. Names that other programs gave may hold anything.
func (l *Layout) JournalPath(tag string) string {
	name := url.PathEscape(tag)
	if len(name) > 200 {
		sum := sha256.Sum256([]byte(tag))
		name = hex.EncodeToString(sum[:])
	}
	return filepath.Join(l.Path(JournalDir), name+".jsonl")
}

// Journal reads the moves of a tag, the first one first. A last line without its end is left
// out: the change that wrote it is not finished.
func (l *Layout) Journal(tag string) ([]Move, error) {
	moves, _, err := l.scanJournal(tag)
	return moves, err
}

// scanJournal also returns the length of the complete lines. Lines that cannot be read are passed
// over.
func (l *Layout) scanJournal(tag string) (moves []Move, size int64, err error) {
	return scanMoves(l.JournalPath(tag))
}

func scanMoves(path string) (moves []Move, size int64, err error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("image store: journal: %w", err)
	}
	raw = raw[:bytes.LastIndexByte(raw, '\n')+1]
	for line := range bytes.Lines(raw) {
		var m Move
		if json.Unmarshal(line, &m) == nil && valid(m.From) && valid(m.To) && m.From != m.To {
			moves = append(moves, m)
		}
	}
	return moves, int64(len(raw)), nil
}

func valid(d digest.Digest) bool { return d == "" || d.Validate() == nil }

// TagMove is a move with the tag that makes it.
type TagMove struct {
	Tag string `json:"tag"`
	Move
}

// in tells whether the journal has the move already.
func (m *Move) in(journal []Move) bool {
	return slices.ContainsFunc(journal, func(other Move) bool {
		return other.Time.Equal(m.Time) && other.From == m.From && other.To == m.To
	})
}

// record appends the moves that are not in their journals yet.
func (l *Layout) record(moves []TagMove) error {
	if len(moves) == 0 {
		return nil
	}
	if err := l.MakeDir(l.Path(JournalDir)); err != nil {
		return l.Unwritable(err)
	}
	for _, m := range moves {
		known, size, err := l.scanJournal(m.Tag)
		if err != nil {
			return err
		}
		if m.in(known) {
			continue
		}
		line, err := json.Marshal(m.Move)
		if err != nil {
			return err
		}
		if err := l.appendTo(l.JournalPath(m.Tag), size, append(line, '\n')); err != nil {
			return l.Unwritable(err)
		}
	}
	return nil
}

// Moves reads the moves of a tag with those of a change whose process was killed before it had
// written them down.
func (l *Layout) Moves(ctx context.Context, tag string) ([]Move, error) {
	unlock, err := l.rlock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	moves, err := l.Journal(tag)
	if err != nil {
		return nil, err
	}
	if p, raw := l.readPending(), []byte(nil); p != nil {
		if raw, _, err = l.ReadIndex(); err != nil {
			return nil, err
		}
		for _, m := range p.Moves {
			if m.Tag == tag && !m.in(moves) && p.committed(raw) {
				moves = append(moves, m.Move)
			}
		}
	}
	return moves, nil
}

// LastMoves is when a tag last came to or left each manifest.
func (l *Layout) LastMoves() (map[digest.Digest]time.Time, error) {
	out := map[digest.Digest]time.Time{}
	entries, err := os.ReadDir(l.Path(JournalDir))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("image store: %w", err)
	}
	for _, e := range entries {
		moves, _, err := scanMoves(l.Path(JournalDir + "/" + e.Name()))
		if err != nil {
			return nil, err
		}
		for _, m := range moves {
			for _, d := range []digest.Digest{m.From, m.To} {
				if m.Time.After(out[d]) {
					out[d] = m.Time
				}
			}
		}
	}
	return out, nil
}
