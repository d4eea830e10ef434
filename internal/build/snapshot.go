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

// Reused is a state that a build took from the cache.
type Reused struct {
	What  string        `json:"what"`  // for messages: "bootstrap", "stage devel before %post"
	Key   string        `json:"key"`   // key of the snapshot
	Age   time.Duration `json:"age"`   // time since it was made
	Saved time.Duration `json:"saved"` // time that it took to make
}

func (r Reused) String() string {
	return fmt.Sprintf("%s, made %s ago in %s", r.What, term.Duration(r.Age), term.Duration(r.Saved))
}

// fetchingAgents are the agents whose result is always kept. They fetch it over a network, and
// their parameters identify it. The other agents copy files of this host, which can change.
var fetchingAgents = []string{"debootstrap", "yum", "dnf", "zypper", "arch", "busybox", "docker", "oras"}

// unpackingAgents are the agents that unpack a file of this host. The content of the file
// determines the result.
var unpackingAgents = []string{"localimage", "docker-archive", "oci-archive"}

// fill runs the agent to fill the stage's tree, or restores what an earlier run of the agent with
// the same parameters brought.
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

// restore replaces the current tree with the snapshot of key. It returns false if there is none.
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
			b.warn("%v; repeating the work", err)
		}
		return false, os.Remove(kept)
	}
	if err := errors.Join(removeTree(b.tree), os.Rename(kept, b.tree)); err != nil {
		return false, err
	}
	r := Reused{What: what, Key: key.ID(), Age: time.Since(meta.Created), Saved: meta.Took}
	b.reused = append(b.reused, r)
	b.opt.Progress.Message("reused the snapshot %s: %s; it does not contain later releases (use --no-cache to fetch them)", r.Key, r)
	return true, nil
}

// keep stores the current tree in the cache.
func (b *builder) keep(ctx context.Context, key cache.Key, what string, took time.Duration) error {
	return b.keepTree(ctx, key, b.tree, what, took)
}

// keepTree stores a directory in the cache. The build continues if this fails.
func (b *builder) keepTree(ctx context.Context, key cache.Key, dir, what string, took time.Duration) error {
	err := b.opt.Cache.Save(ctx, key, dir, cache.Meta{What: what, Label: b.opt.Label, Took: took})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		b.warn("%v; the next build repeats this work", err)
	}
	return nil
}

// bootstrapKey identifies the result of an agent. The key covers all parameters of the agent and
// the agent itself (the version of netroot): the header, the environment variables that the agent
// reads, the package sources of the host, which supply the mirror of a recipe that names none, and
// the files that %pre has put into the tree. The key is empty if the result must not be kept.
func (b *builder) bootstrapKey(ctx context.Context, st *recipe.Stage) (cache.Key, error) {
	if b.opt.Cache == nil || !isOneOf(st, fetchingAgents) {
		return "", nil
	}
	parts, dirs, err := b.headerKey(ctx, st)
	if err != nil {
		return "", err
	}
	if st.Pre != nil && b.opt.Sections.has("pre") {
		if dirs {
			return "", nil // %pre may have made the content of the directory
		}
		digest, err := cache.Content(ctx, b.tree)
		if err != nil {
			return "", err
		}
		parts = append(append(parts, "%pre", st.Pre.Body, digest), st.Pre.Args...)
	}
	for _, name := range agentVariables {
		parts = append(parts, name, os.Getenv(name))
	}
	sources, err := sourcesKey(ctx, st.Agent(), "/etc")
	if err != nil {
		return "", err
	}
	return cache.NewKey(append(append([]string{"bootstrap", b.opt.Version}, parts...), sources...)...), nil
}

// agentVariables are the environment variables that the agents and their programs read. The proxy
// also affects the tree, because mmdebstrap writes it down there.
var agentVariables = []string{
	"INCLUDE", "GPG", "SOURCE_DATE_EPOCH", "APT_CONFIG",
	"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy",
	"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY",
}

// sourcesKey returns the content of the host's files that the program of an agent reads: package
// sources and network settings. etc is the host's /etc.
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
			return nil, fmt.Errorf("read the package sources of the host: %w", err)
		}
		parts = append(parts, path, digest)
	}
	return parts, nil
}

// headerKey returns the header of a recipe and the content of the host's files that it names, for
// example a key. dirs reports that the header names a directory of the host: a repository, which
// can change like one on the network.
func (b *builder) headerKey(ctx context.Context, st *recipe.Stage) (parts []string, dirs bool, err error) {
	fromFile := isOneOf(st, unpackingAgents)
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
			dirs = true // or a missing file, which the agent reports
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

// archiveKey identifies an archive of the initramfs by its content before compression.
func (b *builder) archiveKey(content string) cache.Key {
	return cache.NewKey("initramfs", b.opt.Version, content)
}

// restoreArchive writes the archive of that content to path, if the cache has it.
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
		b.warn("%v; repeating the work", err)
		err = nil
	}
	return ok, errors.Join(err, os.RemoveAll(kept))
}

// keepArchives stores the archives that the cache does not have yet.
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
