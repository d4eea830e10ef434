package watch

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/testlog"
)

// watching runs a Watcher of what is below dir, and returns a channel of what it found: the names,
// each with its content.
func watching(t *testing.T, dir string, cannot func(string) error) (found <-chan string, log *testlog.Buffer) {
	t.Helper()
	log = new(testlog.Buffer)
	states := make(chan string, 1)
	last := "nothing yet"
	w := &Watcher{
		Name: "test", Log: slog.New(slog.NewTextHandler(log, nil)), cannot: cannot,
		Dirs: func() (dirs []string) {
			filepath.WalkDir(dir, func(file string, d os.DirEntry, err error) error {
				if err == nil && d.IsDir() {
					dirs = append(dirs, file)
				}
				return nil
			})
			return append(dirs, dir, filepath.Dir(dir), filepath.Join(dir, "never"))
		},
		Changed: func(ctx context.Context) {
			if now := content(dir); now != last {
				last = now
				select {
				case states <- now:
				case <-ctx.Done():
				}
			}
		},
	}
	ready := make(chan struct{})
	ended := make(chan error, 1)
	ctx, stop := context.WithCancel(context.Background())
	go func() { ended <- w.Run(ctx, func() { close(ready) }) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	expect(t, states, content(dir))
	<-ready
	return states, log
}

func content(dir string) string {
	var all []string
	filepath.WalkDir(dir, func(file string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			b, _ := os.ReadFile(file)
			all = append(all, d.Name()+"="+string(b))
		}
		return nil
	})
	return strings.Join(all, " ")
}

// expect waits until that was found, past what there was on the way.
func expect(t *testing.T, found <-chan string, want string) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for {
		select {
		case got := <-found:
			if got == want {
				return
			}
		case <-limit:
			t.Fatalf("%q was not found", want)
		}
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// What editors and administrators do is found: a write, a rename over the file, a new directory
// with a file, the removal and the return of the whole directory.
func TestChanges(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "watched")
	write(t, dir+"/a", "1")
	found, log := watching(t, dir, nil)
	begin := time.Now()
	write(t, dir+"/a", "2")
	expect(t, found, "a=2")
	if took := time.Since(begin); took > safetyInterval/2 {
		t.Errorf("found after %v: not reported, but looked for", took)
	}
	write(t, dir+"/../new", "3")
	if err := os.Rename(dir+"/../new", dir+"/a"); err != nil {
		t.Fatal(err)
	}
	expect(t, found, "a=3")
	write(t, dir+"/deep/er/b", "4")
	expect(t, found, "a=3 b=4")
	write(t, dir+"/deep/er/b", "5")
	expect(t, found, "a=3 b=5")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	expect(t, found, "")
	write(t, dir+"/a", "6")
	expect(t, found, "a=6")
	write(t, dir+"/a", "7")
	expect(t, found, "a=7")
	if strings.Contains(log.String(), "not reported") {
		t.Errorf("log:\n%s", log)
	}
}

// A directory is found that is made when nothing above it is there either, and again when another
// one has taken its place.
func TestDirectoryIsMadeLater(t *testing.T) {
	top := t.TempDir()
	file := filepath.Join(top, "a", "b", "c", "file")
	looked := make(chan string)
	w := &Watcher{
		Name: "test", Log: slog.New(slog.DiscardHandler), Dirs: func() []string { return []string{filepath.Dir(file)} },
		Changed: func(ctx context.Context) {
			b, _ := os.ReadFile(file)
			select {
			case looked <- string(b):
			case <-ctx.Done():
			}
		},
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx, func() {}) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	expect(t, looked, "")
	write(t, file, "1")
	expect(t, looked, "1")
	if err := os.Rename(filepath.Dir(file), filepath.Join(top, "old")); err != nil {
		t.Fatal(err)
	}
	expect(t, looked, "")
	write(t, file, "2")
	expect(t, looked, "2")
}

// Where the kernel cannot watch, the log says so and changes are found all the same.
func TestLooksAtIntervals(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "watched")
	write(t, dir+"/a", "1")
	found, log := watching(t, dir, func(string) error { return unix.ENOSPC })
	write(t, dir+"/a", "2")
	expect(t, found, "a=2")
	if said := log.String(); strings.Count(said, "changes are not reported") != 1 || !strings.Contains(said, "no space left") {
		t.Errorf("log:\n%s", said)
	}
}

func TestFileSystems(t *testing.T) {
	if err := unreported(t.TempDir()); err != nil {
		t.Error(err)
	}
	if err := unreported(t.TempDir() + "/none"); !os.IsNotExist(err) {
		t.Error(err)
	}
}
