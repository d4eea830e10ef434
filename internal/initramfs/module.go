package initramfs

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sync/errgroup"

	"netroot/internal/kmod"
)

// maxFile bounds the size in bytes of a decompressed file, because files of a tree may be too large
// for the memory. The largest known module has 5 MB, and the largest known firmware of a network
// card 30 MB.
const maxFile = 256 << 20

// module is the file of a module.
type module struct {
	kmod.Module
	data     []byte      // decompressed, with its signature
	machine  elf.Machine // architecture
	firmware []string    // paths below /lib/firmware, as in the module
}

// readModules reads the files in parallel.
func readModules(ctx context.Context, fsys fs.FS, dir string, list []kmod.Module) ([]module, error) {
	modules := make([]module, len(list))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, m := range list {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			data, err := ReadFile(fsys, path.Join(dir, m.Path))
			if err != nil {
				return err
			}
			modules[i] = module{Module: m, data: data}
			if err := modules[i].parse(); err != nil {
				return fmt.Errorf("module %s: %w", m.Path, err)
			}
			return nil
		})
	}
	return modules, group.Wait()
}

// parse reads the .modinfo section of the module, which has "key=value" texts that end in NUL
// (include/linux/moduleparam.h).
func (m *module) parse() error {
	file, err := elf.NewFile(bytes.NewReader(m.data))
	if err != nil {
		return err
	}
	m.machine = file.Machine
	section := file.Section(".modinfo")
	if section == nil {
		return nil
	}
	info, err := section.Data()
	if err != nil {
		return err
	}
	for field := range strings.SplitSeq(string(info), "\x00") {
		if name, ok := strings.CutPrefix(field, "firmware="); ok {
			m.firmware = append(m.firmware, name)
		}
	}
	return nil
}

// compressed are the suffixes of files that ReadFile decompresses.
var compressed = []string{".zst", ".xz", ".gz"}

// plain returns a path without the suffix of a compression.
func plain(name string) string {
	for _, suffix := range compressed {
		if p, ok := strings.CutSuffix(name, suffix); ok {
			return p
		}
	}
	return name
}

// ReadFile reads a file, and decompresses it if its name has the suffix of a compression.
func ReadFile(fsys fs.FS, name string) ([]byte, error) {
	file, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	r, err := decompressor(path.Ext(name), file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	var buf bytes.Buffer
	if info, err := file.Stat(); err == nil {
		buf.Grow(int(min(info.Size(), maxFile)) + bytes.MinRead)
	}
	n, err := io.Copy(&buf, io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if n > maxFile {
		return nil, fmt.Errorf("%s is larger than %d MiB", name, maxFile>>20)
	}
	return buf.Bytes(), nil
}

func decompressor(suffix string, r io.Reader) (io.Reader, error) {
	switch suffix {
	case ".gz":
		return gzip.NewReader(r)
	case ".xz":
		return xz.NewReader(r)
	case ".zst":
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxFile))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return r, nil
}

// machineOf returns the architecture of the modules, or EM_NONE if there are none.
func machineOf(lists ...[]module) elf.Machine {
	for _, list := range lists {
		for _, m := range list {
			return m.machine
		}
	}
	return elf.EM_NONE
}

// readInit reads the init and checks that it is a static program for the right architecture.
func readInit(name string, machine elf.Machine) ([]byte, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	file, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("init %s is not a program: %w", name, err)
	}
	if file.Type != elf.ET_EXEC && file.Type != elf.ET_DYN {
		return nil, fmt.Errorf("init %s is not a program, but has the ELF type %v", name, file.Type)
	}
	if machine != elf.EM_NONE && file.Machine != machine {
		return nil, fmt.Errorf("init %s is for %v, but the kernel of the image is for %v: build init with the GOARCH of the image", name, file.Machine, machine)
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			return nil, fmt.Errorf("init %s is not static: build it with CGO_ENABLED=0", name)
		}
	}
	return data, nil
}
