package build

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"netroot/internal/nodeinit/distro"
	"netroot/internal/recipe"
)

// noteMounts warns of file systems that are mounted below the directory that a stage starts with,
// because the copy has only its empty mount points.
func (b *builder) noteMounts(st *recipe.Stage) error {
	from, _ := st.Header.Get("From")
	if from == "" || !isOneOf(st, []string{"localimage"}) {
		return nil
	}
	if !filepath.IsAbs(from) {
		from = filepath.Join(b.opt.Dir, from)
	}
	real, err := filepath.EvalSymlinks(from)
	if err != nil {
		return err
	}
	mounts, err := mountsIn(real)
	if err != nil {
		return err
	}
	for _, at := range mounts {
		below := strings.TrimPrefix(strings.TrimPrefix(at, real), "/")
		top, _, _ := strings.Cut(below, "/")
		if below == "" || slices.Contains([]string{"proc", "sys", "dev", "run", "tmp"}, top) {
			continue // not in an image either
		}
		b.mounts = append(b.mounts, at)
	}
	if len(b.mounts) > 0 {
		b.warn("%s: what is mounted below it is not copied: %s", from, strings.Join(b.mounts, ", "))
	}
	return nil
}

// withoutMounts adds to the error for a missing kernel where it may be.
func (b *builder) withoutMounts(err error) error {
	if err == nil || len(b.mounts) == 0 {
		return err
	}
	return fmt.Errorf("%w; what was mounted at %s was not copied: copy it in %%setup or with %%files", err, strings.Join(b.mounts, ", "))
}

// warnOfDisks warns of lines of fstab(5) in the tree and in the layers below /etc/rootovl that name
// a disk which the system cannot do without: a machine that boots the image need not have it.
func (b *builder) warnOfDisks() error {
	root, err := os.OpenRoot(b.tree)
	if err != nil {
		return err
	}
	defer root.Close()
	names := []string{"etc/fstab"}
	if dir, err := root.Open("etc/rootovl"); err == nil {
		layers, err := dir.Readdirnames(-1)
		dir.Close()
		if err != nil {
			return err
		}
		slices.Sort(layers)
		for _, l := range layers {
			names = append(names, path.Join("etc/rootovl", l, "etc/fstab"))
		}
	}
	for _, name := range names {
		fi, err := root.Stat(name)
		if err != nil || !fi.Mode().IsRegular() {
			continue // as far as the tree itself says, there is no such file
		}
		text, err := root.ReadFile(name)
		if err != nil {
			return err
		}
		fit := distro.FitFstab(string(text), func(string) bool { return false })
		if at := slices.Concat(fit.Left, fit.Optional); len(at) > 0 {
			b.warn("/%s names disks that a machine may not have, for %s: remove these lines, or add nofail; the boot does not wait for them", name, strings.Join(at, ", "))
		}
	}
	return nil
}
