package build

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"netroot/internal/bootstrap"
	"netroot/internal/cache"
	"netroot/internal/recipe"
	"netroot/internal/term"
)

// fetching are the agents whose result is worth keeping: they bring it over a
// network, and what they are told says what it is. The others copy something of
// this host, which may be another thing next time.
var fetching = []string{"debootstrap", "yum", "dnf", "zypper", "arch", "docker", "oras"}

// fill has the agent fill the stage's tree, or takes what it brought the last
// time that it was told the same.
func (b *builder) fill(ctx context.Context, st *recipe.Stage, log io.Writer) error {
	agent, err := bootstrap.For(st.Agent())
	if err != nil {
		return err
	}
	job := bootstrap.Job{Root: b.tree, Stage: st, Dir: b.opt.Dir, Log: log, Env: os.Environ()}
	if b.opt.Cache == nil || st.Pre != nil || !slices.Contains(fetching, strings.ToLower(st.Agent())) {
		return agent(ctx, job)
	}
	key, err := bootstrapKey(ctx, st)
	if err != nil {
		return err
	}
	meta, ok, err := b.opt.Cache.Restore(ctx, key, b.tree)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		b.warn("%v; doing it again", err)
	case ok:
		b.opt.Progress.Message("bootstrap: reused the snapshot %s of %s ago, which took %s to make (--no-cache makes a new one)",
			key.ID(), term.Duration(time.Since(meta.Created)), term.Duration(meta.Took))
		return nil
	}
	started := time.Now()
	if err := agent(ctx, job); err != nil {
		return err
	}
	meta = cache.Meta{What: describe(st), Label: b.opt.Label, Took: time.Since(started)}
	if err := b.opt.Cache.Save(ctx, key, b.tree, meta); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		b.warn("%v; the next build starts from nothing", err)
	}
	return nil
}

// bootstrapKey is made of everything that an agent is told: the header, the
// variables it reads, and the host's package sources, which are the mirror of a
// recipe that names none.
func bootstrapKey(ctx context.Context, st *recipe.Stage) (cache.Key, error) {
	parts := []string{"bootstrap"}
	for _, f := range st.Header {
		parts = append(parts, strings.ToLower(f.Key), f.Value)
	}
	for _, name := range []string{"INCLUDE", "GPG", "SOURCE_DATE_EPOCH"} {
		parts = append(parts, name, os.Getenv(name))
	}
	sources, err := filepath.Glob("/etc/apt/sources.list.d/*")
	if err != nil {
		return "", err
	}
	for _, path := range append(sources, "/etc/apt/sources.list", "/etc/pacman.conf") {
		digest, err := cache.Content(ctx, path)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("read the host's package sources: %w", err)
		}
		parts = append(parts, path, digest)
	}
	return cache.NewKey(parts...), nil
}
