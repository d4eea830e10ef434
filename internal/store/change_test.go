package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"netroot/internal/store/layout"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// mustCommit is commitText for a process without a test.
func mustCommit(s *Store, label, text string, packages ...string) (*Image, error) {
	dir, err := os.MkdirTemp(filepath.Dir(s.Dir()), "parts") // which goes with the directory of the test
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "root")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return nil, err
	}
	return s.Commit(context.Background(), label, Config{Created: time.Unix(1700000000, 0).UTC(), Packages: packages}, []Part{{RoleRoot, path}})
}

// aged makes every blob and every use so old that no grace time keeps it.
func aged() Limits { return Limits{Keep: 1} }

// changes are what a killed process was doing. Each begins with the store of [prepared].
var changes = map[string]func(*Store) error{
	"commit": func(s *Store) error { _, err := mustCommit(s, "debian12", "three", "bash 5"); return err },
	"again":  func(s *Store) error { _, err := mustCommit(s, "debian12", "one"); return err },
	"tag": func(s *Store) error {
		_, err := s.Tag(context.Background(), "debian12", "prod", "a reason")
		return err
	},
	"label": func(s *Store) error { _, err := s.Tag(context.Background(), "debian12", "rocky9", ""); return err },
	"pin":   func(s *Store) error { _, err := s.Pin(context.Background(), "rocky9", "kept"); return err },
	"untag": func(s *Store) error {
		_, err := s.Remove(context.Background(), []string{"prod"}, 0, "")
		return err
	},
	"remove": func(s *Store) error {
		_, err := s.Remove(context.Background(), []string{"prod", "rocky9"}, 0, "")
		if err != nil {
			return err
		}
		im, err := s.Resolve("debian12")
		if err != nil {
			return err
		}
		_, err = s.Remove(context.Background(), []string{"debian12", im.Name()}, 0, "")
		return err
	},
	"gc":     func(s *Store) error { _, err := s.GC(context.Background(), aged()); return err },
	"create": func(s *Store) error { _, err := Create(s.Dir()); return err },
	"repair": func(s *Store) error { _, err := s.Repair(context.Background()); return err },
}

