package pack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"netroot/internal/squashfs"
)

const (
	// largeHole is what a file must have in holes to be packed without reading them. A packer
	// reads a GiB or two of zeros in a second.
	largeHole = 64 << 20
	// fewBlocks is how many times larger than its blocks a file must be to be named.
	fewBlocks = 4
)

// Sparse is a file that is larger than the space that it takes.
type Sparse struct {
	Path string // below the tree: "var/log/lastlog"
	Size int64  // in bytes
	Used int64  // bytes on disk

	links uint64
}

// Read is why mksquashfs reads the holes of the file, a GiB or so in a second; empty: it does not.
func (s Sparse) Read() string {
	switch {
	case s.links > 1:
		return "because the file has several names"
	case !plainName.MatchString(s.Path):
		return "because of the characters of the name"
	}
	return ""
}

// FindSparse returns the files of a tree whose holes are large, and that are packed.
func FindSparse(tree string) ([]Sparse, error) {
	var found []Sparse
	top := filepath.Clean(tree) + "/"
	err := filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		path := strings.TrimPrefix(name, top)
		if d.IsDir() && slices.Contains(emptied, path) {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		if used := st.Blocks * 512; st.Size-used >= largeHole && st.Size/fewBlocks >= used {
			found = append(found, Sparse{Path: path, Size: st.Size, Used: used, links: uint64(st.Nlink)})
		}
		return nil
	})
	return found, err
}

// standIn is a file that is packed in place of one with holes: it has only the blocks with data.
type standIn struct {
	Sparse
	file   string // path of the stand-in
	spread squashfs.Spread
}

// plainName matches the paths that mksquashfs reads as they are in patterns and definitions.
var plainName = regexp.MustCompile(`^[A-Za-z0-9/._+=@:,-]+$`)

// standIns makes a stand-in in dir for each file with large holes. Files with several names, and
// with characters that mean something to mksquashfs, are packed as they are.
func standIns(ctx context.Context, tree, dir string, block int64) ([]standIn, error) {
	sparse, err := FindSparse(tree)
	if err != nil || !plainName.MatchString(dir) {
		return nil, err
	}
	var out []standIn
	for i, s := range sparse {
		if s.Read() != "" {
			continue
		}
		in := standIn{Sparse: s, file: filepath.Join(dir, fmt.Sprint(i)), spread: squashfs.Spread{Size: s.Size}}
		from := filepath.Join(tree, s.Path)
		if in.spread.Blocks, err = copyBlocks(ctx, from, in.file, s.Size, block); err != nil {
			return nil, err
		}
		// After the content: writing removes capabilities and changes the time.
		cp := exec.CommandContext(ctx, "cp", "--attributes-only", "--preserve=all", "--no-dereference", "--", from, in.file)
		if text, err := cp.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("cp: %w: %s", err, strings.TrimSpace(string(text)))
		}
		out = append(out, in)
	}
	return out, nil
}

// copyBlocks copies the blocks of a file that have data, one after another, and returns their
// numbers.
func copyBlocks(ctx context.Context, from, to string, size, block int64) (numbers []int64, err error) {
	src, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer dst.Close()
	for at := int64(0); at < size && ctx.Err() == nil; at += block {
		data, err := src.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // only a hole is left
			break
		}
		if err != nil {
			return nil, err
		}
		at = data / block * block
		if at >= size {
			break
		}
		if _, err := io.Copy(dst, io.NewSectionReader(src, at, min(block, size-at))); err != nil {
			return nil, err
		}
		numbers = append(numbers, at/block)
	}
	return numbers, ctx.Err()
}

// packHoles has run pack a tree into file: with stand-ins for the files with large holes, and then the
// image gets these holes.
func packHoles(ctx context.Context, tree, file string, opt SquashfsOptions, run func(pseudo []string, opt SquashfsOptions) ([]string, error)) ([]string, error) {
	dir, err := os.MkdirTemp(filepath.Dir(file), ".holes-*")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	ins, err := standIns(ctx, tree, dir, int64(opt.blockSize()))
	if err != nil {
		return nil, err
	}
	if len(ins) == 0 {
		return run(nil, opt)
	}
	with := opt
	pseudo, exclude := standInArgs(ins)
	with.Exclude = slices.Concat(opt.Exclude, exclude)
	lines, err := run(pseudo, with)
	if err == nil {
		err = expand(file, ins)
	}
	if err == nil || ctx.Err() != nil {
		return lines, err
	}
	// For example, mksquashfs before 4.5 has no links to files outside of the tree.
	slow := fmt.Sprintf("the holes of large files are read, which takes time: %v", err)
	lines, err = run(nil, opt)
	return append([]string{slow}, lines...), err
}

// standInArgs are the arguments that put stand-ins in the places of their files.
func standInArgs(ins []standIn) (pseudo, exclude []string) {
	for _, in := range ins {
		pseudo = append(pseudo, "-p", fmt.Sprintf("%s l %s", in.Path, in.file))
		exclude = append(exclude, in.Path)
	}
	return pseudo, exclude
}

// expand gives the stand-ins in an image their holes.
func expand(image string, ins []standIn) error {
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	files := map[string]squashfs.Spread{}
	for _, in := range ins {
		files["/"+in.Path] = in.spread
	}
	return errors.Join(squashfs.Expand(f, files), f.Close())
}
