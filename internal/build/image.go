package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"netroot/internal/handoff"
	"netroot/internal/initramfs"
	"netroot/internal/kernel"
	"netroot/internal/pack"
	"netroot/internal/secrets"
	"netroot/internal/store"
	"netroot/internal/term"
)

// image makes an image of the finished tree and commits it to the store.
func (b *builder) image(ctx context.Context) (*store.Image, error) {
	parts := filepath.Join(b.ws.dir, "parts")
	if err := os.Mkdir(parts, 0o755); err != nil {
		return nil, err
	}
	if !b.searched {
		if err := b.phase("secrets", "", func(*term.Phase) error { return b.refuseSecrets(ctx) }); err != nil {
			return nil, err
		}
	}
	if err := b.warnOfDisks(); err != nil {
		return nil, err
	}
	var files []store.Part
	add := func(role store.Role, path string) { files = append(files, store.Part{Role: role, Path: path}) }
	k, packing, err := b.kernel(ctx, parts, add)
	if err != nil {
		return nil, err
	}
	if k != nil {
		b.warnOfProfiles()
		if err := b.initramfs(ctx, k, packing, parts, add); err != nil {
			return nil, err
		}
		if err := b.dracut(ctx, k, parts, add); err != nil {
			return nil, err
		}
	}
	if err := b.pack(ctx, packing, filepath.Join(parts, "root."+packing.Format), add); err != nil {
		return nil, err
	}
	var image *store.Image
	err = b.phase("store", b.opt.Store.Dir(), func(*term.Phase) error {
		cfg, err := b.imageConfig(ctx, k, packing)
		if err != nil {
			return err
		}
		image, err = b.opt.Store.Commit(ctx, b.opt.Label, cfg, files)
		return err
	})
	return image, err
}

// kernel finds the kernel of the image, nil if it is to have none, and decides how the root is
// packed for it.
func (b *builder) kernel(ctx context.Context, parts string, add func(store.Role, string)) (k *kernel.Kernel, packing pack.Choice, err error) {
	if b.opt.Kernel == NoKernel {
		packing, err = b.opt.Pack.Choose(ctx, nil)
		return nil, packing, err
	}
	err = b.phase("kernel", "", func(p *term.Phase) (err error) {
		if k, err = kernel.Find(b.tree, b.opt.Kernel); err != nil {
			// The tree does not stay in the directory that the message names.
			return b.withoutMounts(errors.New(strings.ReplaceAll(err.Error(), b.tree, "the tree")))
		}
		for _, skipped := range k.Skipped {
			b.warn("skipped: %v", skipped)
		}
		if len(k.Others) > 0 {
			b.opt.Progress.Message("the image boots kernel %s; the tree also has %s: \"kernel: RELEASE\" in the label, or --kernel, chooses another", k.Release, strings.Join(k.Others, ", "))
		}
		p.Result(k.Release)
		path := filepath.Join(parts, "vmlinuz")
		add(store.RoleKernel, path)
		if packing, err = b.opt.Pack.Choose(ctx, k); err != nil {
			return err
		}
		return copyOut(b.tree, k.Image, path)
	})
	return k, packing, err
}

func (b *builder) initramfs(ctx context.Context, k *kernel.Kernel, packing pack.Choice, dir string, add func(store.Role, string)) error {
	roles := map[string]store.Role{
		initramfs.Base:     store.RoleInitramfs,
		initramfs.Hardware: store.RoleInitramfsHardware,
		initramfs.Firmware: store.RoleInitramfsFirmware,
	}
	return b.phase("initramfs", k.Release, func(p *term.Phase) error {
		var must []handoff.Transport
		if b.opt.Transport != "" {
			must = append(must, b.opt.Transport)
		}
		opt := initramfs.Options{Tree: b.tree, Kernel: k, Init: b.opt.Init, OutDir: dir, RootFormat: packing.Format, Transports: must}
		if b.opt.Cache != nil {
			opt.Reuse = b.restoreArchive
		}
		started := time.Now()
		parts, err := initramfs.Generate(ctx, opt)
		if err != nil {
			return err
		}
		if err := b.keepArchives(ctx, k.Release, parts, time.Since(started)); err != nil {
			return err
		}
		var said []string
		for _, part := range parts {
			add(roles[part.Name], part.Path)
			text := part.Name + " " + term.Size(part.Size)
			if part.Reused {
				text += " (as before)"
			}
			said = append(said, text)
		}
		p.Result(strings.Join(said, ", "))
		return nil
	})
}

