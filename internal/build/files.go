package build

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"netroot/internal/layer"
	"netroot/internal/recipe"
	"netroot/internal/sandbox"
)

// copier copies the files that %files and %appfiles name into a tree.
type copier struct {
	root *os.Root
	src  source
	dir  string // directory that holds the tree: a source must not contain it

	// strict copies with cp(1), as Apptainer does; nil copies files unchanged.
	strict *sandbox.Host
}

// copyFiles runs the %files sections of a stage: with from, the sections that copy from other
// stages, otherwise those that copy from the host.
func (b *builder) copyFiles(ctx context.Context, st *recipe.Stage, from bool, log io.Writer) error {
	root, err := os.OpenRoot(b.tree)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, block := range st.Files {
		if (block.From != "") != from {
			continue
		}
		if err := b.copyBlock(ctx, root, block, log); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) copyBlock(ctx context.Context, root *os.Root, block recipe.FilesBlock, log io.Writer) error {
	c := b.hostCopier(root, log)
	if block.From != "" {
		tree := b.trees[block.From]
		if tree == "" {
			return fmt.Errorf("line %d: %%files from %s: no earlier stage has that name", block.Line, block.From)
		}
		stage, err := os.OpenRoot(tree)
		if err != nil {
			return err
		}
		defer stage.Close()
		c = &copier{root: root, src: stageFiles{stage}, dir: b.tree}
	}
	for _, e := range block.Entries {
		if err := c.copy(ctx, e); err != nil {
			return fmt.Errorf("line %d: %s: %w", e.Line, e.Src, err)
		}
	}
	return nil
}

func (b *builder) hostCopier(root *os.Root, log io.Writer) *copier {
	c := &copier{root: root, src: hostFiles{base: b.opt.Dir, edit: layer.RootOwned(b.opt.Dir)}, dir: b.ws.dir}
	if b.opt.Strict {
		c.strict = &sandbox.Host{Umask: b.umask(), Stdout: log, Stderr: log}
	}
	return c
}

// copy copies the files that one line names.
func (c *copier) copy(ctx context.Context, e recipe.FileEntry) error {
	matches, err := c.src.find(e.Src)
	if err != nil {
		return err
	}
	for _, m := range matches {
		dst := e.Dst
		if dst == "" {
			dst = path.Clean("/" + m.name)
		}
		if within(m.file, c.dir) {
			return fmt.Errorf("it contains the tree that is being built: name its files separately, or move the state directory")
		}
		if c.strict != nil {
			err = c.cp(ctx, m, dst)
		} else {
			err = c.keep(m, dst, len(matches) > 1 && e.Dst != "")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// keep copies a match unchanged: links stay links; modes, owners, times and attributes are kept; a
// directory is merged into an existing one. With many, the destination is a directory.
func (c *copier) keep(m match, dst string, many bool) error {
	base := path.Base(m.name)
	if base == ".." {
		base = "."
	}
	switch place, err := layer.Resolve(c.root, dst); {
	case many || strings.HasSuffix(dst, "/"):
		dst = path.Join(dst, base)
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	default:
		// An existing directory receives the match, unless it has the name of the match.
		if fi, err := c.root.Stat(place); err != nil {
			return err
		} else if fi.IsDir() && path.Base(dst) != base {
			dst = path.Join(dst, base)
		}
	}
	return layer.Copy(c.root, m.file, dst, c.src.owners())
}

// cp copies a match as Apptainer does, with cp(1): links are followed, and the new files belong to
// root and have no set-user-ID bits. Several files can have the same destination.
func (c *copier) cp(ctx context.Context, m match, dst string) error {
	dir := path.Dir(dst)
	if strings.HasSuffix(dst, "/") {
		dir = dst
	}
	above, err := c.resolveOrMake(dir)
	if err != nil {
		return err
	}
	to := above
	if !strings.HasSuffix(dst, "/") {
		if to, err = c.resolveOrNew(path.Join(above, path.Base(dst))); err != nil {
			return err
		}
	}
	return c.strict.Run(ctx, []string{"cp", "-fLr", "--", m.given, filepath.Join(c.root.Name(), to)})
}

// resolveOrMake resolves a directory of the tree and makes the missing part of its path.
func (c *copier) resolveOrMake(name string) (string, error) {
	name = path.Clean("/" + name)
	place, err := layer.Resolve(c.root, name)
	if !errors.Is(err, fs.ErrNotExist) {
		return place, err
	}
	above, err := c.resolveOrMake(path.Dir(name))
	if err != nil {
		return "", err
	}
	if place, err = c.resolveOrNew(path.Join(above, path.Base(name))); err != nil {
		return "", err
	}
	return place, makeDir(c.root, place)
}

// resolveOrNew follows a link at name, where nothing need exist. A link whose target is missing in
// the tree is an error: the target may exist on the host, where cp would follow the link.
func (c *copier) resolveOrNew(name string) (string, error) {
	place, err := layer.Resolve(c.root, name)
	if !errors.Is(err, fs.ErrNotExist) {
		return place, err
	}
	if _, err := c.root.Lstat(name); err == nil {
		return "", fmt.Errorf("/%s is a link in the tree whose target does not exist: remove it or make its target", name)
	}
	return name, nil
}

// match is a file or directory that the pattern of a source matches.
type match struct {
	file  string // path on the host, with links at the top followed
	given string // the same path as in the recipe: with links, and with "/." at its end
	name  string // name in the recipe
}

// source is the place that a %files section copies from.
type source interface {
	find(pattern string) ([]match, error)
	owners() func(*tar.Header)
}

// hostFiles is the build host as a source. As in Apptainer, environment variables in a pattern are
// expanded, as they are for a stage, and a leading ~.
type hostFiles struct {
	base string // directory where relative names start
	edit func(*tar.Header)
}

var (
	errNoSource    = errors.New("no such file on the host")
	errEmptySource = errors.New("the name is empty after its variables are expanded")
)

func (h hostFiles) owners() func(*tar.Header) { return h.edit }

func (h hostFiles) find(pattern string) ([]match, error) {
	text := expandVariables(pattern)
	if home, err := os.UserHomeDir(); err == nil && (pattern == "~" || strings.HasPrefix(pattern, "~/")) {
		text = quoteBackslashes(home) + text[1:]
	}
	if text == "" {
		return nil, errEmptySource
	}
	var out []match
	for _, name := range expand(h, text) {
		file, err := filepath.EvalSymlinks(h.path(name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: %s (relative names start at %s)", errNoSource, name, h.base)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, match{file, h.path(name), name})
	}
	return out, nil
}

func (h hostFiles) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return h.base + "/" + name
}

func (h hostFiles) names(dir string) []string { return entryNames(os.ReadDir(h.path(dir))) }

func (h hostFiles) exists(name string) bool {
	_, err := os.Lstat(h.path(name))
	return err == nil
}

func entryNames(entries []os.DirEntry, _ error) []string {
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// stageFiles is the tree of an earlier stage as a source. Its links are resolved inside that tree.
type stageFiles struct{ root *os.Root }

func (s stageFiles) owners() func(*tar.Header) { return nil }

func (s stageFiles) find(pattern string) ([]match, error) {
	var out []match
	for _, name := range expand(s, expandVariables(pattern)) {
		place, err := layer.Resolve(s.root, name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("no such file in that stage: %s", name)
		}
		if err != nil {
			return nil, err
		}
		out = append(out, match{file: filepath.Join(s.root.Name(), place), name: name})
	}
	return out, nil
}

func (s stageFiles) names(dir string) []string {
	place, err := layer.Resolve(s.root, "/"+dir)
	if err != nil {
		return nil
	}
	return entryNames(fs.ReadDir(s.root.FS(), place))
}

func (s stageFiles) exists(name string) bool {
	dir, err := layer.Resolve(s.root, path.Dir("/"+name))
	if err != nil {
		return false
	}
	_, err = s.root.Lstat(path.Join(dir, path.Base(name)))
	return err == nil
}

// within reports whether path is dir or lies below it.
func within(dir, path string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}
