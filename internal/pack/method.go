package pack

import (
	"context"
	"fmt"
	"slices"

	"netroot/internal/kernel"
)

// Method is the way in which a root is packed, as named by a label's "pack" and by "--pack".
type Method string

// These are the methods.
const (
	Auto       Method = "auto" // squashfs: docs/transports.md has the measurements
	AsSquashfs Method = "squashfs"
	AsErofs    Method = "erofs" // compressed
	// AsErofsPlain is for fast networks, where unpacking takes longer than fetching.
	AsErofsPlain Method = "erofs-uncompressed"
)

// Methods returns all methods.
func Methods() []Method { return []Method{Auto, AsSquashfs, AsErofs, AsErofsPlain} }

// These are the file systems of a packed root, as the kernel names them.
const (
	squashfsType = "squashfs"
	erofsType    = "erofs"
)

// Packed reports whether a root with that file system type and compressor was packed with the
// method.
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

// Choice is the result of a method for one kernel.
type Choice struct {
	Format     string // file system type: squashfs or erofs
	Compressor string // zstd, xz or gzip for squashfs; zstd, lz4hc or none for EROFS

	linux Linux
}

// anyKernel reads all formats.
var anyKernel = kernel.Kernel{Release: "999.0", Config: kernel.Config{
	"SQUASHFS_ZSTD": "y", "EROFS_FS": "y", "EROFS_FS_ZIP": "y", "EROFS_FS_ZIP_ZSTD": "y",
}}

// Choose returns how to pack a root that the kernel must be able to read; nil is a kernel that reads
// all formats. The error names what the
// kernel or the host lacks.
func (m Method) Choose(ctx context.Context, k *kernel.Kernel) (Choice, error) {
	if k == nil {
		k = &anyKernel
	}
	c := Choice{Format: squashfsType, linux: linuxOf(k.Release)}
	if m != AsErofs && m != AsErofsPlain {
		c.Compressor = Compressor(k.Config)
		return c, nil
	}
	c.Format, c.Compressor = erofsType, noCompressor
	has := func(option string) bool { return k.Config == nil || k.Config.Enabled(option) }
	if !has("EROFS_FS") || !c.linux.since(5, 4) {
		return Choice{}, fmt.Errorf("kernel %s has no EROFS (CONFIG_EROFS_FS, Linux 5.4): use \"pack: squashfs\", which every kernel can read", k.Release)
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
		return Choice{}, fmt.Errorf("kernel %s cannot read compressed EROFS (CONFIG_EROFS_FS_ZIP): use \"pack: %s\" or \"pack: squashfs\"", k.Release, AsErofsPlain)
	default:
		return Choice{}, fmt.Errorf("mkfs.erofs of this host has neither lz4hc nor zstd: use \"pack: %s\" or \"pack: squashfs\"", AsErofsPlain)
	}
	return c, nil
}

// Options are the options of a packing in either format.
type Options struct {
	Level    int               // of the compressor; 0: a good default
	Name     string            // name of the packed tree, such as its label
	Progress func(percent int) // may be nil
}

// Pack packs the tree as chosen: see [Squashfs] and [Erofs].
func (c Choice) Pack(ctx context.Context, tree, out string, opt Options) (Result, error) {
	if c.Format == erofsType {
		return Erofs(ctx, tree, out, ErofsOptions{Compressor: c.Compressor, Level: opt.Level, Kernel: c.linux, Name: opt.Name, Progress: opt.Progress})
	}
	return Squashfs(ctx, tree, out, SquashfsOptions{Compressor: c.Compressor, Level: opt.Level, Progress: opt.Progress})
}
