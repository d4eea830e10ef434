package store

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/user"
	"strings"
	"time"
	"unicode"

	"netroot/internal/store/layout"

	"github.com/opencontainers/go-digest"
)

// Move is one line in the journal of a tag.
type Move = layout.Move

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

// moveOf are the lines for the move of a tag from where it points now; none when it stays. A move
// that another program made since the last line comes before it.
func (s *Store) moveOf(snap *snapshot, name string, to digest.Digest, why string, now time.Time) (moves []layout.TagMove, err error) {
	var from digest.Digest
	if t := snap.byTag[name]; t != nil {
		from = t.to.digest
	}
	known, err := s.layout.Journal(name)
	if err != nil {
		return nil, err
	}
	if n := len(known); n > 0 && known[n-1].To != from {
		moves = append(moves, layout.TagMove{Tag: name, Move: Move{Time: now.Add(-time.Microsecond), From: known[n-1].To, To: from, Why: "moved by another program"}})
	}
	if from != to {
		moves = append(moves, layout.TagMove{Tag: name, Move: Move{Time: now, From: from, To: to, By: limited(whoami(), maxBy), Why: limited(why, maxWhy)}})
	}
	return moves, nil
}

// History returns the moves of a tag, the first one first. For a label whose first versions are
// older than its journal, those are [Store.Versions] alone. The error matches ErrNotFound when
// there neither is nor was such a tag.
func (s *Store) History(ctx context.Context, name string) ([]Move, error) {
	snap, err := s.snapshot()
	if err != nil {
		return nil, err
	}
	if snap == nil {
		_, _, err := s.find(nil, name)
		return nil, err
	}
	moves, err := s.layout.Moves(ctx, name)
	if err != nil {
		return nil, err
	}
	if moves == nil && snap.byTag[name] == nil && snap.labels[name] == nil {
		return nil, s.notFound(snap, name)
	}
	return moves, nil
}

// orDefault is why a tag moves.
func orDefault(why, verb string) string { return cmp.Or(strings.TrimSpace(why), verb) }