func (b *builder) pack(ctx context.Context, packing pack.Choice, out string, add func(store.Role, string)) error {
	sparse, err := pack.FindSparse(b.tree)
	if err != nil {
		return err
	}
	for _, s := range sparse {
		text := fmt.Sprintf("/%s: %s, but %s on disk; its holes take no space in the image", s.Path, term.Size(s.Size), term.Size(s.Used))
		if packing.Format == "erofs" {
			text += ", but mkfs.erofs reads them all: squashfs does not"
		} else if why := s.Read(); why != "" {
			text += ", but they are read, which takes time, " + why
		}
		b.opt.Progress.Message("%s", text)
	}
	return b.phase("pack", packing.Format+", "+packing.Compressor, func(p *term.Phase) error {
		r, err := packing.Pack(ctx, b.tree, out, pack.Options{
			Level: b.opt.Level, Name: b.opt.Label,
			Progress: func(percent int) { p.Progress(float64(percent) / 100) },
		})
		if err != nil {
			return err
		}
		for _, w := range r.Warnings {
			b.warn("%s", w)
		}
		p.Result(term.Size(r.Size))
		add(store.RoleRoot, out)
		return nil
	})
}

// refuseSecrets fails if the tree contains a secret, because everyone who can reach the server can
// read an image.
func (b *builder) refuseSecrets(ctx context.Context) error {
	found, err := secrets.Scan(ctx, b.tree, func(ctx context.Context, files []string) (map[string]bool, error) {
		return packaged(ctx, b.tree, files)
	})
	if err != nil {
		return err
	}
	found = slices.DeleteFunc(found, func(f secrets.Finding) bool { return b.opt.Allow.Allows(f.Path) })
	warnings, err := b.opt.Allow.Judge(found)
	for _, w := range warnings {
		b.warn("%s", w)
	}
	removal := ""
	if b.opt.Update { // a machine may have run from the tree
		removal = removalCommand(b.opt.Label, found)
	}
	switch {
	case removal != "" && err != nil:
		return fmt.Errorf("%w\nto remove what machines made for themselves in this tree: %s", err, removal)
	case removal != "":
		b.warn("to remove what machines made for themselves in this tree: %s", removal)
	}
	b.searched = err == nil
	return err
}

// removalCommand is the command that removes the identities of machines from the tree of a label;
// empty: it has none.
func removalCommand(label string, found []secrets.Finding) string {
	script := secrets.Removal(found)
	if script == "" {
		return ""
	}
	return fmt.Sprintf("netroot exec %s -- sh -c %s", label, secrets.Quote(script))
}

// imageConfig returns the description that is stored in the image. k is nil if the image has no
// kernel.
func (b *builder) imageConfig(ctx context.Context, k *kernel.Kernel, packing pack.Choice) (store.Config, error) {
	list, err := packages(ctx, b.tree)
	if err != nil {
		return store.Config{}, err
	}
	size, err := diskUsage(b.tree)
	if err != nil {
		return store.Config{}, err
	}
	cfg := store.Config{
		Created:      b.created,
		Architecture: runtime.GOARCH,
		System:       systemName(b.tree),
		RecipeDigest: b.recipeDigest(),
		RootFormat:   packing.Format,
		Compressor:   packing.Compressor,

		DracutTransports: b.dracutTransports,
		TreeSize:         size,
		Packages:         list,
	}
	if k != nil {
		cfg.KernelRelease = k.Release
		cfg.Transports, err = initramfs.Transports(b.tree, k)
	}
	return cfg, err
}

func (b *builder) warn(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	fmt.Fprintln(b.log, "warning: "+text)
	b.opt.Progress.Warn("%s", text)
}

// copyOut copies a file from a tree to the host.
func copyOut(tree, name, to string) error {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	in, err := root.Open(name)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// created returns the time of the image: now, or the value of SOURCE_DATE_EPOCH
// (reproducible-builds.org/specs/source-date-epoch). The packing programs read that variable
// themselves, as a number of 32 bits.
func created() (time.Time, error) {
	const name = "SOURCE_DATE_EPOCH"
	text := os.Getenv(name)
	if text == "" {
		return time.Now().UTC().Truncate(time.Second), nil
	}
	seconds, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return time.Time{}, fmt.Errorf("environment variable %s is %q: set it to the build time in seconds since 1970, or unset it", name, text)
	}
	return time.Unix(int64(seconds), 0).UTC(), nil
}
