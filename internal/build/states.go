package build

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"netroot/internal/cache"
	"netroot/internal/layer"
	"netroot/internal/recipe"
)

// worthKeeping is the least time spent on a state before %post that makes it worth keeping. Copying
// a tree twice takes about as long.
const worthKeeping = time.Second

// states records, for each stage of a build, which work is not needed.
type states struct {
	keys     []cache.Key     // of each stage's state before %post; empty: unknown
	restored []bool          // the state before %post was restored
	idle     []bool          // no other stage takes files from it any more
	took     []time.Duration // time spent on the stage
}

// restoreStages restores the states before %post, beginning with the last stage. A stage that was
// needed only by a restored stage need not be built.
func (b *builder) restoreStages(ctx context.Context) error {
	n := len(b.opt.Recipe.Stages)
	b.states = states{make([]cache.Key, n), make([]bool, n), make([]bool, n), make([]time.Duration, n)}
	if b.opt.Cache == nil || b.opt.Strict || b.opt.Update || len(b.opt.Sections) > 0 || len(b.opt.Binds) > 0 {
		return nil
	}
	wanted := make([]int, n) // number of built stages that take files from it
	takers := make([]int, n)
	for i := n - 1; i >= 0; i-- {
		b.idle[i] = takers[i] > 0 && wanted[i] == 0
		if b.idle[i] {
			name := stageName(b.opt.Recipe, i)
			b.opt.Progress.Message("%s is not built: the snapshot already contains its files", name)
		} else if err := b.restoreStage(ctx, i); err != nil {
			return err
		}
		for _, from := range b.sources(i) {
			takers[from]++
			if !b.idle[i] && !b.restored[i] {
				wanted[from]++
			}
		}
	}
	return nil
}

func (b *builder) restoreStage(ctx context.Context, i int) (err error) {
	if b.keys[i], err = b.stageKey(ctx, i); err != nil || b.keys[i] == "" {
		return err
	}
	if _, ok := b.opt.Cache.Lookup(b.keys[i]); !ok {
		return nil
	}
	b.tree = b.stageTree(i)
	if err := os.Mkdir(b.tree, 0o755); err != nil {
		return err
	}
	if b.restored[i], err = b.restore(ctx, b.keys[i], join(stageName(b.opt.Recipe, i), "before %post")); err != nil || b.restored[i] {
		return err
	}
	return os.Remove(b.tree)
}

// keepStage stores the state of a stage before its %post, if its key is known and if the state took
// long to make. That time includes the other stages and excludes the part that the bootstrap's
// snapshot saves. done lists the finished phases of the stage.
func (b *builder) keepStage(ctx context.Context, i int, done []PhaseTime) error {
	if b.keys[i] == "" {
		return nil
	}
	st := b.opt.Recipe.Stages[i]
	var took time.Duration
	for _, p := range done {
		if p.Name != "bootstrap" || !isOneOf(st, fetchingAgents) {
			took += p.Took
		}
	}
	for _, from := range b.sources(i) {
		took += b.took[from]
	}
	if took < cmp.Or(b.opt.keepAfter, worthKeeping) {
		return nil
	}
	if now, err := b.stageKey(ctx, i); err != nil || now != b.keys[i] {
		return err // files of the host changed while they were copied
	}
	return b.keep(ctx, b.keys[i], join(describe(st), stageName(b.opt.Recipe, i), "before %post"), took)
}

// sources returns the earlier stages that stage i takes files from.
func (b *builder) sources(i int) []int {
	var out []int
	for _, block := range b.opt.Recipe.Stages[i].Files {
		from := slices.IndexFunc(b.opt.Recipe.Stages[:i], func(s *recipe.Stage) bool { return s.Name == block.From })
		if block.From != "" && from >= 0 && !slices.Contains(out, from) {
			out = append(out, from)
		}
	}
	return out
}

// stageKey identifies the state of a stage before its %post. The key is empty where that state
// cannot be known: %pre and %setup may read and change anything on the host, and an agent that
// copies a directory copies its present content.
func (b *builder) stageKey(ctx context.Context, i int) (cache.Key, error) {
	st := b.opt.Recipe.Stages[i]
	if slices.ContainsFunc(b.opt.Recipe.Stages[:i+1], func(s *recipe.Stage) bool { return s.Pre != nil || s.Setup != nil }) {
		return "", nil
	}
	start, err := b.bootstrapKey(ctx, st)
	if err != nil {
		return "", err
	}
	if start == "" {
		parts, dirs, err := b.headerKey(ctx, st)
		if err != nil || dirs || !isOneOf(st, append(unpackingAgents, "scratch")) {
			return "", err
		}
		start = cache.NewKey(parts...)
	}
	parts := []string{"before %post", b.opt.Version}
	for _, from := range b.sources(i) {
		key, err := b.resultKey(ctx, from)
		if key == "" || err != nil {
			return "", err
		}
		parts = append(parts, string(key))
	}
	files, err := b.filesKey(ctx, st)
	if err != nil {
		return "", err
	}
	parts = append(append(parts, files...), sectionTexts(st, func(name string) bool { return name == "files" || strings.HasPrefix(name, "app") })...)
	return start.Then(parts...), nil
}

// resultKey identifies the result of a whole stage.
func (b *builder) resultKey(ctx context.Context, i int) (cache.Key, error) {
	key, err := b.stageKey(ctx, i)
	if key == "" || err != nil {
		return "", err
	}
	st := b.opt.Recipe.Stages[i]
	env := slices.DeleteFunc(b.environ(st), func(kv string) bool { return strings.HasPrefix(kv, "TERM=") })
	parts := append([]string{"result", fmt.Sprint(b.opt.NoTest)}, env...)
	return key.Then(append(parts, sectionTexts(st, func(string) bool { return true })...)...), nil
}

// filesKey returns the content of the files that %files and %appfiles copy from the host, and the
// names under which they were found.
func (b *builder) filesKey(ctx context.Context, st *recipe.Stage) ([]string, error) {
	src := hostFiles{base: b.opt.Dir, edit: layer.RootOwned(b.opt.Dir)}
	parts := []string{fmt.Sprint(src.edit != nil)}
	entries := []recipe.FileEntry{}
	for _, block := range st.Files {
		if block.From == "" {
			entries = append(entries, block.Entries...)
		}
	}
	for _, app := range st.Apps {
		entries = append(entries, app.Files...)
	}
	for _, e := range entries {
		matches, err := src.find(e.Src)
		if err != nil {
			// The step that copies the file reports the error, and no state is kept.
			continue
		}
		for _, m := range matches {
			digest, err := cache.Content(ctx, m.file)
			if err != nil {
				return nil, err
			}
			parts = append(parts, m.name, digest)
		}
	}
	return parts, nil
}

// sectionTexts returns the wanted sections of a stage as they were written, without their
// positions.
func sectionTexts(st *recipe.Stage, wanted func(name string) bool) []string {
	var out []string
	for _, s := range st.Sections {
		if wanted(s.Name) {
			// Marshalling strings cannot fail.
			text, _ := json.Marshal([]string{s.Name, s.Args, s.Body})
			out = append(out, string(text))
		}
	}
	return out
}
