package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"netroot/internal/bootstrap"
	"netroot/internal/cache"
	"netroot/internal/initramfs"
	"netroot/internal/recipe"
	"netroot/internal/term"
)

// Reused is a state that a build took from the cache instead of making it.
type Reused struct {
	What  string        `json:"what"`  // for people: "bootstrap", "stage devel before %post"
	Key   string        `json:"key"`   // of the snapshot
	Age   time.Duration `json:"age"`   // since it was made
	Saved time.Duration `json:"saved"` // what it took to make
}

func (r Reused) String() string {
	return fmt.Sprintf("%s of %s ago, which took %s", r.What, term.Duration(r.Age), term.Duration(r.Saved))
}

// fetching are the agents whose result is kept in any case: they bring it over a
// network, and what they are told says what it is. The others copy something of
// this host, which may be another thing next time.
var fetching = []string{"debootstrap", "yum", "dnf", "zypper", "arch", "busybox", "docker", "oras"}

// unpacking are the agents that take a file of this host, whose content says what
// comes out.
var unpacking = []string{"localimage", "docker-archive", "oci-archive"}

// fill has the agent fill the stage's tree, or takes what it brought the last
// time that it was told the same.
func (b *builder) fill(ctx context.Context, st *recipe.Stage, log io.Writer) error {
	agent, err := bootstrap.For(st.Agent())
	if err != nil {
		return err
	}
	job := bootstrap.Job{Root: b.tree, Stage: st, Dir: b.opt.Dir, Log: log, Env: os.Environ()}
	key, err := b.bootstrapKey(ctx, st)
	if err != nil {
		return err
	}
	if key == "" {
		return agent(ctx, job)
	}
	if ok, err := b.restore(ctx, key, "bootstrap"); ok || err != nil {
		return err
	}
	started := time.Now()
	if err := agent(ctx, job); err != nil {
		return err
	}
	return b.keep(ctx, key, describe(st), time.Since(started))
}

// restore puts the snapshot of key in the place of the tree at hand, if there is
// one: false if not.
func (b *builder) restore(ctx context.Context, key cache.Key, what string) (bool, error) {
	kept := b.tree + ".kept"
	if err := os.Mkdir(kept, 0o755); err != nil {
		return false, err
	}
	meta, ok, err := b.opt.Cache.Restore(ctx, key, kept)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if !ok {
		if err != nil {
			b.warn("%v; doing it again", err)
		}
		return false, os.Remove(kept)
	}
	if err := errors.Join(removeTree(b.tree), os.Rename(kept, b.tree)); err != nil {
		return false, err
	}
	r := Reused{What: what, Key: key.ID(), Age: time.Since(meta.Created), Saved: meta.Took}
	b.reused = append(b.reused, r)
	b.opt.Progress.Message("reused the snapshot %s: %s to make; what was released since is not in it (--no-cache gets it)", r.Key, r)
	return true, nil
}

// keep keeps the tree at hand.
func (b *builder) keep(ctx context.Context, key cache.Key, what string, took time.Duration) error {
	return b.keepTree(ctx, key, b.tree, what, took)
}

// keepTree keeps a directory. A build goes on without, if it has to.
func (b *builder) keepTree(ctx context.Context, key cache.Key, dir, what string, took time.Duration) error {
	err := b.opt.Cache.Save(ctx, key, dir, cache.Meta{What: what, Label: b.opt.Label, Took: took})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		b.warn("%v; the next build does it again", err)
	}
	return nil
}

// bootstrapKey is made of everything that an agent is told, and of the agent,
// which is this netroot's: the header, the variables it reads, the host's package
// sources, which are the mirror of a recipe that names none, and what %pre has put
// into the tree. It is empty if the agent's result is not to be kept.
func (b *builder) bootstrapKey(ctx context.Context, st *recipe.Stage) (cache.Key, error) {
	if b.opt.Cache == nil || !isOneOf(st, fetching) {
		return "", nil
	}
	parts, dirs, err := b.headerKey(ctx, st)
	if err != nil {
		return "", err
	}
	if st.Pre != nil && b.opt.Sections.has("pre") {
		if dirs {
			return "", nil // %pre may have made what is in it
		}
		digest, err := cache.Content(ctx, b.tree)
		if err != nil {
			return "", err
		}
		parts = append(append(parts, "%pre", st.Pre.Body, digest), st.Pre.Args...)
	}
	for _, name := range told {
		parts = append(parts, name, os.Getenv(name))
	}
	sources, err := sourcesKey(ctx, st.Agent(), "/etc")
	if err != nil {
		return "", err
	}
	return cache.NewKey(append(append([]string{"bootstrap", b.opt.Version}, parts...), sources...)...), nil
}

