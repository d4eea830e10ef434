// Package whole knows which parts of images have the bytes of their digests, so that a server does
// not give out damaged ones.
//
// It neither repairs nor removes anything, and does not know protocols.
package whole

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"netroot/internal/store"
	"netroot/internal/store/layout"
)

// Parts knows which parts of images have the bytes of their digests. A part is read again when
// its file was changed, in size, times or inode: since it was read last or, when it was not yet,
// since the commit. That is done before the part is given out. A part that seems unchanged is given
// out, and read at the next occasion, once for each start of the server: disks fail, too.
type Parts struct {
	store  *store.Store
	log    *slog.Logger
	within time.Duration // of a commit

	mu    sync.Mutex
	known map[digest.Digest]*verdict
	queue []pending
	more  chan struct{} // has a value when there are some in the queue
}

// pending is a read that nobody waits for.
type pending struct {
	digest digest.Digest
	v      *verdict
}

// verdict is what is known of a part.
type verdict struct {
	late  bool        // nobody waits for it
	state store.State // of the file for which it holds
	file  string
	image string // that it was looked up for

	done chan struct{} // closed when the rest is set
	seen store.State   // of the file that was read
	err  error         // why it is not given out
}

// New returns Parts of which nothing is known.
func New(s *store.Store, log *slog.Logger) *Parts {
	return &Parts{store: s, log: log, within: store.CommitTime, known: make(map[digest.Digest]*verdict), more: make(chan struct{}, 1)}
}

// BootRoles are those of the parts that a machine boots from.
func BootRoles() []store.Role {
	return []store.Role{
		store.RoleRoot, store.RoleKernel, store.RoleInitramfs, store.RoleInitramfsHardware, store.RoleInitramfsFirmware, store.RoleInitramfsDracut,
	}
}

// Check returns why one of the parts with these roles is not whole.
func (w *Parts) Check(im *store.Image, roles ...store.Role) error {
	for _, role := range roles {
		b, ok, err := im.Blob(role)
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		err = w.Blob(b)
		b.Close()
		if err != nil {
			return fmt.Errorf("image %s, part %s: %w", im.Name(), role, err)
		}
	}
	return nil
}

// Blob returns why an open part is not whole.
func (w *Parts) Blob(b *store.Blob) error {
	state, err := b.State()
	if err != nil {
		return err
	}
	w.mu.Lock()
	v := w.known[b.Digest]
	if v != nil && v.state == state {
		w.mu.Unlock()
		return v.wait()
	}
	late := v == nil && !b.ChangedSinceCommit(state, w.within)
	v = &verdict{done: make(chan struct{}), late: late, state: state, file: b.Path(), image: b.Image}
	w.known[b.Digest] = v
	if late {
		w.queue = append(w.queue, pending{b.Digest, v})
	}
	w.mu.Unlock()
	if !late {
		w.read(context.Background(), v, b)
		return v.err
	}
	select {
	case w.more <- struct{}{}:
	default:
	}
	return nil
}

// wait returns what comes of a read that is under way, unless nobody waits for it.
func (v *verdict) wait() error {
	if v.late {
		select {
		case <-v.done:
		default:
			return nil
		}
	}
	<-v.done
	return v.err
}

// Run reads parts that nobody waits for, one after the other.
func (w *Parts) Run(ctx context.Context) {
	for ctx.Err() == nil {
		w.mu.Lock()
		var next *pending
		if len(w.queue) > 0 {
			next, w.queue = &w.queue[0], w.queue[1:]
		}
		w.mu.Unlock()
		if next != nil {
			w.readLater(ctx, *next)
			continue
		}
		select {
		case <-w.more:
		case <-ctx.Done():
			return
		}
	}
}

// readLater reads a part whose file somebody may have removed since.
func (w *Parts) readLater(ctx context.Context, p pending) {
	b, err := w.store.Blob(p.digest.String())
	if err == nil {
		defer b.Close()
		w.read(ctx, p.v, b)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	p.v.state = store.State{} // the next one who asks reads it, or meets the error
	close(p.v.done)
	if errors.Is(err, store.ErrNotFound) && w.known[p.digest] == p.v {
		delete(w.known, p.digest)
	}
}

// read reads a part, and settles what is known of it.
func (w *Parts) read(ctx context.Context, v *verdict, b *store.Blob) {
	began := time.Now()
	err := b.Verify(ctx)
	if ctx.Err() != nil {
		err = nil // the server ends
	}
	now, stateErr := b.State()
	w.mu.Lock()
	v.err, v.seen = err, now
	if stateErr != nil || now != v.state || !now.Settled(began) || err != nil && !layout.IsDamaged(err) {
		// What was read may be no longer there, and may have been changed without another state, and a
		// storage that could not be read may answer later: the next one who asks reads it again.
		v.state = store.State{}
	}
	w.mu.Unlock()
	close(v.done)
	if err != nil {
		w.log.Error("image damaged: not given out", "image", v.image, "why", err)
	}
}

// Damaged are the errors of parts that are not given out, sorted.
func (w *Parts) Damaged() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []string
	for _, v := range w.known {
		select {
		case <-v.done:
			if v.err != nil && store.StateOf(v.file) == v.seen {
				all = append(all, fmt.Sprintf("image %s: %v", v.image, v.err))
			}
		default:
		}
	}
	slices.Sort(all)
	return all
}
