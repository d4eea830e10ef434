package pack

import (
	"context"
	"fmt"
	"slices"

	"netroot/internal/kernel"
)

// Method is how a root is packed, as a label's "pack" and "--pack" name it.
type Method string

// The methods there are.
const (
	Auto         Method = "auto" // squashfs: docs/transports.md has the numbers
	AsSquashfs   Method = "squashfs"
	AsErofs      Method = "erofs"              // compressed
	AsErofsPlain Method = "erofs-uncompressed" // for fast wires, where unpacking takes longer than fetching
)

// Methods lists them.
func Methods() []Method { return []Method{Auto, AsSquashfs, AsErofs, AsErofsPlain} }

// File systems of a packed root, by the names the kernel has for them.
const (
	squashfsType = "squashfs"
	erofsType    = "erofs"
)

// Packed reports whether a root of that file system type and compressor was packed by the method.
func (m Method) Packed(format, compressor string) bool {
	switch m {
	case AsErofs:
		return format == erofsType && compressor != noCompressor
	case AsErofsPlain:
		return format == erofsType && compressor == noCompressor
	case AsSquashfs:
		return format == squashfsType
	}
	return true
}

// Choice is what a method comes to for one kernel.
type Choice struct {
	Format     string // the file system's type: squashfs or erofs
	Compressor string // zstd, xz or gzip of squashfs; zstd, lz4hc or none of EROFS

	linux Linux
}

// Choose says how a root is packed that the kernel has to read. The error says what kernel or host lack.
func (m Method) Choose(ctx context.Context, k *kernel.Kernel) (Choice, error) {
	c := Choice{Format: squashfsType, linux: linuxOf(k.Release)}
	if m != AsErofs && m != AsErofsPlain {
		c.Compressor = Compressor(k.Config)
		return c, nil
	}
	c.Format, c.Compressor = erofsType, noCompressor
	has := func(option string) bool { return k.Config == nil || k.Config.Enabled(option) }
	if !has("EROFS_FS") || !c.linux.since(5, 4) {
		return Choice{}, fmt.Errorf("kernel %s has no EROFS (CONFIG_EROFS_FS, Linux 5.4): pack: squashfs is for every kernel", k.Release)
	}
	ours, err := ErofsCompressors(ctx)
	if err != nil || m == AsErofsPlain {
		return c, err
	}
	switch {
	case k.Config.Enabled("EROFS_FS_ZIP_ZSTD") && slices.Contains(ours, "zstd"):
		c.Compressor = "zstd"
	case has("EROFS_FS_ZIP") && slices.Contains(ours, "lz4hc"):
		c.Compressor = "lz4hc"
	case !has("EROFS_FS_ZIP"):
		return Choice{}, fmt.Errorf("kernel %s reads no compressed EROFS (CONFIG_EROFS_FS_ZIP): pack: %s, or squashfs", k.Release, AsErofsPlain)
	default:
		return Choice{}, fmt.Errorf("mkfs.erofs of this host has neither lz4hc nor zstd: pack: %s, or squashfs", AsErofsPlain)
	}
	return c, nil
}

// Options of a packing in either format.
type Options struct {
	Level    int               // of the compressor; 0: a good one
	Name     string            // of what is packed, such as its label
	Progress func(percent int) // may be nil
}

// Pack packs the tree as was chosen: see [Squashfs] and [Erofs].
func (c Choice) Pack(ctx context.Context, tree, out string, opt Options) (Result, error) {
	if c.Format == erofsType {
		return Erofs(ctx, tree, out, ErofsOptions{Compressor: c.Compressor, Level: opt.Level, Kernel: c.linux, Name: opt.Name, Progress: opt.Progress})
	}
	return Squashfs(ctx, tree, out, SquashfsOptions{Compressor: c.Compressor, Level: opt.Level, Progress: opt.Progress})
}
