// Package build turns a recipe into a tree and the tree into an image in the
// store. It is the only orchestrator: it knows the order of the sections, what
// is reported, and what must be left behind when something fails, which is
// nothing. The work itself is done by recipe, bootstrap, sandbox, kernel, pack,
// initramfs and store. It serves nothing and boots nothing.
//
// docs/recipe.md says what a build does, and where it differs from Apptainer's.
// A finished tree can be worked in ([OpenTree]); a record beside it tells
// whether it still is what its image was made of.
package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/cache"
	"netroot/internal/handoff"
	"netroot/internal/layer"
	"netroot/internal/pack"
	"netroot/internal/recipe"
	"netroot/internal/sandbox"
	"netroot/internal/secrets"
	"netroot/internal/store"
	"netroot/internal/term"
)

// Options say what to build and where.
type Options struct {
	Label     string         // the image's name in the store
	Recipe    *recipe.Recipe // parsed
	Dir       string         // working directory of %pre and %setup, and base of relative %files
	Tree      string         // where the finished tree is to lie
	LogDir    string         // for LABEL.log
	Store     *store.Store
	Init      string            // path of the static netroot-init
	Kernel    string            // release to take; empty: the newest in the tree
	Transport handoff.Transport // that must work; empty: whatever the kernel has
	Initramfs handoff.Flavour   // handoff.Dracut: make that one beside ours
	Strict    bool              // Apptainer's ways where they differ: docs/recipe.md lists them
	Sections  Sections          // to carry out; none: all
	NoTest    bool              // leave out %test
	Update    bool              // begin with the tree there is; if the recipe is the same, only pack it
	Force     bool              // replace what is no tree or is in use, give labels and help the recipe's values, update in any case
	Binds     []sandbox.Bind    // for %post and %test
	Cache     *cache.Cache      // of what agents brought; nil: none
	Allow     secrets.Allow     // secrets that may be in the image
	Pack      pack.Method       // of the root; empty: pack.Auto
	Level     int               // compression level of the root; 0: a good one
	Version   string            // netroot's

	keepAfter time.Duration // in place of worthKeeping, for tests: their work takes as long as the machine is busy

	Progress *term.Printer
}

// Result is what a build made.
type Result struct {
	Image    *store.Image  `json:"image"`
	Tree     string        `json:"tree"`
	TreeSize int64         `json:"tree_size"` // bytes of the files
	Log      string        `json:"log"`
	Took     time.Duration `json:"took"`
	Phases   []PhaseTime   `json:"phases"`
	Reused   []Reused      `json:"reused,omitempty"` // instead of doing it again
}

// PhaseTime is how long one phase took.
type PhaseTime struct {
	Name string        `json:"name"`
	Took time.Duration `json:"took"`
}

// Error is a build that failed. Tail is what the failing part printed last.
type Error struct {
	Phase string
	Err   error
	Tail  []string
	Log   string // the file with all of it
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %v", e.Phase, e.Err) }

func (e *Error) Unwrap() error { return e.Err }

// Run builds. When it fails or ctx ends, the old tree and the old images are as
// before, and nothing of the new ones is left but the log.
func Run(ctx context.Context, opt Options) (_ *Result, err error) {
	started := time.Now()
	created, err := created()
	if err != nil {
		return nil, err
	}
	if err := checkTree(opt); err != nil {
		return nil, err
	}
	ws, err := openWorkspace(opt.Tree, opt.Label, opt.Force)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ws.close()) }()
	log, err := newLog(opt.LogDir, opt.Label)
	if err != nil {
		return nil, err
	}
	defer log.Close()

	b := &builder{opt: opt, ws: ws, log: log, trees: map[string]string{}, created: created}
	image, err := b.run(ctx)
	if err != nil {
		return nil, err
	}
	return &Result{
		Image: image, Tree: opt.Tree, TreeSize: image.Config.TreeSize,
		Log: log.Name(), Took: time.Since(started), Phases: b.phases, Reused: b.reused,
	}, nil
}

func checkTree(opt Options) error {
	if _, err := os.Stat(opt.Tree); opt.Update && errors.Is(err, fs.ErrNotExist) {
		return noTree(opt.Label)
	}
	return nil
}

// builder is the state of one build.
type builder struct {
	opt     Options
	ws      *workspace
	log     *buildLog
	tree    string            // of the stage at hand, in the end of the last one
	trees   map[string]string // by stage name, for %files from
	phases  []PhaseTime
	reused  []Reused
	created time.Time
	states

	dracutTransports []handoff.Transport // that the initramfs of dracut can do, once it is made
}

