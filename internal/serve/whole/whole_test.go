package whole

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"netroot/internal/store"
)

// image is a committed image of which one part is its root.
func image(t *testing.T, s *store.Store, root string) *store.Image {
	t.Helper()
	file := filepath.Join(t.TempDir(), "root")
	if err := os.WriteFile(file, []byte(root), 0o644); err != nil {
		t.Fatal(err)
	}
	im, err := s.Commit(t.Context(), "tiny", store.Config{}, []store.Part{{Role: store.RoleRoot, Path: file}})
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func newStore(t *testing.T) *store.Store {
	t.Helper()
	s, err := store.Create(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// write changes the root of an image.
func write(t *testing.T, im *store.Image, root string) (file string) {
	t.Helper()
	b, _, err := im.Blob(store.RoleRoot)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for before := store.StateOf(b.Path()); store.StateOf(b.Path()) == before; { // until the clock has gone on
		if err := os.WriteFile(b.Path(), []byte(root), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return b.Path()
}

// TestChangedSinceTheCommit: what was changed after the commit is read before it is given out; what
// was not is left for later.
func TestChangedSinceTheCommit(t *testing.T) {
	s := newStore(t)
	im := image(t, s, "root")
	w := New(s, slog.New(slog.DiscardHandler))
	if err := w.Check(im, BootRoles()...); err != nil || len(w.queue) != 1 {
		t.Errorf("not changed: %v, and %d to read later", err, len(w.queue))
	}
	w.readLater(t.Context(), w.queue[0])
	w.queue = nil
	if err := w.Check(im, BootRoles()...); err != nil || len(w.queue) > 0 {
		t.Errorf("read: %v, and %d to read later", err, len(w.queue))
	}
	file := write(t, im, "toor")
	w = New(s, slog.New(slog.DiscardHandler)) // that of another start
	w.within = 0                              // this test does not take a minute
	for range 2 {
		err := w.Check(im, BootRoles()...)
		if err == nil || !strings.Contains(err.Error(), im.Name()) || !strings.Contains(err.Error(), file) || len(w.queue) > 0 {
			t.Fatalf("changed, and given out: %v", err)
		}
	}
	if d := w.Damaged(); len(d) != 1 {
		t.Errorf("damaged: %q", d)
	}
	write(t, im, "root")
	if d := w.Damaged(); len(d) != 0 {
		t.Errorf("mended, and damaged: %q", d)
	}
	if err := w.Check(im, BootRoles()...); err != nil {
		t.Errorf("mended: %v", err)
	}
}

// TestEndWhileReading: a server that ends does not take what it could not read for damaged, nor one
// that is gone.
func TestEndWhileReading(t *testing.T) {
	s := newStore(t)
	im := image(t, s, "root")
	w := New(s, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 2 {
		if err := w.Check(im, store.RoleRoot); err != nil || len(w.queue) != 1 {
			t.Fatalf("%v, %d to read", err, len(w.queue))
		}
		w.Run(ctx) // has ended
		w.readLater(ctx, w.queue[0])
		w.queue, w.known = nil, map[digest.Digest]*verdict{}
	}
	w.Check(im, store.RoleRoot)
	if err := os.Remove(write(t, im, "root")); err != nil {
		t.Fatal(err)
	}
	w.readLater(t.Context(), w.queue[0])
	if len(w.Damaged()) > 0 {
		t.Errorf("gone: %v", w.Damaged())
	}
	// A file that is written anew was shorter meanwhile, and is not one that was never seen.
	write(t, image(t, s, "root"), "toor")
	if err := w.Check(im, store.RoleRoot); err == nil {
		t.Error("changed, and given out")
	}
}
