// Package initramfs makes the archives that a kernel unpacks as its first root: our init, and those
// modules of the image that a node may require to reach its root over the network.
//
// There are up to three archives. The kernel unpacks one after the other over the same root, so a
// boot loader loads those that a machine requires, base first:
//
//   - base: init, and the modules of virtual machines, of the transports and of the file systems
//     of a root;
//   - hardware: the drivers of network hardware, and of the hardware through which it is connected;
//   - firmware: files that those drivers request from the kernel.
//
// base contains /init, /dev/console, /etc/netroot/modules (the modules that every boot loads, one a
// line), and empty directories to mount on. Modules are stored uncompressed in /lib/modules/RELEASE
// with their own paths; beside them, in /lib/modules/RELEASE/netroot, each archive has the index
// (package kmod) of its modules.
//
// The package is not a general generator like dracut: the archives contain neither programs of the
// image nor configuration. What depends on the machine is on the kernel command line.
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

// Options describe the archives to make.
type Options struct {
	Tree   string         // root file system that contains the kernel's modules
	Kernel *kernel.Kernel // a kernel of the tree
	Init   string         // path of the init, a static program for the image
	OutDir string         // directory for the archives; it must exist

	RootFormat string // file system type of the root, "erofs"; empty: squashfs
	// Transports must be supported. Modules of other transports are added if the kernel has
	// them.
	Transports []handoff.Transport
	Modules    []string // additional modules in base, loaded at every boot

	// Reuse, if it is not nil, writes to path an archive that was made before from the same
	// content (Part.Content), and reports whether it has one. Compressing takes nine tenths of
	// the time.
	Reuse func(ctx context.Context, content, path string) (bool, error)
}

// These are the names of the parts.
const (
	Base     = "base"
	Hardware = "hardware"
	Firmware = "firmware"
)

// Part is one archive.
type Part struct {
	Name     string // Base, Hardware or Firmware
	Path     string // path of the file, in Options.OutDir
	Size     int64  // bytes
	Unpacked int64  // bytes before compression: about the memory it takes at boot
	Modules  int    // number of modules
	Content  string // digest of content and compression; empty without Options.Reuse
	Reused   bool
}

// Generate writes the archives: base, and the others unless they would be empty. They depend only
// on the options and on the content of the tree: a second run gives the same bytes. After an error
// no archive is left.
//
// If the kernel lacks a module that every boot requires, the error names the module and its
// configuration option.
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
		keptOut: kmod.KeptOut(root.FS()),
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

// write runs the jobs in parallel.
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