func (b *builder) run(ctx context.Context) (*store.Image, error) {
	asItIs, err := b.repacks()
	if err != nil {
		return nil, err
	}
	if asItIs {
		return b.repack(ctx)
	}
	if err := b.freeTree(); err != nil { // before the work is done
		return nil, err
	}
	if err := b.restoreStages(ctx); err != nil {
		return nil, err
	}
	for i := range b.opt.Recipe.Stages {
		if b.idle[i] {
			continue
		}
		if err := b.stage(ctx, i); err != nil {
			return nil, err
		}
	}
	written := writeOut(b.tree)
	rec, image, err := b.record(ctx)
	if err != nil {
		return nil, errors.Join(err, <-written)
	}
	return image, b.phase("tree", b.opt.Tree, func(*term.Phase) error {
		if err := <-written; err != nil {
			return err
		}
		return b.publish(rec)
	})
}

// writeOut has the files of a finished tree written to its disk, while the image
// is made: nobody has asked for it before (sandbox.Sandbox.NoSync). The tree does
// not change any more; its error comes when all is there.
func writeOut(tree string) <-chan error {
	done := make(chan error, 1)
	go func() {
		dir, err := os.Open(tree)
		if err != nil {
			done <- err
			return
		}
		err = unix.Syncfs(int(dir.Fd()))
		if err != nil {
			err = fmt.Errorf("write the tree %s to its disk: %w", tree, err)
		}
		done <- errors.Join(err, dir.Close())
	}()
	return done
}

// publish puts the tree and its record in their places. In between there is no
// record: better none than one of another tree.
func (b *builder) publish(rec *record) error {
	ready, place := filepath.Join(b.ws.dir, "files"), recordFile(b.opt.Tree)
	if err := rec.save(ready); err != nil {
		return err
	}
	if err := b.freeTree(); err != nil {
		return err
	}
	if err := os.Remove(place); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := b.ws.publish(b.tree); err != nil {
		return err
	}
	return os.Rename(ready, place)
}

// repacks tells whether an update has nothing to do but to pack the tree: its
// recipe is the one that it was built from.
func (b *builder) repacks() (bool, error) {
	if !b.opt.Update || b.opt.Force || len(b.opt.Sections) > 0 {
		return false, nil
	}
	old, err := loadRecord(recordFile(b.opt.Tree))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && old.recipe == b.recipeDigest(), err
}

// repack makes an image of the tree as it is, where it is.
func (b *builder) repack(ctx context.Context) (*store.Image, error) {
	b.opt.Progress.Message("the recipe is the one that %s was built from: the tree is packed as it is", b.opt.Tree)
	b.tree = b.opt.Tree
	if _, err := os.Stat(filepath.Join(b.tree, testFile)); err == nil && b.wantsTest() {
		err := b.phase("%test", "", func(p *term.Phase) error { return b.test(ctx, io.MultiWriter(b.log, lastLine(p))) })
		if err != nil {
			return nil, err
		}
	}
	rec, image, err := b.record(ctx)
	if err != nil {
		return nil, err
	}
	return image, rec.save(recordFile(b.tree))
}

// record makes the image, and notes down what is in the tree just before.
func (b *builder) record(ctx context.Context) (*record, *store.Image, error) {
	files, err := listFiles(b.tree)
	if err != nil {
		return nil, nil, err
	}
	image, err := b.image(ctx)
	if err != nil {
		return nil, nil, err
	}
	return &record{recipe: b.recipeDigest(), image: image.Name(), files: files}, image, nil
}

func (b *builder) recipeDigest() string { return layer.Digest(b.opt.Recipe.Source) }

// phase runs one part of the build under the user's eyes.
func (b *builder) phase(name, detail string, run func(*term.Phase) error) error {
	p := b.opt.Progress.Phase(name, detail)
	fmt.Fprintf(b.log, "\n=== %s %s\n", name, detail)
	b.log.mark()
	started := time.Now()
	err := run(p)
	b.phases = append(b.phases, PhaseTime{name, time.Since(started)})
	if err == nil {
		p.Done()
		return nil
	}
	p.Fail(err)
	return &Error{Phase: name, Err: err, Tail: b.log.tail(), Log: b.log.Name()}
}

// diskUsage adds up the sizes of the files below dir, each once. Directories are
// left out: how large they are is the file system's business.
func diskUsage(dir string) (int64, error) {
	var total int64
	seen := map[inode]bool{}
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.Type().IsRegular() {
			return nil
		}
		id, size, err := stat(path)
		if err == nil && !seen[id] {
			seen[id] = true
			total += size
		}
		return err
	})
	return total, err
}

// stageName is how a stage is called in messages; a recipe of one stage needs none.
func stageName(r *recipe.Recipe, i int) string {
	if len(r.Stages) == 1 {
		return ""
	}
	if name := r.Stages[i].Name; name != "" {
		return name
	}
	return fmt.Sprintf("stage %d", i+1)
}

func join(words ...string) string {
	return strings.Join(strings.Fields(strings.Join(words, " ")), " ")
}
