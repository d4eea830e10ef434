// Package build turns a recipe into a tree, and the tree into an image in the store. It is the only
// orchestrator: it knows the order of the sections and what to report, and it removes everything
// that a failed build made. The packages recipe, bootstrap, sandbox, kernel, pack, initramfs and
// store do the work itself. Package build does not serve and does not boot anything.
//
// docs/recipe.md describes what a build does and where it differs from Apptainer's. Commands can
// run in a finished tree ([OpenTree]); a record beside the tree tells whether the tree has changed
// since its image was made.
package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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

// Options describe what to build and where.
type Options struct {
	Label      string         // the image's name in the store
	Recipe     *recipe.Recipe // parsed
	RecipeFile string         // absolute path of the recipe, for a later build by the label's name; may be empty
	Dir        string         // where %pre and %setup run and relative names in %files start
	Tree       string         // path of the finished tree
	LogDir     string         // directory of the log, LABEL.log
	Store      *store.Store
	Init       string            // path of the static program netroot-init
	Kernel     string            // kernel release; empty: the newest in the tree; NoKernel: none
	Transport  handoff.Transport // transport that is required; empty: all of the kernel's
	Initramfs  handoff.Flavour   // handoff.Dracut: also make the initramfs of dracut
	Strict     bool              // do as Apptainer does (docs/recipe.md)
	Sections   Sections          // sections to run; empty: all
	NoTest     bool              // do not run %test
	Update     bool              // start from the existing tree; same recipe: only pack it
	// Force replaces a directory that is not a tree or is in use, replaces labels and help with
	// the recipe's, and updates even if the recipe is the same.
	Force   bool
	Binds   []sandbox.Bind // bind mounts for %post and %test
	Cache   *cache.Cache   // cache of what the agents fetched; nil: no cache
	Allow   secrets.Allow  // secrets that the image may contain
	Pack    pack.Method    // packing method of the root; empty: pack.Auto
	Level   int            // compression level of the root; 0: the method's default
	Version string         // version of netroot

	// keepAfter replaces worthKeeping in tests, where the time that a build takes depends on
	// the load.
	keepAfter time.Duration

	Progress *term.Printer
}

// Result describes the image that a build made.
type Result struct {
	Image    *store.Image  `json:"image"`
	Tree     string        `json:"tree"`
	TreeSize int64         `json:"tree_size"` // sum of the file sizes in bytes
	Log      string        `json:"log"`
	Took     time.Duration `json:"took"`
	Phases   []PhaseTime   `json:"phases"`
	Reused   []Reused      `json:"reused,omitempty"` // states taken from the cache
}

// PhaseTime is the time that one phase took.
type PhaseTime struct {
	Name string        `json:"name"`
	Took time.Duration `json:"took"`
}

// Error is a failed build. Tail holds the last lines of output of the failing part.
type Error struct {
	Phase string
	Err   error
	Cause string // of Err, if it is known; then Tail says no more
	Tail  []string
	Log   string // file with the complete output
	Kept  string // path of the finished tree, if it is kept although no image could be made of it
}

// Error names the phase once. If the cause is known it is one line, and of a script that failed it has the
// last line that the script printed.
func (e *Error) Error() string {
	text := e.Err.Error()
	if e.Cause != "" {
		text, _, _ = strings.Cut(text, "\n")
		text = fmt.Sprintf("%s: %s; the log is %s", strings.TrimSuffix(text, ":"), e.Cause, e.Log)
	} else if _, ok := errors.AsType[*sandbox.ExitError](e.Err); ok {
		if last := lastWords(e.Tail); last != "" {
			text = fmt.Sprintf("%s (%s)", last, strings.TrimPrefix(text, e.Phase+": "))
		}
	}
	if rest, ok := strings.CutPrefix(text, e.Phase); ok && strings.IndexAny(rest, ": ") == 0 {
		return text
	}
	return e.Phase + ": " + text
}

// lastWords returns the last line of an output that is not the shell's trace of a command.
func lastWords(tail []string) string {
	for _, line := range slices.Backward(tail) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "+") {
			return line
		}
	}
	return ""
}

func (e *Error) Unwrap() error { return e.Err }

// Run builds an image. When it fails or ctx ends, the old tree and the old images are unchanged,
// and only the log of the new build is left. There is one exception: if the tree is finished and no
// image can be made of it, and the old tree has no image either, the new one takes its place
// (Error.Kept).
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
	defer func() { err = errors.Join(err, ws.close(opt.Progress.Warn)) }()
	log, err := newLog(opt.LogDir, opt.Label)
	if err != nil {
		return nil, err
	}
	defer log.Close()

	b := &builder{opt: opt, ws: ws, log: log, trees: map[string]string{}, created: created}
	for _, w := range ws.warnings {
		b.warn("%v", w)
	}
	image, err := b.run(ctx)
	if err != nil {
		return nil, err
	}
	if err := log.failed(); err != nil {
		opt.Progress.Warn("%v", err)
	}
	return &Result{
		Image: image, Tree: opt.Tree, TreeSize: image.Config.TreeSize,
		Log: log.Name(), Took: time.Since(started), Phases: b.phases, Reused: b.reused,
	}, nil
}

