package pack

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"netroot/internal/kernel"
)

// These are the defaults of SquashfsOptions.
const (
	// DefaultBlockSize is small because roots are read on demand: to read 4 KiB, a node fetches
	// and unpacks a block.
	DefaultBlockSize = 128 << 10

	// DefaultZstdLevel is a compromise: a 696 MB Debian tree took 5 s and 237 MB at level 3, 10
	// s and 224 MB at 6, 15 s and 221 MB at 9, 58 s and 221 MB at 12, all on the same two
	// cores.
	DefaultZstdLevel = 6
)

// emptied are the directories of a tree whose contents belong to the running system and not to the
// image.
var emptied = []string{"proc", "sys", "dev", "run", "tmp"}

// SquashfsOptions describe how a tree is packed. The zero value means the defaults.
type SquashfsOptions struct {
	Compressor string // zstd, xz or gzip; empty: gzip, which every kernel can read
	Level      int    // of zstd (1-22) or gzip (1-9); 0: DefaultZstdLevel or 9
	BlockSize  int    // bytes, a power of two from 4 KiB to 1 MiB; 0: DefaultBlockSize
	Processors int    // number to use; 0: all
	// Exclude has further paths below the tree to leave out. *, ? and [] are those of the
	// shell, and do not match slashes.
	Exclude []string

	Progress func(percent int) // called with rising numbers while files are packed; may be nil
}

// Compressor returns the best squashfs compressor that a kernel can read: zstd, then xz, then gzip.
// If the configuration is unknown, it returns gzip.
func Compressor(c kernel.Config) string {
	switch {
	case c.Enabled("SQUASHFS_ZSTD"):
		return "zstd"
	case c.Enabled("SQUASHFS_XZ"):
		return "xz"
	}
	return "gzip"
}

// Squashfs packs tree into a squashfs image at out, with owners, modes, times, hard links, devices,
// sparse files and the extended attributes of the user, trusted and security name spaces (including
// capabilities and SELinux labels). It leaves out POSIX ACLs, with a warning, because squashfs
// cannot store them. It also leaves out the contents of /proc, /sys, /dev, /run and /tmp, but keeps
// these directories.
//
// Large holes are not read: mksquashfs gets the data of such a file only, and the image its holes
// afterwards.
//
// The image appears at out complete or not at all. When ctx is cancelled, packing ends with ctx's
// error.
//
// If SOURCE_DATE_EPOCH is set in the environment, the same tree gives the same bytes: it is the
// time of the image and of all files with a later time (mksquashfs 4.4 and later).
func Squashfs(ctx context.Context, tree, out string, opt SquashfsOptions) (Result, error) {
	result, err := runMksquashfs(ctx, tree, out, opt)
	if err != nil {
		return Result{}, fmt.Errorf("pack %s: %w", tree, err)
	}
	return result, nil
}

func runMksquashfs(ctx context.Context, tree, out string, opt SquashfsOptions) (Result, error) {
	mksquashfs := program{"mksquashfs", "install squashfs-tools (its name on Debian, Fedora and EL alike)"}
	if err := mksquashfs.checkInstalled(); err != nil {
		return Result{}, err
	}
	return writeWhole(tree, out, func(file string) ([]string, error) {
		run := func(pseudo []string, opt SquashfsOptions) ([]string, error) {
			// The slash at the end makes a link to a tree name the directory behind it.
			args := append(append([]string{tree + "/", file}, pseudo...), opt.args()...)
			lines, err := mksquashfs.run(ctx, file, args, &percentReader{report: opt.Progress})
			if err != nil && ctx.Err() == nil && len(lines) > 0 {
				return nil, squashfsError(lines)
			}
			return squashfsWarnings(tree, lines), err
		}
		return packHoles(ctx, tree, file, opt, run)
	})
}

func (o SquashfsOptions) blockSize() int { return cmp.Or(o.BlockSize, DefaultBlockSize) }

// args returns the arguments after source and destination.
func (o SquashfsOptions) args() []string {
	compressor, level := o.Compressor, o.Level
	if compressor == "" {
		compressor = "gzip"
	}
	if level == 0 && compressor == "zstd" {
		level = DefaultZstdLevel
	}
	// Small files get their own blocks instead of sharing one: a node reads only the files that
	// it uses, and the kernel, which caches three shared blocks (SQUASHFS_FRAGMENT_CACHE_SIZE),
	// does not fetch shared blocks again and again. Until its login, Debian read 17.3 instead
	// of 19.5 MiB, from an image of 135 instead of 128 MiB.
	args := []string{"-comp", compressor, "-b", strconv.Itoa(o.blockSize()), "-no-fragments", "-xattrs",
		"-noappend", "-no-recovery", "-quiet", "-progress",
		"-exit-on-error"} // otherwise an unreadable file becomes an empty one
	if level != 0 && compressor != "xz" {
		args = append(args, "-Xcompression-level", strconv.Itoa(level))
	}
	if o.Processors != 0 {
		args = append(args, "-processors", strconv.Itoa(o.Processors))
	}
	args = append(args, "-wildcards", "-e") // -e takes all following arguments
	for _, dir := range emptied {
		args = append(args, dir+"/*", dir+"/.*")
	}
	for _, e := range o.Exclude {
		args = append(args, strings.Trim(filepath.Clean(e), "/"))
	}
	return args
}

// squashfsError finds the reason for a failure in the output of mksquashfs.
func squashfsError(lines []string) error {
	for _, line := range lines { // an error in the command line comes before the usage text
		if strings.HasPrefix(line, "mksquashfs: ") {
			return errors.New(line)
		}
	}
	// Warnings come first.
	return fmt.Errorf("mksquashfs: %s", strings.Join(lines[max(0, len(lines)-3):], "; "))
}

// percentReader finds the numbers in the progress bar that mksquashfs draws repeatedly on one line:
// "\r[====/   ] 229/916  25%".
type percentReader struct {
	report func(int)
	digits []byte
	last   int
}

func (p *percentReader) Write(b []byte) (int, error) {
	for _, c := range b {
		switch {
		case '0' <= c && c <= '9':
			p.digits = append(p.digits, c)
			continue
		case c == '%':
			if n, err := strconv.Atoi(string(p.digits)); err == nil && p.last < n && n <= 100 {
				p.last = n
				if p.report != nil {
					p.report(n)
				}
			}
		}
		p.digits = p.digits[:0]
	}
	return len(b), nil
}
