package initramfs

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"netroot/internal/kernel"
	"netroot/internal/kmod"
	"netroot/internal/pack"
)

// zstdWindow is the memory in bytes that unpacking takes; the kernel's limit is 128 MiB
// (lib/decompress_unzstd.c).
const zstdWindow = 8 << 20

// compression returns a compression that the kernel can unpack: "zstd", "gzip", or "" for none.
//
// xz is not used. In a measurement with 43 MB of network drivers it took 7.3 s for 10.3 MB, where
// gzip took 0.7 s for 12.1 MB and zstd 0.9 s for 11.0 MB, and kernels unpack it several times more
// slowly than either; the network of a node is faster.
func compression(c kernel.Config) string {
	switch {
	case c.Enabled("RD_ZSTD"):
		return "zstd"
	case c == nil || c.Enabled("RD_GZIP"):
		return "gzip"
	}
	return ""
}

func compressor(kind string, w io.Writer) (io.WriteCloser, error) {
	switch kind {
	case "zstd":
		return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithWindowSize(zstdWindow),
			zstd.WithEncoderConcurrency(2))
	case "gzip":
		return gzip.NewWriterLevel(w, 6)
	}
	return plainWriter{w}, nil
}

// plainWriter does not compress.
type plainWriter struct{ io.Writer }

func (plainWriter) Close() error { return nil }

// writer has what all archives have in common.
type writer struct {
	dir         string
	release     string
	index       *kmod.Index
	compression string
	reuse       func(ctx context.Context, content, path string) (bool, error)
	keptOut     []string // modules that the tree's modprobe.d keeps out
}

// archive is an archive that is being written. It keeps its first error, after which further calls
// do nothing.
type archive struct {
	*pack.CPIO
	ctx      context.Context
	unpacked int64
	err      error
}

func (a *archive) do(err error) {
	if a.err == nil {
		a.err = err
	}
}

func (a *archive) file(name string, perm fs.FileMode, data []byte) {
	if a.err == nil && a.ctx.Err() != nil {
		a.err = context.Cause(a.ctx)
	}
	if a.err == nil {
		a.unpacked += int64(len(data))
		a.err = a.WriteFile(name, perm, int64(len(data)), bytes.NewReader(data))
	}
}

// archive writes the archive of a part, or reuses one that was made before, and sets the fields of
// the part.
func (w *writer) archive(ctx context.Context, p *Part, fill func(*archive)) (err error) {
	if w.reuse != nil {
		digest := sha256.New()
		fmt.Fprintf(digest, "%s, %d\n", w.compression, zstdWindow)
		if p.Unpacked, err = writeArchive(ctx, digest, fill); err != nil {
			return err
		}
		p.Content = hex.EncodeToString(digest.Sum(nil))
		if p.Reused, err = w.reuse(ctx, p.Content, p.Path); err != nil {
			return err
		}
	}
	if !p.Reused {
		if p.Unpacked, err = w.compress(ctx, p.Path, fill); err != nil {
			return err
		}
	}
	info, err := os.Stat(p.Path)
	if err != nil {
		return err
	}
	p.Size = info.Size()
	return nil
}

func (w *writer) compress(ctx context.Context, name string, fill func(*archive)) (unpacked int64, err error) {
	out, err := os.Create(name)
	if err != nil {
		return 0, err
	}
	compressed, err := compressor(w.compression, out)
	if err != nil {
		return 0, errors.Join(err, out.Close())
	}
	unpacked, err = writeArchive(ctx, compressed, fill)
	return unpacked, errors.Join(err, compressed.Close(), out.Close())
}

// writeArchive writes an uncompressed archive, and returns the size of the files in it.
func writeArchive(ctx context.Context, to io.Writer, fill func(*archive)) (unpacked int64, err error) {
	buffered := bufio.NewWriterSize(to, 1<<20)
	a := &archive{CPIO: pack.NewCPIO(buffered), ctx: ctx}
	fill(a)
	a.do(a.Close())
	a.do(buffered.Flush())
	return a.unpacked, a.err
}

// base writes the archive that is sufficient for a virtual machine.
func (w *writer) base(a *archive, init []byte, c choice, modules []module) {
	for _, dir := range []string{"dev", "etc", "proc", "run", "sys", "sysroot", "tmp"} {
		a.do(a.Mkdir(dir, 0o755))
	}
	// The kernel opens /dev/console for init before anything is mounted (init/main.c,
	// console_on_rootfs).
	a.do(a.Device("dev/console", fs.ModeDevice|fs.ModeCharDevice|0o600, 5, 1))
	a.file("init", 0o755, init)
	a.do(a.Symlink("sbin/modprobe", "/init")) // the kernel runs it when it requests a module
	a.file("etc/netroot/modules", 0o644, []byte(strings.Join(append(c.load, ""), "\n")))
	if len(w.keptOut) > 0 {
		a.file("etc/netroot/keptout", 0o644, []byte(strings.Join(append(w.keptOut, ""), "\n")))
	}
	a.file(w.indexFile(Base+".builtin"), 0o644, []byte(w.index.EncodeBuiltin()))
	w.modules(a, Base, modules, "")
}

// hardware writes the archive of drivers.
func (w *writer) hardware(a *archive, c choice, modules []module) {
	w.modules(a, Hardware, modules, companionAliases(w.index, slices.Concat(c.base, c.hardware)))
}

// firmware writes the archive of the firmware files for the drivers.
func (w *writer) firmware(a *archive, files []firmwareFile) {
	for _, f := range files {
		a.file(path.Join("lib/firmware", f.name), 0o644, f.data)
	}
}

// modules writes the modules and their index. aliases are added to the lines of the index.
func (w *writer) modules(a *archive, part string, modules []module, aliases string) {
	names := make([]string, len(modules))
	for i, m := range modules {
		names[i] = m.Name
	}
	texts := w.index.Encode(names, plain)
	texts[".alias"] += aliases
	for _, suffix := range []string{".dep", ".alias", ".softdep"} {
		a.file(w.indexFile(part+suffix), 0o644, []byte(texts[suffix]))
	}
	for _, m := range modules {
		a.file(path.Join("lib/modules", w.release, plain(m.Path)), 0o644, m.data)
	}
}

func (w *writer) indexFile(name string) string {
	return path.Join("lib/modules", w.release, "netroot", name)
}

// Compress writes a file with the output of fill, compressed so that a kernel with that
// configuration can unpack it, and returns its size in bytes. It is for archives that other
// programs made.
func Compress(ctx context.Context, config kernel.Config, path string, fill func(io.Writer) error) (int64, error) {
	out, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	defer out.Close()
	w, err := compressor(compression(config), out)
	if err != nil {
		return 0, err
	}
	buffered := bufio.NewWriterSize(untilDone{ctx, w}, 1<<20)
	if err := errors.Join(fill(buffered), buffered.Flush(), w.Close(), out.Close()); err != nil {
		return 0, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// untilDone is a writer that fails when a context has ended.
type untilDone struct {
	ctx context.Context
	io.Writer
}

func (w untilDone) Write(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, context.Cause(w.ctx)
	}
	return w.Writer.Write(p)
}
