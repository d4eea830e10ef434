// Package folder makes archives of the layers that lie in a directory, one subdirectory each, and
// keeps them for the machines that fetch them.
//
// An archive is made once for all machines, and again when something in its directory has changed.
// A machine never gets half of an edit: while a directory changes, the archive of before is the one
// that counts. Archives are files without a name, which the file system removes when the process
// ends.
//
// The package does not watch directories: its user calls Render when they may have changed. It does
// not know which machine gets which layer.
package folder

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"netroot/internal/handoff"
	"netroot/internal/layer"
	"netroot/internal/secrets"
)

// Folder is a directory of layers with their archives. Its methods may be called by several
// goroutines at once.
type Folder struct {
	place atomic.Pointer[place]
	log   *slog.Logger
	shelf

	rendering sync.Mutex           // held while layers are looked at and read
	layers    map[string]*rendered // by name
}

// place is where layers lie.
type place struct {
	dir  string // empty: nowhere
	edit func(*tar.Header)
}

// rendered is what became of one layer's directory.
type rendered struct {
	state  state
	digest handoff.Digest    // of its last whole archive; empty: there is none yet
	found  []secrets.Finding // in that archive
	clean  handoff.Digest    // of the archive before it that has no secrets, if it has any itself
	err    error             // why that is not of the directory as it is now
}

// judge returns the digest of the archive for machines of a label that allows these secrets. If the
// last archive has others, they get the one before that has none. why says so, or that there is
// none.
func (r *rendered) judge(allow []string) (digest handoff.Digest, why *secrets.Error) {
	_, err := secrets.Allow(allow).Judge(r.found)
	if refused, ok := errors.AsType[*secrets.Error](err); ok {
		refused.Layer = true
		return r.clean, refused
	}
	return r.digest, nil
}

// New returns the layers in dir, which need not exist; empty: there are none. Files that belong to
// the owner of dir's parent, where netroot.yaml lies, become root's. Archives are kept in the file
// system of the directory scratch, or of the system's temporary files where it cannot be written
// to.
func New(dir, scratch string, log *slog.Logger) *Folder {
	f := &Folder{log: log, layers: make(map[string]*rendered)}
	f.shelf = shelf{scratch: scratch, room: maxRetired, archives: make(map[handoff.Digest]*archive)}
	f.Move(dir)
	return f
}

// Move has the layers lie in another directory from now on.
func (f *Folder) Move(dir string) {
	if now := f.place.Load(); now != nil && now.dir == dir {
		return
	}
	p := &place{dir: dir}
	if dir != "" {
		p.edit = layer.RootOwned(filepath.Dir(dir))
	}
	f.place.Store(p)
}

// Has reports whether there is a layer of that name, whether it can be rendered or not.
func (f *Folder) Has(name string) bool {
	dir := f.place.Load().dir
	if dir == "" || handoff.CheckLayerName(name) != nil {
		return false
	}
	_, err := os.Lstat(filepath.Join(dir, name))
	return err == nil
}

// Place is where a layer of that name would be; empty: the folder has no place.
func (f *Folder) Place(name string) string {
	dir := f.place.Load().dir
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, name)
}

