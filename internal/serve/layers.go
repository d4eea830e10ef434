package serve

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"netroot/internal/handoff"
	"netroot/internal/layer"
)

// Layers makes archives of the layers that lie in a folder, a directory each, and keeps them for those who fetch them. A
// directory is rendered once for all nodes, and again when something in it has changed: no restart is needed.
//
// An archive that a node was told of stays for an hour after it was last named or fetched, so that a node that boots while
// its layer is edited gets what it was promised.
type Layers struct {
	folder string
	edit   func(*tar.Header)
	log    *slog.Logger

	mu       sync.Mutex
	layers   map[string]*rendered        // by name
	archives map[handoff.Digest]*archive // by digest
}

// rendered is what became of one directory.
type rendered struct {
	mu     sync.Mutex // held while the directory is looked at and read
	state  [sha256.Size]byte
	digest handoff.Digest
}

type archive struct {
	bytes []byte
	fixed bool // it was made elsewhere, and stays
	used  time.Time
}

const (
	keepArchive = time.Hour
	// clockTick is more than kernels' file times advance by at once (a hundredth of a second at 100 ticks a second). A
	// second change within one tick leaves no other mark on a file than the first.
	clockTick = 20 * time.Millisecond
)

// NewLayers has the layers of a folder, which need not exist; empty: there are none. What belongs to the owner of the
// folder's parent, where netroot.yaml lies, becomes root's.
func NewLayers(folder string, log *slog.Logger) *Layers {
	l := &Layers{folder: folder, log: log, layers: make(map[string]*rendered), archives: make(map[handoff.Digest]*archive)}
	if folder != "" {
		l.edit = layer.RootOwned(filepath.Dir(folder))
	}
	return l
}

// Has reports a layer of that name, be it one that can be rendered or not.
func (l *Layers) Has(name string) bool {
	if l.folder == "" || handoff.CheckLayerName(name) != nil {
		return false
	}
	_, err := os.Lstat(filepath.Join(l.folder, name))
	return err == nil
}

// Place is where a layer of that name lies or would lie; empty: there is no folder.
func (l *Layers) Place(name string) string {
	if l.folder == "" {
		return ""
	}
	return filepath.Join(l.folder, name)
}

// Names are those of all layers in the folder, in order.
func (l *Layers) Names() ([]string, error) {
	if l.folder == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(l.folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if _, err := l.Dir(e.Name()); err == nil {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// Dir is where a layer lies. The directory may be a symbolic link to another; what is in it may not.
func (l *Layers) Dir(name string) (layer.Dir, error) {
	if err := handoff.CheckLayerName(name); err != nil {
		return layer.Dir{}, err
	}
	file := filepath.Join(l.folder, name)
	dir, err := filepath.EvalSymlinks(file)
	if err != nil {
		return layer.Dir{}, fmt.Errorf("layer %s: %w", name, err)
	}
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		return layer.Dir{}, errors.Join(err, fmt.Errorf("layer %s: %s is not a directory, and a layer is one", name, file))
	}
	return layer.Dir{Name: name, Path: dir, Edit: l.edit}, nil
}

// Add keeps an archive that was made elsewhere, and returns its digest.
func (l *Layers) Add(bytes []byte) (digest handoff.Digest) {
	l.mu.Lock()
	defer l.mu.Unlock()
	digest = layer.Digest(bytes)
	l.archives[digest] = &archive{bytes: bytes, fixed: true}
	return digest
}

// Archive returns the archive of that digest, if there is one; it is Config.Layers.
func (l *Layers) Archive(digest handoff.Digest) ([]byte, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, ok := l.archives[digest]
	if !ok {
		return nil, false
	}
	a.used = time.Now()
	return a.bytes, true
}

// Digest returns the digest of the archive of a layer as its directory is now.
func (l *Layers) Digest(name string) (handoff.Digest, error) {
	d, err := l.Dir(name)
	if err != nil {
		return "", err
	}
	l.mu.Lock()
	r := l.layers[name]
	if r == nil {
		r = new(rendered)
		l.layers[name] = r
	}
	l.mu.Unlock()

	r.mu.Lock()
	defer r.mu.Unlock()
	state, err := stateOf(d.Path)
	if err != nil {
		return "", fmt.Errorf("layer %s: %w", name, err)
	}
	if state.sum == r.state {
		if _, ok := l.Archive(r.digest); ok {
			return r.digest, nil
		}
	}
	if err := l.render(r, d, state); err != nil {
		return "", fmt.Errorf("layer %s: %w", name, err)
	}
	return r.digest, nil
}

// render makes the archive of a directory, and takes it only if the directory is the same before and after.
func (l *Layers) render(r *rendered, d layer.Dir, state dirState) error {
	const tries = 5
	for range tries {
		if since := time.Since(state.newest); since >= 0 && since < clockTick {
			time.Sleep(clockTick - since)
			var err error
			if state, err = stateOf(d.Path); err != nil {
				return err
			}
		}
		started := time.Now()
		var out capped
		digest, err := layer.FromDir(&out, d.Path, d.Edit)
		if err != nil {
			return err
		}
		after, err := stateOf(d.Path)
		if err != nil {
			return err
		}
		if after.sum != state.sum {
			state = after
			continue
		}
		r.state, r.digest = state.sum, digest
		l.keep(digest, out.Bytes())
		l.log.Info("layer rendered", "layer", d.Name, "digest", digest, "bytes", out.Len(), "files", state.files, "took", time.Since(started).Round(time.Microsecond))
		for _, err := range layer.CheckDeletions(d.Path) {
			l.log.Warn("layer: nodes will not do this", "layer", d.Name, "why", err)
		}
		return nil
	}
	return errors.New("it changes while it is read; asking again will do when it has come to rest")
}

// capped holds as much of an archive as a node takes.
type capped struct{ bytes.Buffer }

func (c *capped) Write(p []byte) (int, error) {
	if c.Len()+len(p) > layer.MaxArchive {
		return 0, fmt.Errorf("it is larger than %d MiB, and a node holds it in memory: have the recipe bring large files", layer.MaxArchive>>20)
	}
	return c.Buffer.Write(p)
}

// keep stores an archive, and drops those that nobody has asked for in a long time.
func (l *Layers) keep(digest handoff.Digest, bytes []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for old, a := range l.archives {
		if !a.fixed && time.Since(a.used) > keepArchive {
			delete(l.archives, old)
		}
	}
	if l.archives[digest] == nil {
		l.archives[digest] = &archive{bytes: bytes}
	}
	l.archives[digest].used = time.Now()
}

// dirState tells one state of a directory from another without reading its files.
type dirState struct {
	sum    [sha256.Size]byte
	newest time.Time // the last change of anything in it
	files  int
}

// stateOf takes in the name of everything below dir and what stat(2) says of it: whatever is done to a file, its content,
// owner, mode or attributes, moves the time of its last change (ctime), which cannot be set back.
func stateOf(dir string) (dirState, error) {
	var s dirState
	sum := sha256.New()
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := os.Lstat(file)
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		fmt.Fprintf(sum, "%s\x00%d %d %o %d %d %d %d.%d %d.%d\x00", file, st.Dev, st.Ino, st.Mode, st.Uid, st.Gid, st.Size,
			st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec)
		if changed := time.Unix(st.Ctim.Unix()); changed.After(s.newest) {
			s.newest = changed
		}
		s.files++
		return nil
	})
	sum.Sum(s.sum[:0])
	return s, err
}