// prepared makes a store with two versions of debian12, of which "prod" points to the first, one
// unneeded version and one of rocky9. With old, it is as earlier versions wrote it.
func prepared(t *testing.T, dir string, old bool) {
	t.Helper()
	s, err := Create(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"unneeded", "one", "two"} {
		if _, err := mustCommit(s, "debian12", text); err != nil {
			t.Fatal(err)
		}
		if text == "one" {
			if _, err := s.Tag(t.Context(), "debian12", "prod", ""); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := mustCommit(s, "rocky9", "three of rocky"); err != nil {
		t.Fatal(err)
	}
	if old {
		asBefore(t, s)
	}
}

// asBefore takes from the index and the directory what earlier versions did not write.
func asBefore(t *testing.T, s *Store) {
	t.Helper()
	snap, err := s.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	x := v1.Index{MediaType: v1.MediaTypeImageIndex}
	x.SchemaVersion = 2
	for _, e := range snap.index.Entries {
		e.Desc.Annotations = map[string]string{v1.AnnotationRefName: e.Name()}
		x.Manifests = append(x.Manifests, e.Desc)
	}
	raw, err := json.MarshalIndent(x, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.layout.Path(v1.ImageIndexFile), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(s.layout.Path(layout.JournalDir)); err != nil {
		t.Fatal(err)
	}
}

// state is what a store says, in words that can be compared.
func state(t *testing.T, dir string) string {
	t.Helper()
	s := At(dir)
	versions, err := s.Versions()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, v := range versions {
		fmt.Fprintln(&b, v.Name(), v.Newest, v.Tags, v.Pin != "")
		im, err := s.Resolve(v.Name())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Verify(t.Context(), im); err != nil {
			t.Error(err)
		}
	}
	for _, tag := range []string{"debian12", "rocky9", "prod"} {
		moves, err := s.History(t.Context(), tag)
		if err != nil && !errors.Is(err, ErrNotFound) {
			t.Error(err)
		}
		for _, m := range moves {
			fmt.Fprintf(&b, "%s: %.19s -> %.19s, %s\n", tag, m.From, m.To, m.Why)
		}
	}
	return b.String()
}

// TestKilledAnywhere kills a process before each of its changes to a file in turn. The store is
// then in the state from before or after, and the next change leaves nothing behind.
func TestKilledAnywhere(t *testing.T) {
	if dir := os.Getenv("NETROOT_TEST_CHANGE_IN"); dir != "" {
		changeUntilKilled(dir)
	}
	for name, change := range changes {
		for _, old := range []bool{false, true} {
			if old && slices.Contains([]string{"again", "label", "pin", "create"}, name) {
				continue // the others show the migration
			}
			t.Run(fmt.Sprintf("%s/old=%v", name, old), func(t *testing.T) {
				t.Parallel()
				base := filepath.Join(quickDir(t), "base")
				prepared(t, base, old)
				done := copyStore(t, base)
				s := At(done)
				count := 0
				s.layout.At = func(string, string) { count++ }
				if err := change(s); err != nil {
					t.Fatal(err)
				}
				states := statesOf(t, name, base, done)
				for n := 1; n <= count; n++ {
					killedAt(t, name, copyStore(t, base), n, states)
				}
			})
		}
	}
}

// statesOf are the states that a kill may leave. "remove" makes two changes.
func statesOf(t *testing.T, name, base, done string) []string {
	states := []string{state(t, base), state(t, done)}
	if name == "remove" {
		middle := copyStore(t, base)
		if _, err := At(middle).Remove(t.Context(), []string{"prod", "rocky9"}, 0, ""); err != nil {
			t.Fatal(err)
		}
		states = append(states, state(t, middle))
	}
	return states
}

func killedAt(t *testing.T, name, dir string, n int, states []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKilledAnywhere$")
	cmd.Env = append(os.Environ(), "NETROOT_TEST_CHANGE_IN="+dir, "NETROOT_TEST_CHANGE="+name, "NETROOT_TEST_KILL_AT="+strconv.Itoa(n))
	out, err := cmd.CombinedOutput()
	if status, ok := errors.AsType[*exec.ExitError](err); !ok || status.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%d: the process was not killed: %v\n%s", n, err, out)
	}
	at := strings.TrimSpace(string(out))
	got := state(t, dir)
	if !slices.Contains(states, got) {
		t.Fatalf("killed before %s: neither the old nor the new state:\n%s", at, cmp.Diff(states, got))
	}
	if _, err := Create(dir); err != nil {
		t.Fatal(err)
	}
	if after := state(t, dir); after != got {
		t.Errorf("killed before %s: the next change made another state of it:\n%s", at, cmp.Diff(got, after))
	}
	s := At(dir)
	if left := files(t, s.layout.Path(layout.TempDir)); left != nil {
		t.Errorf("killed before %s: left %v", at, left)
	}
	snap, err := s.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	used, err := s.layout.Reachable(snap.index.Entries)
	if err != nil {
		t.Fatal(err)
	}
	blobs, err := s.layout.Blobs()
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range blobs {
		if !used[b.Digest] {
			t.Errorf("killed before %s: blob %s has no owner", at, b.Digest)
		}
	}
}

// changeUntilKilled makes a change in a process that ends before its n-th change to a file.
func changeUntilKilled(dir string) {
	n, _ := strconv.Atoi(os.Getenv("NETROOT_TEST_KILL_AT"))
	s := At(dir)
	hook := func(op, path string) {
		if n--; n == 0 {
			fmt.Println(op, strings.TrimPrefix(path, dir))
			unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	}
	s.layout.At = hook
	name := os.Getenv("NETROOT_TEST_CHANGE")
	var err error
	if name == "create" { // which makes a Store of its own
		err = s.layout.Create()
	} else {
		err = changes[name](s)
	}
	fmt.Println("not killed:", err)
	os.Exit(1)
}

// quickDir is a directory in memory, where there is one: what a kill leaves does not depend on the
// disk, and hundreds of processes need not wait for it.
func quickDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "netroot-store-test")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func copyStore(t *testing.T, dir string) string {
	t.Helper()
	dst := filepath.Join(quickDir(t), "images")
	if err := os.CopyFS(dst, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return dst
}

// TestTornJournal: what a kill within the write of a line leaves.
func TestTornJournal(t *testing.T) {
	s := newStore(t)
	first := commitText(t, s, "debian12", "one")
	path := s.layout.JournalPath("debian12")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(whole, whole[:30]...), 0o644); err != nil {
		t.Fatal(err)
	}
	second := commitText(t, s, "debian12", "two")
	moves, err := s.History(t.Context(), "debian12")
	if err != nil || len(moves) != 2 || moves[0].To != first.Digest || moves[1].From != first.Digest || moves[1].To != second.Digest {
		t.Errorf("%+v, %v", moves, err)
	}
}

func TestJournal(t *testing.T) {
	s := newStore(t)
	first := commitText(t, s, "debian12", "one")
	second := commitText(t, s, "debian12", "two")
	if _, err := s.Tag(t.Context(), first.Name(), "prod", "  passed\n\tits tests "+strings.Repeat("x", 1000)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Tag(t.Context(), first.Name(), "prod", "again"); err != nil { // not a move
		t.Fatal(err)
	}
	// Another program moves the tag.
	snap, err := s.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	entries := slices.Clone(snap.index.Entries)
	for i, e := range entries {
		if e.Name() == "prod" {
			desc := e.Desc
			desc.Digest, desc.Size, desc.ArtifactType = second.Digest, second.size, ""
			desc.Annotations = map[string]string{v1.AnnotationRefName: "prod"}
			entries[i] = layout.NewEntry(desc)
		}
	}
	writeEntries(t, s, entries...)
	if _, err := s.Remove(t.Context(), []string{"prod"}, 0, ""); err != nil {
		t.Fatal(err)
	}
	moves, err := s.History(t.Context(), "prod")
	if err != nil {
		t.Fatal(err)
	}
	want := []Move{{To: first.Digest}, {From: first.Digest, To: second.Digest, Why: "moved by another program"}, {From: second.Digest, Why: "rm"}}
	want[0].Why = limited("passed  its tests "+strings.Repeat("x", 1000), maxWhy)
	for i := range moves {
		if i != 1 && !strings.Contains(moves[i].By, "@") {
			t.Errorf("line %d is by %q", i, moves[i].By)
		}
		if i > 0 && moves[i].Time.Before(moves[i-1].Time) {
			t.Errorf("line %d is older than the one before", i)
		}
		moves[i].By, moves[i].Time = "", time.Time{}
	}
	if diff := cmp.Diff(want, moves); diff != "" {
		t.Error(diff)
	}
	raw, err := os.ReadFile(s.layout.JournalPath("prod"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if len(line) > 1024 {
			t.Errorf("a line of %d bytes", len(line))
		}
	}
	// A tag that is gone still knows its versions.
	if im, err := s.Resolve("prod@" + first.ID()); err != nil || im.Digest != first.Digest || im.Ref != "prod" || im.Label != "debian12" {
		t.Errorf("%+v, %v", im, err)
	}
	if _, err := s.History(t.Context(), "nosuch"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

// TestOrder: the order of versions is that of the journal, whatever their clocks said.
func TestOrder(t *testing.T) {
	s := newStore(t)
	var ids []string
	for i, created := range []int64{3000, 1000, 2000} {
		im, err := s.Commit(t.Context(), "a", Config{Created: time.Unix(created, 0)}, parts(t, t.TempDir(), map[Role]string{RoleRoot: strconv.Itoa(i)}))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, im.Name())
	}
	check := func(want ...string) {
		t.Helper()
		versions, err := s.Versions()
		var got []string
		for _, v := range versions {
			got = append(got, v.Name())
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%v, %v; want %v", got, err, want)
		}
	}
	check(ids[2], ids[1], ids[0])
	if _, err := s.Tag(t.Context(), ids[0], "a", "back"); err != nil {
		t.Fatal(err)
	}
	check(ids[0], ids[2], ids[1])
}

// TestTwoProcessesTag has processes tag at once: all their tags are there, and the journal of the
// tag that all of them move has every move.
func TestTwoProcessesTag(t *testing.T) {
	if dir := os.Getenv("NETROOT_TEST_TAG_IN"); dir != "" {
		s, who := At(dir), os.Getenv("NETROOT_TEST_TAG")
		for i := range 5 {
			_, err := s.Tag(context.Background(), "version@"+who, "tag-"+who+strconv.Itoa(i), "")
			if err == nil {
				_, err = s.Tag(context.Background(), "version@"+who, "shared", who)
			}
			if err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
		}
		os.Exit(0)
	}
	s := newStore(t)
	versions := []*Image{commitText(t, s, "version", "one"), commitText(t, s, "version", "two")}
	var cmds []*exec.Cmd
	for _, im := range versions {
		cmd := exec.Command(os.Args[0], "-test.run=^TestTwoProcessesTag$")
		cmd.Env = append(os.Environ(), "NETROOT_TEST_TAG_IN="+s.Dir(), "NETROOT_TEST_TAG="+im.ID())
		cmd.Stderr, cmd.Stdout = os.Stderr, os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	for _, im := range versions {
		for i := range 5 {
			if got, err := s.Resolve("tag-" + im.ID() + strconv.Itoa(i)); err != nil || got.Digest != im.Digest {
				t.Errorf("%v, %v", got, err)
			}
		}
	}
	moves, err := s.History(t.Context(), "shared")
	if err != nil || len(moves) < 2 {
		t.Fatal(moves, err)
	}
	seen, from := map[string]bool{}, digest.Digest("")
	for _, m := range moves {
		if m.From != from {
			t.Errorf("a move from %s follows one to %s", m.From, from)
		}
		seen[m.Why], from = true, m.To
	}
	if got, err := s.Resolve("shared"); err != nil || got.Digest != from || len(seen) != 2 {
		t.Errorf("%v, %v; the journal ends with %s and has lines of %v", got, err, from, seen)
	}
}

// TestBlobsAreSyncedBeforeTheIndex: after a power failure an index must not name blobs that the
// directory does not have.
func TestBlobsAreSyncedBeforeTheIndex(t *testing.T) {
	s := newStore(t)
	var ops []string
	s.layout.At = func(op, path string) {
		rel, _ := filepath.Rel(s.Dir(), path)
		switch {
		case op == "rename":
			rel = filepath.Dir(rel)
		case strings.HasPrefix(rel, layout.TempDir) || rel == "." || strings.HasPrefix(rel, ".."):
			return
		}
		ops = append(ops, op+" "+rel)
	}
	commitText(t, s, "debian12", "one")
	blobs := "blobs/sha256"
	want := []string{
		"rename " + blobs, "rename " + blobs, "rename " + blobs, "rename " + blobs, "syncdir " + blobs,
		"create index.json", "write index.json", "replace index.json",
		"mkdir " + layout.JournalDir, "append " + layout.JournalDir + "/debian12.jsonl", "truncate " + layout.JournalDir + "/debian12.jsonl",
		"write " + layout.JournalDir + "/debian12.jsonl", "sync " + layout.JournalDir + "/debian12.jsonl", "syncdir " + layout.JournalDir,
	}
	if diff := cmp.Diff(want, ops); diff != "" {
		t.Error(diff)
	}
}