// Names are the names of all layers, in order.
func (f *Folder) Names() ([]string, error) {
	dir := f.place.Load().dir
	if dir == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if _, err := f.Dir(e.Name()); err == nil {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// Dir is the directory of a layer. It may be a symbolic link to another; what is in it may not.
func (f *Folder) Dir(name string) (layer.Dir, error) {
	if err := handoff.CheckLayerName(name); err != nil {
		return layer.Dir{}, err
	}
	d, err := f.resolve(name)
	if err != nil {
		err = fmt.Errorf("layer %s: %w", name, err)
	}
	return d, err
}

func (f *Folder) resolve(name string) (layer.Dir, error) {
	at := f.place.Load()
	file := filepath.Join(at.dir, name)
	dir, err := filepath.EvalSymlinks(file)
	if err != nil {
		return layer.Dir{}, fmt.Errorf("%s: %w", file, err)
	}
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		return layer.Dir{}, errors.Join(err, fmt.Errorf("%s is not a directory, and a layer is one", file))
	}
	return layer.Dir{Name: name, Path: dir, Edit: at.edit}, nil
}

// Digest is the digest of the archive of a layer as its directory is now. A layer with a secret
// that allow does not name has none.
func (f *Folder) Digest(name string, allow []string) (handoff.Digest, error) {
	f.rendering.Lock()
	defer f.rendering.Unlock()
	r := f.render(name)
	if r.err != nil {
		return "", r.err
	}
	digest, why := r.judge(allow)
	if why != nil {
		return "", fmt.Errorf("layer %s: %w", name, why)
	}
	return digest, nil
}

// ErrNotRendered is why a layer that exists has no archive. Machines get no paths.
var ErrNotRendered = errors.New("cannot be rendered; the server's log says why")

// Snapshot is what the layers of a folder were at one moment. It does not change.
type Snapshot struct {
	has    map[string]bool
	layers map[string]rendered
}

// Has reports whether there was a layer of that name.
func (s *Snapshot) Has(name string) bool { return s.has[name] }

// Digest is the digest of a layer's last whole archive without a secret that allow does not name.
func (s *Snapshot) Digest(name string, allow []string) (handoff.Digest, error) {
	r, ok := s.layers[name]
	switch {
	case !ok:
		return "", fmt.Errorf("layer %s is not rendered here", name)
	case r.digest == "":
		return "", fmt.Errorf("layer %s %w", name, ErrNotRendered)
	}
	digest, why := r.judge(allow)
	if why != nil && digest == "" {
		return "", fmt.Errorf("layer %s contains secrets; the server's log says which", name)
	}
	return digest, nil
}

// Refused says which secrets keep the last archive of a layer from the machines of a label that
// allows others, and what they get meanwhile; empty: nothing does.
func (s *Snapshot) Refused(name string, allow []string) string {
	r := s.layers[name]
	digest, why := r.judge(allow)
	if why == nil {
		return ""
	}
	return fmt.Sprintf("layer %s contains secrets: %s: served meanwhile: %s; remove them, or name them in allow_secrets of the label",
		name, why.Brief(), servedInstead(digest))
}

// Problems returns, for each layer that could not be rendered as its directory was, the reason.
func (s *Snapshot) Problems() map[string]error {
	all := make(map[string]error)
	for name, r := range s.layers {
		if r.err != nil {
			all[name] = r.err
		}
	}
	return all
}

// Equal reports whether a machine gets the same of both.
func (s *Snapshot) Equal(o *Snapshot) bool {
	if len(s.layers) != len(o.layers) {
		return false
	}
	for name, r := range s.layers {
		was, ok := o.layers[name]
		if !ok || was.digest != r.digest || was.clean != r.clean || (was.err == nil) != (r.err == nil) || r.err != nil && was.err.Error() != r.err.Error() {
			return false
		}
	}
	return true
}

// Render makes the archives of those layers of these names that the folder has, as far as their
// directories have changed, and forgets those of others.
func (f *Folder) Render(names []string) *Snapshot {
	f.rendering.Lock()
	defer f.rendering.Unlock()
	s := &Snapshot{has: make(map[string]bool), layers: make(map[string]rendered)}
	for _, name := range names {
		if s.has[name] || !f.Has(name) {
			continue
		}
		s.has[name] = true
		r := *f.render(name)
		s.layers[name] = r
	}
	for name, r := range f.layers {
		if !s.has[name] {
			if slices.Contains(names, name) {
				f.log.Warn("layer: it does not exist any more; machines look for it in their tree", "layer", name, "directory", f.Place(name))
			}
			delete(f.layers, name)
			f.drop(r.digest)
			f.drop(r.clean)
		}
	}
	return s
}

// drop retires an archive that is none of a layer any more. The caller holds the mutex rendering.
func (f *Folder) drop(digest handoff.Digest) {
	if digest == "" {
		return
	}
	for _, r := range f.layers {
		if r.digest == digest || r.clean == digest { // also of another layer of the same bytes
			return
		}
	}
	f.retire(digest)
}

// Watched are the directories in which a change can change a layer of these names, or whether there
// is one.
func (f *Folder) Watched(names []string) []string {
	dir := f.place.Load().dir
	if dir == "" {
		return nil
	}
	dirs := []string{filepath.Dir(dir), dir}
	for _, name := range names {
		d, err := f.Dir(name)
		if err != nil {
			continue
		}
		filepath.WalkDir(d.Path, func(file string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append(dirs, file)
			}
			return nil
		})
	}
	return dirs
}

