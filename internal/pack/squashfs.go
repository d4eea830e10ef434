package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"netroot/internal/kernel"
)

// The defaults of SquashfsOptions.
const (
	// DefaultBlockSize is small because roots are read on demand: a node that wants 4 KiB fetches and unpacks a block.
	DefaultBlockSize = 128 << 10

	// DefaultZstdLevel: a 696 MB Debian tree took 5 s and 237 MB at level 3, 10 s and 224 MB at 6, 15 s and
	// 221 MB at 9, 58 s and 221 MB at 12, all on the same two cores.
	DefaultZstdLevel = 6
)

// emptied are the folders of a tree whose contents belong to the system that runs from it, and not to the image.
var emptied = []string{"proc", "sys", "dev", "run", "tmp"}

// SquashfsOptions says how a tree is packed. The zero value is good.
type SquashfsOptions struct {
	Compressor string   // zstd, xz or gzip; empty: gzip, which every kernel can read
	Level      int      // of zstd (1-22) and gzip (1-9); 0: DefaultZstdLevel for zstd, and 9 for gzip
	BlockSize  int      // bytes, a power of two from 4 KiB to 1 MiB; 0: DefaultBlockSize
	Processors int      // to use; 0: all
	Exclude    []string // further paths below the tree to leave out; *, ? and [] as in the shell, not across slashes

	Progress func(percent int) // called with rising numbers as files are packed; may be nil
}

// SquashfsResult is what a packing came to.
type SquashfsResult struct {
	Size     int64    // of the image in bytes
	Warnings []string // what mksquashfs said, each message once: attributes that squashfs cannot hold, for example
}

// Compressor chooses the best squashfs compressor that a kernel can read, zstd before xz before gzip, and gzip when the
// configuration is not known.
func Compressor(c kernel.Config) string {
	switch {
	case c.Enabled("SQUASHFS_ZSTD"):
		return "zstd"
	case c.Enabled("SQUASHFS_XZ"):
		return "xz"
	}
	return "gzip"
}

// Squashfs packs tree into a squashfs image at out, with owners, modes, times, hard links, devices, sparse files and
// the extended attributes of the user, trusted and security name spaces (capabilities and SELinux labels among them).
// POSIX ACLs are left out, with a warning: squashfs has no room for them. The contents of /proc, /sys, /dev, /run and /tmp
// are left out, the folders stay.
//
// The image appears at out whole or not at all. Cancelling ctx ends the packing with ctx's error.
//
// The same tree gives the same bytes when the environment's SOURCE_DATE_EPOCH is set: it is the image's time, and
// files that are younger get it (mksquashfs 4.4 and later).
func Squashfs(ctx context.Context, tree, out string, opt SquashfsOptions) (SquashfsResult, error) {
	result, err := squashfs(ctx, tree, out, opt)
	if err != nil {
		return SquashfsResult{}, fmt.Errorf("pack %s: %w", tree, err)
	}
	return result, nil
}

func squashfs(ctx context.Context, tree, out string, opt SquashfsOptions) (SquashfsResult, error) {
	if _, err := exec.LookPath("mksquashfs"); err != nil {
		return SquashfsResult{}, errors.New("mksquashfs is not installed: install squashfs-tools (its name on Debian, Fedora and EL alike)")
	}
	if info, err := os.Stat(tree); err != nil {
		return SquashfsResult{}, err
	} else if !info.IsDir() {
		return SquashfsResult{}, errors.New("not a directory")
	}
	pending, err := renameio.NewPendingFile(out, renameio.WithTempDir(filepath.Dir(out)), renameio.WithStaticPermissions(0o600))
	if err != nil {
		return SquashfsResult{}, err
	}
	defer pending.Cleanup()

	// A slash at the end, so that a tree named by a link is the directory behind it.
	args := append([]string{tree + "/", pending.Name()}, opt.args()...)
	warnings, err := run(ctx, exec.CommandContext(ctx, "mksquashfs", args...), opt.Progress)
	if err != nil {
		return SquashfsResult{}, err
	}
	info, err := pending.Stat() // mksquashfs writes into the same file
	if err != nil {
		return SquashfsResult{}, err
	}
	if err := pending.CloseAtomicallyReplace(); err != nil { // with fsync
		return SquashfsResult{}, err
	}
	return SquashfsResult{Size: info.Size(), Warnings: warnings}, nil
}

// args are the command line after source and destination.
func (o SquashfsOptions) args() []string {
	compressor, level, block := o.Compressor, o.Level, o.BlockSize
	if compressor == "" {
		compressor = "gzip"
	}
	if level == 0 && compressor == "zstd" {
		level = DefaultZstdLevel
	}
	if block == 0 {
		block = DefaultBlockSize
	}
	// Small files get blocks of their own instead of sharing one: a node reads what it wants and nothing beside it, and the
	// kernel, which keeps three shared blocks (SQUASHFS_FRAGMENT_CACHE_SIZE), does not fetch them again and again. Debian
	// read 17.3 instead of 19.5 MiB until its login, from an image of 135 instead of 128 MiB.
	args := []string{"-comp", compressor, "-b", strconv.Itoa(block), "-no-fragments", "-xattrs",
		"-noappend", "-no-recovery", "-quiet", "-progress",
		"-exit-on-error"} // else a file that cannot be read becomes an empty one
	if level != 0 && compressor != "xz" {
		args = append(args, "-Xcompression-level", strconv.Itoa(level))
	}
	if o.Processors != 0 {
		args = append(args, "-processors", strconv.Itoa(o.Processors))
	}
	args = append(args, "-wildcards", "-e") // -e takes all that follows
	for _, dir := range emptied {
		args = append(args, dir+"/*", dir+"/.*")
	}
	for _, e := range o.Exclude {
		args = append(args, strings.Trim(filepath.Clean(e), "/"))
	}
	return args
}

// run runs mksquashfs and gives the warnings it printed.
func run(ctx context.Context, cmd *exec.Cmd, progress func(int)) ([]string, error) {
	var stderr bytes.Buffer
	cmd.Stdout = &percentReader{report: progress}
	cmd.Stderr = &stderr
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	// Killed with us, whatever kills us. The signal comes when the thread ends that started the child (prctl(2)).
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread()
	err := cmd.Run()
	runtime.UnlockOSThread()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	lines := messages(stderr.String())
	if err == nil {
		return lines, nil
	}
	if strings.Contains(stderr.String(), "No space left on device") {
		return nil, fmt.Errorf("no space left in %s: free some, or put the image elsewhere", filepath.Dir(cmd.Args[2]))
	}
	for _, line := range lines { // what is wrong with the command line comes before a list of what would be right
		if strings.HasPrefix(line, "mksquashfs: ") {
			return nil, errors.New(line)
		}
	}
	if len(lines) == 0 {
		return nil, fmt.Errorf("mksquashfs: %w", err)
	}
	return nil, fmt.Errorf("mksquashfs: %s", strings.Join(lines[max(0, len(lines)-3):], "; ")) // warnings come before
}

// messages gives the lines of text that say something, each once.
func messages(text string) []string {
	var lines []string
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '\n' || r == '\r' }) {
		if line = strings.TrimSpace(line); line != "" && !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return lines
}

// percentReader finds the numbers in the progress bar that mksquashfs draws over and over on one line:
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
