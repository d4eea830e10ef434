package store

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode"

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

// Limits of the texts in a line, in bytes before JSON escapes them.
const (
	maxBy  = 100
	maxWhy = 300
)

// limited is text on one line, cut to max bytes.
func limited(text string, max int) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	text = strings.TrimSpace(text)
	if len(text) > max {
		text = strings.ToValidUTF8(text[:max], "")
	}
	return text
}

// whoami is the user that this process works for and its host. With sudo it is the user who
// called it.
func whoami() string {
	name := os.Getenv("SUDO_USER")
	if os.Geteuid() != 0 || name == "" {
		name = fmt.Sprint(os.Geteuid())
		if u, err := user.Current(); err == nil {
			name = u.Username
		}
	}
	host, err := os.Hostname()
	if err != nil {
		host = "?"
	}
	return name + "@" + host
}

// journalPath is the file of a tag. Names that other programs gave may hold anything.
func (s *Store) journalPath(tag string) string {
	name := url.PathEscape(tag)
	if len(name) > 200 {
		sum := sha256.Sum256([]byte(tag))
		name = hex.EncodeToString(sum[:])
	}
	return filepath.Join(s.path(journalDir), name+".jsonl")
}

// readJournal reads the moves of a tag, the first one first. A last line without its end is left
// out: the change that wrote it is not finished.
func (s *Store) readJournal(tag string) ([]Move, error) {
	moves, _, err := s.scanJournal(tag)
	return moves, err
}

// scanJournal also returns the length of the complete lines. Lines that cannot be read are passed
// over.
func (s *Store) scanJournal(tag string) (moves []Move, size int64, err error) {
	return scanMoves(s.journalPath(tag))
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

// tagMove is a move with the tag that makes it.
type tagMove struct {
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
func (s *Store) record(moves []tagMove) error {
	if len(moves) == 0 {
		return nil
	}
	if err := s.disk.makeDir(s.path(journalDir)); err != nil {
		return s.unwritable(err)
	}
	for _, m := range moves {
		known, size, err := s.scanJournal(m.Tag)
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
		if err := s.disk.appendTo(s.journalPath(m.Tag), size, append(line, '\n')); err != nil {
			return s.unwritable(err)
		}
	}
	return nil
}

// moveOf are the lines for the move of a tag from where it points now; none when it stays. A move
// that another program made since the last line comes before it.
func (s *Store) moveOf(snap *snapshot, name string, to digest.Digest, why string, now time.Time) (moves []tagMove, err error) {
	var from digest.Digest
	if t := snap.byTag[name]; t != nil {
		from = t.to.digest
	}
	known, err := s.readJournal(name)
	if err != nil {
		return nil, err
	}
	if n := len(known); n > 0 && known[n-1].To != from {
		moves = append(moves, tagMove{name, Move{Time: now.Add(-time.Microsecond), From: known[n-1].To, To: from, Why: "moved by another program"}})
	}
	if from != to {
		moves = append(moves, tagMove{name, Move{Time: now, From: from, To: to, By: limited(whoami(), maxBy), Why: limited(why, maxWhy)}})
	}
	return moves, nil
}

// History returns the moves of a tag, the first one first. For a label whose first versions are
// older than its journal, those are [Store.Versions] alone. The error matches ErrNotFound when there
// neither is nor was such a tag.
func (s *Store) History(ctx context.Context, name string) ([]Move, error) {
	snap, err := s.snapshot()
	if err != nil {
		return nil, err
	}
	if snap == nil {
		_, _, err := s.find(nil, name)
		return nil, err
	}
	unlock, err := s.rlock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	moves, err := s.readJournal(name)
	if err != nil {
		return nil, err
	}
	if p, raw := s.readPending(), []byte(nil); p != nil { // its writer was killed
		if raw, _, err = s.readIndex(); err != nil {
			return nil, err
		}
		for _, m := range p.Moves {
			if m.Tag == name && !m.in(moves) && p.committed(raw) {
				moves = append(moves, m.Move)
			}
		}
	}
	if moves == nil && snap.byTag[name] == nil && snap.labels[name] == nil {
		return nil, s.notFound(snap, name)
	}
	return moves, nil
}

// orDefault is why a tag moves.
func orDefault(why, verb string) string { return cmp.Or(strings.TrimSpace(why), verb) }
