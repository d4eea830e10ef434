package build

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"netroot/internal/dracut"
	"netroot/internal/handoff"
	"netroot/internal/initramfs"
	"netroot/internal/kernel"
	"netroot/internal/store"
	"netroot/internal/term"
)

// dracut makes the initramfs of dracut in addition to netroot's, and notes which transports it
// supports.
func (b *builder) dracut(ctx context.Context, k *kernel.Kernel, parts string, add func(store.Role, string)) error {
	if b.opt.Initramfs != handoff.Dracut {
		return nil
	}
	return b.phase("dracut", k.Release, func(p *term.Phase) error {
		transports, err := initramfs.Transports(b.tree, k)
		if err != nil {
			return err
		}
		opt := dracut.Options{
			Tree: b.tree, Kernel: k, Transports: transports, Init: b.opt.Init,
			Dir: filepath.Join(parts, "dracut"), Log: io.MultiWriter(b.log, lastLine(p)),
		}
		if b.opt.Transport != "" {
			opt.Must = []handoff.Transport{b.opt.Transport}
		}
		if err := os.Mkdir(opt.Dir, 0o755); err != nil {
			return err
		}
		r, err := dracut.Make(ctx, opt)
		if err != nil {
			return err
		}
		for _, w := range r.Warnings {
			b.warn("%s", w)
		}
		b.dracutTransports = r.Transports
		add(store.RoleInitramfsDracut, r.Path)
		p.Result(term.Size(r.Size))
		return nil
	})
}
