package build

import (
	"archive/tar"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"netroot/internal/layer"
	"netroot/internal/recipe"
)

// copyFiles does the %files sections of a stage: those from other stages, or
// those from the host. What is copied arrives as it is: links stay links, and
// modes, times and attributes are kept.
func (b *builder) copyFiles(st *recipe.Stage, from bool) error {
	root, err := os.OpenRoot(b.tree)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, block := range st.Files {
		if (block.From != "") != from {
			continue
		}
		src := source{base: b.opt.Dir, edit: b.ownerEdit()}
		if from {
			src = source{base: b.trees[block.From], stage: true}
			if src.base == "" {
				return fmt.Errorf("line %d: %%files from %s: no earlier stage has that name", block.Line, block.From)
			}
		}
		for _, e := range block.Entries {
			if err := src.copy(root, e); err != nil {
				return fmt.Errorf("line %d: %s: %w", e.Line, e.Src, err)
			}
		}
	}
	return nil
}

// ownerEdit makes root the owner of what belongs to whoever owns the recipe's
// directory: a checkout in somebody's home is not to give that somebody files
// in the image. Other owners are kept; they were given on purpose.
func (b *builder) ownerEdit() func(*tar.Header) {
	var st unix.Stat_t
	if unix.Stat(b.opt.Dir, &st) != nil || st.Uid == 0 {
		return nil
	}
	return func(h *tar.Header) {
		if h.Uid == int(st.Uid) {
			h.Uid, h.Gid = 0, 0
		}
	}
}

// source is where a %files section takes its files.
type source struct {
	base  string // directory that relative names start at
	stage bool   // base is another stage's tree, which absolute names start at, too
	edit  func(*tar.Header)
}

func (s source) copy(root *os.Root, e recipe.FileEntry) error {
	matches, err := s.expand(e.Src)
	if err != nil {
		return err
	}
	for _, m := range matches {
		dst := e.Dst
		if dst == "" {
			dst = m.name
		}
		if dst, err = destination(root, dst, path.Base(m.name)); err != nil {
			return err
		}
		if err := layer.Copy(root, m.file, dst, s.edit); err != nil {
			return err
		}
	}
	return nil
}

type match struct {
	file string // the host's path of it, links at the top followed
	name string // what the recipe calls it
}

// expand finds what a source's pattern names. On the host, environment
// variables and a leading ~ are put in first, as Apptainer does.
func (s source) expand(pattern string) ([]match, error) {
	if s.stage {
		return s.expandStage(pattern)
	}
	pattern = os.ExpandEnv(pattern)
	if home, err := os.UserHomeDir(); err == nil && strings.HasPrefix(pattern, "~/") {
		pattern = home + pattern[1:]
	}
	var out []match
	for _, p := range braces(pattern) {
		abs := p
		if !filepath.IsAbs(abs) {
			abs = filepath.Join(s.base, p)
		}
		files, err := filepath.Glob(abs)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			real, err := filepath.EvalSymlinks(f)
			if err != nil {
				return nil, err
			}
			name := f
			if rel, err := filepath.Rel(s.base, f); err == nil && !filepath.IsAbs(p) {
				name = rel
			}
			out = append(out, match{real, name})
		}
	}
	if out == nil {
		return nil, errors.New("no such file on the host (relative names start at " + s.base + ")")
	}
	return out, nil
}

func (s source) expandStage(pattern string) ([]match, error) {
	root, err := os.OpenRoot(s.base)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	var out []match
	for _, p := range braces(pattern) {
		p = strings.TrimPrefix(path.Clean("/"+p), "/")
		names := []string{p}
		if strings.ContainsAny(p, `*?[`) {
			if names, err = fs.Glob(root.FS(), p); err != nil {
				return nil, err
			}
		}
		for _, name := range names {
			place, err := layer.Resolve(root, name)
			if err != nil {
				return nil, err
			}
			out = append(out, match{filepath.Join(s.base, place), "/" + name})
		}
	}
	if out == nil {
		return nil, errors.New("nothing in that stage matches")
	}
	return out, nil
}

// destination is where a file called base goes when the recipe says dst: into
// it when it ends in a slash or is a directory already, else to that very name.
func destination(root *os.Root, dst, base string) (string, error) {
	if strings.HasSuffix(dst, "/") {
		return path.Join(dst, base), nil
	}
	place, err := layer.Resolve(root, dst)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return dst, nil
	case err != nil:
		return "", err
	}
	if fi, err := root.Stat(place); err != nil || !fi.IsDir() || path.Base(dst) == base {
		return dst, err
	}
	return path.Join(dst, base), nil
}

// braces expands {a,b} as the shell does, without nesting.
func braces(p string) []string {
	open := strings.IndexByte(p, '{')
	if open < 0 {
		return []string{p}
	}
	end := strings.IndexByte(p[open:], '}')
	if end < 0 || !strings.Contains(p[open:open+end], ",") {
		return []string{p}
	}
	var out []string
	for alt := range strings.SplitSeq(p[open+1:open+end], ",") {
		for _, rest := range braces(p[open+end+1:]) {
			out = append(out, p[:open]+alt+rest)
		}
	}
	return out
}
