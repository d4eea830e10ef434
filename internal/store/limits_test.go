package store

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"netroot/internal/store/layout"

	"github.com/gofrs/flock"
	"golang.org/x/sys/unix"
)

// TestUseBesideRemoval: a version that was never used has no use file. While it is being removed,
// another process must not begin to use it, and afterwards it is not there any more.
func TestUseBesideRemoval(t *testing.T) {
	for name, remove := range map[string]func(*Store, *Image) error{
		"rm": func(s *Store, im *Image) error {
			_, err := s.Remove(context.Background(), []string{im.Name()}, time.Hour, "")
			return err
		},
		"gc": func(s *Store, _ *Image) error { _, err := s.GC(context.Background(), Limits{}); return err },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			first := commitText(t, s, "debian12", "one")
			commitText(t, s, "debian12", "two")
			locked := false
			s.layout.At = func(op, path string) {
				if op != "replace" || filepath.Base(path) != "index.json" {
					return
				}
				l := flock.New(s.usePath(first.Digest), flock.SetFlag(os.O_RDONLY))
				defer l.Close()
				free, err := l.TryRLock()
				locked = err == nil && !free
			}
			if err := remove(s, first); err != nil {
				t.Fatal(err)
			}
			if !locked {
				t.Error("another process could begin to use the version")
			}
			if left := files(t, s.layout.Path(layout.UseDir)); left != nil {
				t.Errorf("left %v", left)
			}
		})
	}
}

