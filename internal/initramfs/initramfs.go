// Package initramfs makes the archives that a kernel unpacks as its first root: our init, and the image's own modules
// that a node may need to reach its root over the network.
//
// There are up to three archives. The kernel unpacks one after the other over the same root, so a loader hands out the
// ones that a machine needs, base first:
//
//   - base: init, and the modules of virtual machines, of the transports and of the file systems a root is made of;
//   - hardware: drivers of the network hardware there is, and of what leads to it;
//   - firmware: files which those drivers ask the kernel for.
//
// In base lie /init, /dev/console, /etc/netroot/modules (the modules that every boot loads, one a line), and empty
// folders to mount on. Modules lie decompressed at /lib/modules/RELEASE below their own paths; beside them, in
// /lib/modules/RELEASE/netroot, each archive has the index (package kmod) of what it holds.
//
// It is a generator for one purpose and not a dracut: nothing of the image's userland goes in, and no configuration.
// What depends on the machine rides on the kernel command line.
package initramfs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sync/errgroup"

	"netroot/internal/handoff"
	"netroot/internal/kernel"
	"netroot/internal/kmod"
)

// Options says what to make archives of.
type Options struct {
	Tree   string         // the root filesystem that the kernel's modules are in
	Kernel *kernel.Kernel // one of the tree's
	Init   string         // path of the init: a static program of the image's architecture
	OutDir string         // where the archives are put; it must exist

	RootFormat string              // file system type of the packed root, "erofs"; empty: squashfs
	Transports []handoff.Transport // that must work; modules of others go in where the kernel has them
	Modules    []string            // further modules to put into base, and to load at every boot

	// Reuse, if it is there, puts at path the archive that was made before of the same content (Part.Content), and
	// tells whether it has one. Compressing is nine tenths of the work.
	Reuse func(ctx context.Context, content, path string) (bool, error)
}

// Names of the parts.
const (
	Base     = "base"
	Hardware = "hardware"
	Firmware = "firmware"
)

// Part is one archive.
type Part struct {
	Name     string // Base, Hardware or Firmware
	Path     string // of the file, in Options.OutDir
	Size     int64  // bytes
	Unpacked int64  // bytes before compression: about the memory it takes until the root is switched to
	Modules  int    // in it
	Content  string // digest of what was compressed, and how; empty without Options.Reuse
	Reused   bool
}

// Generate writes the archives: base, and the others when they would hold anything. They depend on the options and
// the tree's content alone: a second run gives the same bytes. On an error none is left.
//
// A kernel without a module that every boot needs is an error that names it and its configuration option.
func Generate(ctx context.Context, opt Options) ([]Part, error) {
	parts, err := generate(ctx, opt)
	if err != nil {
		return nil, fmt.Errorf("make initramfs for kernel %s: %w", opt.Kernel.Release, err)
	}
	return parts, nil
}

func generate(ctx context.Context, opt Options) ([]Part, error) {
	root, err := os.OpenRoot(opt.Tree)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	index, err := kmod.Read(root.FS(), opt.Kernel.ModuleDir)
	if err != nil {
		return nil, err
	}
	chosen, err := choose(index, opt)
	if err != nil {
		return nil, err
	}
	base, err := readModules(ctx, root.FS(), opt.Kernel.ModuleDir, chosen.base)
	if err != nil {
		return nil, err
	}
	hardware, err := readModules(ctx, root.FS(), opt.Kernel.ModuleDir, chosen.hardware)
	if err != nil {
		return nil, err
	}
	firmware, err := findFirmware(ctx, root.FS(), opt.Kernel, slices.Concat(base, hardware))
	if err != nil {
		return nil, err
	}
	init, err := readInit(opt.Init, machineOf(base, hardware))
	if err != nil {
		return nil, err
	}

	w := writer{
		dir: opt.OutDir, release: opt.Kernel.Release, index: index, compression: compression(opt.Kernel.Config), reuse: opt.Reuse,
	}
	jobs := []job{{Base, len(base), func(a *archive) { w.base(a, init, chosen, base) }}}
	if len(hardware) > 0 {
		jobs = append(jobs, job{Hardware, len(hardware), func(a *archive) { w.hardware(a, chosen, hardware) }})
	}
	if len(firmware) > 0 {
		jobs = append(jobs, job{Firmware, 0, func(a *archive) { w.firmware(a, firmware) }})
	}
	return w.write(ctx, jobs)
}

// job is an archive to write.
type job struct {
	name    string
	modules int
	fill    func(*archive)
}

// write runs the jobs side by side.
func (w *writer) write(ctx context.Context, jobs []job) ([]Part, error) {
	parts := make([]Part, len(jobs))
	var group errgroup.Group
	for i, j := range jobs {
		group.Go(func() error {
			p := Part{Name: j.name, Modules: j.modules, Path: filepath.Join(w.dir, "initramfs-"+j.name+".img")}
			err := w.archive(ctx, &p, j.fill)
			parts[i] = p
			return err
		})
	}
	if err := group.Wait(); err != nil {
		for _, p := range parts {
			os.Remove(p.Path)
		}
		return nil, err
	}
	return parts, nil
}