// render brings the archive of one layer up to date. The caller holds the mutex rendering.
func (f *Folder) render(name string) *rendered {
	r := f.layers[name]
	if r == nil {
		r = new(rendered)
		f.layers[name] = r
	}
	err := f.update(r, name)
	if err != nil {
		err = fmt.Errorf("layer %s: %w", name, err)
	}
	if err != nil && (r.err == nil || r.err.Error() != err.Error()) {
		f.log.Warn("layer: not rendered", "layer", name, "why", err, "served meanwhile", servedInstead(r.digest))
	}
	r.err = err
	return r
}

func servedInstead(digest handoff.Digest) string {
	if digest == "" {
		return "nothing"
	}
	return string(digest)
}

func (f *Folder) update(r *rendered, name string) error {
	if err := handoff.CheckLayerName(name); err != nil {
		return err
	}
	d, err := f.resolve(name)
	if err != nil {
		return err
	}
	now, err := stateOf(d.Path)
	if err != nil {
		return err
	}
	if now.sum == r.state.sum && f.has(r.digest) {
		return nil
	}
	return f.archive(r, d, now)
}

// archive makes the archive of a directory, and takes it only if the directory is the same before
// and after.
func (f *Folder) archive(r *rendered, d layer.Dir, before state) error {
	const tries = 5
	for range tries {
		if since := time.Since(before.newest); since >= 0 && since < clockTick {
			time.Sleep(clockTick - since) // until a further change has another time
			var err error
			if before, err = stateOf(d.Path); err != nil {
				return err
			}
		}
		started := time.Now()
		out, err := f.create()
		if err != nil {
			return err
		}
		digest, err := out.fill(d)
		var found []secrets.Finding
		if err == nil {
			found, err = secrets.ScanLayer(context.Background(), d.Path)
		}
		if err != nil {
			out.Close()
			return err
		}
		after, err := stateOf(d.Path)
		if err != nil || after.sum != before.sum {
			out.Close()
			if err != nil {
				return err
			}
			before = after
			continue
		}
		f.keep(digest, out)
		f.replace(r, before, digest, found)
		f.log.Info("layer rendered", "layer", d.Name, "digest", digest, "bytes", out.size, "files", before.files, "took", time.Since(started).Round(time.Microsecond))
		for _, err := range layer.CheckDeletions(d.Path) {
			f.log.Warn("layer: nodes will not do this", "layer", d.Name, "why", err)
		}
		return nil
	}
	return errors.New("it changes while it is read")
}

// replace makes an archive the last one of a layer. One with secrets keeps the last one without
// them, for machines whose label does not allow them.
func (f *Folder) replace(r *rendered, of state, digest handoff.Digest, found []secrets.Finding) {
	old, clean := r.digest, r.clean
	found = slices.DeleteFunc(found, func(x secrets.Finding) bool { return x.Kind.Warning() })
	switch {
	case len(found) == 0:
		r.clean = ""
	case len(r.found) == 0:
		r.clean = old
	}
	r.state, r.digest, r.found = of, digest, found
	f.drop(old)
	f.drop(clean)
}