// TestFailedRemovalIsNotAUse: the file that guards a removal does not say that a machine was given
// the version, and a dry run makes none.
func TestFailedRemovalIsNotAUse(t *testing.T) {
	s := newStore(t)
	first := commitText(t, s, "debian12", "one")
	second := commitText(t, s, "debian12", "two")
	commitText(t, s, "debian12", "three")
	if _, err := s.GC(t.Context(), Limits{Grace: time.Hour, DryRun: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.layout.Path(layout.UseDir)); err == nil {
		t.Errorf("a dry run made %v", files(t, s.layout.Path(layout.UseDir)))
	}
	release, err := s.Use(second)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if _, err := s.Remove(t.Context(), []string{first.Name(), second.Name()}, time.Hour, ""); err == nil {
		t.Error("removed a version in use")
	}
	if r, err := s.Remove(t.Context(), []string{first.Name()}, time.Hour, ""); err != nil || len(r.Versions) != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestClockWentBack: times in the future keep a version, unless the owner gives no time at all.
func TestClockWentBack(t *testing.T) {
	s := newStore(t)
	first := commitText(t, s, "debian12", "one")
	future := time.Now().Add(10 * 365 * 24 * time.Hour)
	if err := s.Touch(first); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{s.usePath(first.Digest), s.layout.BlobPath(first.Digest)} {
		if err := os.Chtimes(path, future, future); err != nil {
			t.Fatal(err)
		}
	}
	line, err := json.Marshal(Move{Time: future, To: first.Digest})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.layout.JournalPath("debian12"), append(line, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	second := commitText(t, s, "debian12", "two")
	if moves, err := s.History(t.Context(), "debian12"); err != nil || len(moves) != 2 || moves[1].To != second.Digest {
		t.Errorf("%+v, %v", moves, err)
	}
	if versions, err := s.Versions(); err != nil || len(versions) != 2 || versions[0].Digest != second.Digest {
		t.Errorf("%+v, %v", versions, err)
	}
	for _, l := range []Limits{{Older: time.Hour}, {Grace: time.Hour}} {
		if r, err := s.GC(t.Context(), l); err != nil || len(r.Versions) != 0 {
			t.Errorf("%+v: %+v, %v", l, r, err)
		}
	}
	if r, err := s.GC(t.Context(), Limits{}); err != nil || len(r.Versions) != 1 || r.Blobs == 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if left := files(t, s.layout.Path(layout.UseDir)); left != nil {
		t.Errorf("left %v", left)
	}
}

// TestRecoverTwoLines: a change that writes two lines of one journal, because another program moved
// the tag before, was killed after both.
func TestRecoverTwoLines(t *testing.T) {
	s := newStore(t)
	first := commitText(t, s, "debian12", "one")
	second := commitText(t, s, "debian12", "two")
	snap, err := s.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	entries := slices.Clone(snap.index.Entries)
	for i := range entries {
		if entries[i].Name() == "debian12" {
			entries[i] = tagEntry("debian12", "debian12", snap.byDigest[first.Digest][0].entry.Desc)
		}
	}
	writeEntries(t, s, entries...)
	var left []byte
	s.layout.At = func(op, path string) {
		if op == "remove" && filepath.Base(path) == "pending.json" {
			left, _ = os.ReadFile(path)
		}
	}
	if _, err := s.Tag(t.Context(), second.Name(), "debian12", "back"); err != nil {
		t.Fatal(err)
	}
	if left == nil {
		t.Fatal("nothing was pending")
	}
	if err := os.WriteFile(filepath.Join(s.layout.Path(layout.TempDir), "pending.json"), left, 0o644); err != nil {
		t.Fatal(err)
	}
	before, err := s.History(t.Context(), "debian12")
	if err != nil || len(before) != 4 || before[2].Why != "moved by another program" {
		t.Fatalf("%+v, %v", before, err)
	}
	if _, err := Create(s.Dir()); err != nil {
		t.Fatal(err)
	}
	if after, err := s.History(t.Context(), "debian12"); err != nil || !slices.Equal(before, after) {
		t.Errorf("%+v, %v", after, err)
	}
}

// TestRemoveNamedTwice: a version and a tag are removed once, however often they are named.
func TestRemoveNamedTwice(t *testing.T) {
	s := newStore(t)
	im := commitText(t, s, "debian12", "one")
	r, err := s.Remove(t.Context(), []string{"debian12", im.Name(), im.ID(), "debian12", im.Name()}, 0, "")
	if err != nil || len(r.Tags) != 1 || len(r.Versions) != 1 || r.Blobs != 4 {
		t.Fatalf("%+v, %v", r, err)
	}
	if moves, err := s.History(t.Context(), "debian12"); err != nil || len(moves) != 2 {
		t.Errorf("%+v, %v", moves, err)
	}
}

// TestTagKeepsPin: a version that a label has already keeps its pin when the label's tag comes back
// to it by the name that another label gives it.
func TestTagKeepsPin(t *testing.T) {
	s := newStore(t)
	commitText(t, s, "debian12", "one")
	if _, err := s.Add(t.Context(), "debian12", "web", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pin(t.Context(), "web", "kept"); err != nil {
		t.Fatal(err)
	}
	for _, tag := range []string{"web", "debian12", "web"} {
		if _, err := s.Tag(t.Context(), "debian12", tag, ""); err != nil {
			t.Fatal(err)
		}
	}
	versions, err := s.Versions()
	if err != nil || len(versions) != 2 || versions[0].Pin != "" || versions[1].Pin != "kept" {
		t.Errorf("%+v, %v", versions, err)
	}
}

// TestPinWithoutName: an entry that has no name can be pinned.
func TestPinWithoutName(t *testing.T) {
	s := newStore(t)
	im := commitText(t, s, "debian12", "one")
	snap, err := s.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	desc := snap.byTag["debian12"].entry.Desc
	desc.Annotations = nil
	writeEntries(t, s, layout.NewEntry(desc))
	if _, err := s.Pin(t.Context(), im.ID(), "kept"); err != nil {
		t.Fatal(err)
	}
	if r, err := s.GC(t.Context(), Limits{}); err != nil || len(r.Versions) != 0 || !strings.Contains(r.Kept[0].Why, "pinned") {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestOtherUser: a user who cannot write the store reads and boots what is there.
func TestOtherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	dir, err := os.MkdirTemp("/tmp", "netroot-store-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := Create(filepath.Join(dir, "images"))
	if err != nil {
		t.Fatal(err)
	}
	fresh := commitText(t, s, "debian12", "one")
	used := commitText(t, s, "debian12", "two")
	release, err := s.Use(used)
	if err != nil {
		t.Fatal(err)
	}
	release()
	// The thread, whose file system user is nobody, ends with its goroutine.
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		unix.Setfsuid(65534)
		other := At(s.Dir())
		if versions, err := other.Versions(); err != nil || len(versions) != 2 {
			t.Errorf("%+v, %v", versions, err)
		}
		if moves, err := other.History(context.Background(), "debian12"); err != nil || len(moves) != 2 {
			t.Errorf("%+v, %v", moves, err)
		}
		im, err := other.Resolve("debian12")
		if err != nil {
			t.Error(err)
			return
		}
		if b, ok, err := im.Blob(RoleRoot); err != nil || !ok {
			t.Error(err)
		} else {
			b.Close()
		}
		if release, err := other.Use(im); err != nil {
			t.Errorf("the use file is there, and can be locked: %v", err)
		} else {
			defer release()
			if why, unlock := s.busy(im.Digest, 0, true); why != "machines run from it" {
				unlock()
				t.Errorf("%q", why)
			}
		}
		if _, err := other.Use(fresh); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("without a use file: %v", err)
		}
		if _, err := other.Pin(context.Background(), "debian12", "x"); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("pinned, or %v", err)
		}
	}()
	<-done
}