func checkTree(opt Options) error {
	if _, err := os.Stat(opt.Tree); opt.Update && errors.Is(err, fs.ErrNotExist) {
		return &NoTreeError{Label: opt.Label}
	}
	return nil
}

// builder is the state of one build.
type builder struct {
	opt     Options
	ws      *workspace
	log     *buildLog
	tree    string            // tree of the current stage; at the end, of the last stage
	trees   map[string]string // trees by stage name, for "%files from"
	phases  []PhaseTime
	reused  []Reused
	created time.Time
	mounts  []string // mount points whose content a localimage does not have
	states

	searched         bool                // for secrets, of which the tree has none
	dracutTransports []handoff.Transport // supported by dracut's initramfs, once made
}

func (b *builder) run(ctx context.Context) (*store.Image, error) {
	unchanged, err := b.repacks()
	if err != nil {
		return nil, err
	}
	if unchanged {
		return b.repack(ctx)
	}
	if err := b.freeTree(); err != nil { // check before the work is done
		return nil, err
	}
	if err := b.check(); err != nil {
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
		if writeErr := <-written; writeErr != nil {
			return nil, errors.Join(err, writeErr)
		}
		return nil, b.saveTree(ctx, rec, err)
	}
	return image, b.phase("tree", b.opt.Tree, func(*term.Phase) error {
		if err := <-written; err != nil {
			return err
		}
		return b.publish(rec)
	})
}

// writeOut starts to write the files of a finished tree to its disk while the image is made. Until
// then nothing was synced (sandbox.Sandbox.NoSync). The tree must not change any more. The channel
// delivers the error, or nil, when all files are on the disk.
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

// publish puts the tree and its record in their places. Between the two steps the tree has no
// record, because a missing record is better than the record of another tree.
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

// repacks reports whether an update only has to pack the tree, because its recipe is the one that
// the tree was built from.
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

// repack makes an image of the tree in its present place and state.
func (b *builder) repack(ctx context.Context) (*store.Image, error) {
	b.opt.Progress.Message("%s was built from the same recipe: packing the tree without building it again", b.opt.Tree)
	b.tree = b.opt.Tree
	// What a machine has made in its tree comes first: it may be why %test fails.
	if err := b.phase("secrets", "", func(*term.Phase) error { return b.refuseSecrets(ctx) }); err != nil {
		return nil, err
	}
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

// record makes the image, and before that a record of what is in the tree. The record is returned
// also when there is no image because of the error.
func (b *builder) record(ctx context.Context) (*record, *store.Image, error) {
	files, err := listFiles(b.tree)
	if err != nil {
		return nil, nil, err
	}
	rec := &record{recipe: b.recipeDigest(), image: noImage, files: files, file: b.opt.RecipeFile}
	image, err := b.image(ctx)
	if err == nil {
		rec.image = image.Name()
	}
	return rec, image, err
}

// saveTree publishes a finished tree of which no image could be made because of err, so that the
// work is not lost: commands can run in the tree, and an update makes an image of it. It returns err
// and notes in it that the tree was kept. A tree that has an image is not replaced.
func (b *builder) saveTree(ctx context.Context, rec *record, err error) error {
	failed, ok := errors.AsType[*Error](err)
	if !ok || ctx.Err() != nil {
		return err
	}
	if _, statErr := os.Lstat(b.opt.Tree); statErr == nil {
		old, loadErr := loadRecord(recordFile(b.opt.Tree))
		if loadErr != nil || old.image != noImage {
			return err
		}
	}
	if publishErr := b.publish(rec); publishErr != nil {
		return errors.Join(err, publishErr)
	}
	failed.Kept = b.opt.Tree
	return err
}

// check reports what is wrong with the recipe before any work is done.
func (b *builder) check() error {
	found := Check(b.opt)
	for _, w := range found.Warnings {
		b.warn("%s", w)
	}
	return found.Err()
}

func (b *builder) recipeDigest() string { return string(layer.Digest(b.opt.Recipe.Source)) }

// phase runs one part of the build and shows its progress.
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
	failed := &Error{Phase: name, Err: err, Tail: b.log.tail(), Log: b.log.Name()}
	failed.Cause = b.cause(err, failed.Tail)
	p.Fail(failed)
	return failed
}

// diskUsage returns the sum of the sizes, in bytes, of the files below dir. Each inode counts once.
// Directories do not count, because their size depends on the file system.
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

// stageName returns the name of a stage for messages. It is empty if the recipe has only one stage.
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