// told are the variables that agents and their programs read. By which proxy
// packages come is for the tree, too: mmdebstrap notes it down there.
var told = []string{
	"INCLUDE", "GPG", "SOURCE_DATE_EPOCH", "APT_CONFIG",
	"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy",
	"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY",
}

// sourcesKey is the content of the host's files that an agent's program reads: where
// packages come from, and how they are reached. etc is the host's /etc.
func sourcesKey(ctx context.Context, agent, etc string) ([]string, error) {
	var patterns []string
	switch strings.ToLower(agent) {
	case "debootstrap":
		patterns = []string{"apt/sources.list", "apt/sources.list.d/*", "apt/apt.conf", "apt/apt.conf.d/*"}
	case "arch":
		patterns = []string{"pacman.conf", "pacman.d/mirrorlist"}
	default:
		return nil, nil
	}
	var files []string
	for _, p := range patterns {
		found, err := filepath.Glob(filepath.Join(etc, p))
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	if named := os.Getenv("APT_CONFIG"); named != "" { // apt.conf(5)
		files = append(files, named)
	}
	var parts []string
	for _, path := range files {
		digest, err := cache.Content(ctx, path)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the host's package sources: %w", err)
		}
		parts = append(parts, path, digest)
	}
	return parts, nil
}

// headerKey is what a header says, with the content of the host's files that it
// names, a key for instance. dirs tells that it names a directory of the host: a
// repository, which can change as one in the network can.
func (b *builder) headerKey(ctx context.Context, st *recipe.Stage) (parts []string, dirs bool, err error) {
	fromFile := isOneOf(st, unpacking)
	for _, f := range st.Header {
		parts = append(parts, strings.ToLower(f.Key), f.Value)
		path, isURL := strings.CutPrefix(f.Value, "file://")
		isFile := f.Key == "From" && fromFile || f.Key == "GPG" && !strings.Contains(path, "://")
		if isFile && !filepath.IsAbs(path) {
			path = filepath.Join(b.opt.Dir, path)
		} else if !isURL && !filepath.IsAbs(path) {
			continue
		}
		fi, err := os.Stat(path)
		if err != nil || !fi.Mode().IsRegular() {
			dirs = true // or nothing yet; the agent will tell
			continue
		}
		digest, err := cache.Content(ctx, path)
		if err != nil {
			return nil, false, err
		}
		parts = append(parts, digest)
	}
	return parts, dirs, nil
}

// archiveKey names an archive of the initramfs by its content before compression.
func (b *builder) archiveKey(content string) cache.Key {
	return cache.NewKey("initramfs", b.opt.Version, content)
}

// restoreArchive puts the archive of that content at path, if it was kept.
func (b *builder) restoreArchive(ctx context.Context, content, path string) (bool, error) {
	kept := path + ".kept"
	if err := os.Mkdir(kept, 0o755); err != nil {
		return false, err
	}
	_, ok, err := b.opt.Cache.Restore(ctx, b.archiveKey(content), kept)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if ok {
		err = os.Rename(filepath.Join(kept, "archive"), path)
	} else if err != nil {
		b.warn("%v; doing it again", err)
		err = nil
	}
	return ok, errors.Join(err, os.RemoveAll(kept))
}

// keepArchives keeps those that were not kept already.
func (b *builder) keepArchives(ctx context.Context, release string, parts []initramfs.Part, took time.Duration) error {
	for _, p := range parts {
		if p.Content == "" || p.Reused {
			continue
		}
		dir := p.Path + ".new"
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := os.Link(p.Path, filepath.Join(dir, "archive")); err != nil {
			return err
		}
		if err := b.keepTree(ctx, b.archiveKey(p.Content), dir, "initramfs "+p.Name+" "+release, took); err != nil {
			return err
		}
	}
	return nil
}
