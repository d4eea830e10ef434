package pack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ErofsOptions describe how a tree is packed. The zero value gives an image without compression
// that every kernel with EROFS can read.
type ErofsOptions struct {
	Compressor string // lz4hc, zstd or none; empty: none
	Level      int    // of the compressor (lz4hc 1-12, zstd 1-22); 0: default of mkfs.erofs
	Kernel     Linux  // oldest kernel that must read the image; zero: every kernel since 5.4
	// Name determines the UUID of the file system: the same name gives the same UUID.
	Name string

	Progress func(percent int) // called with rising numbers while files are packed; may be nil
}

// Linux is the version of a kernel: {6, 1} for 6.1.
type Linux [2]int

// since reports whether a kernel has this version or a later one.
func (l Linux) since(major, minor int) bool { return slices.Compare(l[:], []int{major, minor}) >= 0 }

var linuxForm = regexp.MustCompile(`^([0-9]+)\.([0-9]+)`)

// linuxOf parses the release of a kernel: "6.1.0-56-amd64".
func linuxOf(release string) Linux {
	var l Linux
	if m := linuxForm.FindStringSubmatch(release); m != nil {
		l[0], _ = strconv.Atoi(m[1])
		l[1], _ = strconv.Atoi(m[2])
	}
	return l
}

const (
	// erofsCluster is the greatest number of bytes that are compressed together: to read 4 KiB,
	// a node fetches and unpacks one cluster.
	erofsCluster = 64 << 10

	// erofsChunk is the granularity in which an image without compression leaves out holes.
	erofsChunk = 64 << 10

	noCompressor = "none"
)

var mkfsErofs = program{"mkfs.erofs", "install erofs-utils (its name on Debian, Fedora and EL alike)"}

// ErofsCompressors returns the compressors of this host's mkfs.erofs.
func ErofsCompressors(ctx context.Context) ([]string, error) {
	if err := mkfsErofs.checkInstalled(); err != nil {
		return nil, err
	}
	// Up to 1.7 the output has "Available compressors are: lz4hc, lz4"; from 1.8 on it has a
	// list with the options of each compressor.
	help, err := exec.CommandContext(ctx, mkfsErofs.name, "--help").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("mkfs.erofs --help: %w", err)
	}
	var found []string
	for _, name := range []string{"lz4hc", "zstd"} {
		if regexp.MustCompile(`\b` + name + `\b`).Match(help) {
			found = append(found, name)
		}
	}
	return found, nil
}

// Erofs packs tree into an EROFS image at out, with owners, modes, times, hard links, devices and
// all extended attributes, including POSIX ACLs. It leaves out the contents of /proc, /sys, /dev,
// /run and /tmp, but keeps these directories. Holes take no space, except in an image without
// compression for a kernel before 5.15.
//
// The image appears at out complete or not at all. When ctx is cancelled, packing ends with ctx's
// error.
//
// If SOURCE_DATE_EPOCH is set in the environment, the same tree and name give the same bytes: it is
// the time of the image and of all files with a later time.
func Erofs(ctx context.Context, tree, out string, opt ErofsOptions) (Result, error) {
	result, err := erofs(ctx, tree, out, opt)
	if err != nil {
		return Result{}, fmt.Errorf("pack %s: %w", tree, err)
	}
	return result, nil
}

func erofs(ctx context.Context, tree, out string, opt ErofsOptions) (Result, error) {
	if err := mkfsErofs.checkInstalled(); err != nil {
		return Result{}, err
	}
	return writeWhole(tree, out, func(file string) ([]string, error) {
		files, err := countFiles(tree)
		if err != nil {
			return nil, err
		}
		args := append(opt.args(), file, tree+"/")
		progress := &fileCounter{report: opt.Progress, total: files}
		lines, err := mkfsErofs.run(ctx, file, args, progress)
		if err != nil && ctx.Err() == nil && len(lines) > 0 {
			return nil, erofsError(lines, progress.at())
		}
		if err != nil {
			return nil, err
		}
		progress.tell(100)
		return erofsWarnings(lines), nil
	})
}

// args returns the arguments before destination and source.
func (o ErofsOptions) args() []string {
	args := []string{
		"-U", uuidOf(o.Name),
		"--exclude-regex=^(" + strings.Join(emptied, "|") + ")/.",
	}
	switch compressed := o.Compressor != "" && o.Compressor != noCompressor; {
	case compressed:
		z := "-z" + o.Compressor
		if o.Level != 0 {
			z += "," + strconv.Itoa(o.Level)
		}
		args = append(args, z)
		if o.Kernel.since(5, 13) {
			args = append(args, "-C"+strconv.Itoa(erofsCluster))
		}
		if o.Kernel.since(5, 17) {
			args = append(args, "-Eztailpacking")
		}
	case o.Kernel.since(5, 15):
		args = append(args, "--chunksize="+strconv.Itoa(erofsChunk))
	}
	return args
}

// uuidOf makes a UUID from a name: version 8 of RFC 9562, which defines only the version and
// variant bits.
func uuidOf(name string) string {
	u := sha256.Sum256([]byte("netroot erofs\x00" + name))
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

// countFiles counts the files below dir that will be packed.
func countFiles(dir string) (int, error) {
	n := -1 // dir itself
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		n++
		if d.IsDir() && filepath.Dir(path) == filepath.Clean(dir) && slices.Contains(emptied, d.Name()) {
			return fs.SkipDir
		}
		return nil
	})
	return n, err
}

// fileCounter counts the files that mkfs.erofs reports, "Processing etc/hosts ...", each over the
// last one (1.5) or on its own line (1.8).
type fileCounter struct {
	report      func(int)
	total, done int
	tail        []byte // last part of the output
	last        int    // last reported percentage
}

func (c *fileCounter) Write(b []byte) (int, error) {
	const tail = 512 // longer than a name that mkfs.erofs prints, which it shortens
	word := []byte("Processing ")
	before := bytes.Count(c.tail, word)
	text := append(c.tail, b...)
	c.done += bytes.Count(text, word) - before
	c.tail = slices.Clone(text[max(0, len(text)-tail):])
	c.tell(min(99, 100*c.done/max(1, c.total)))
	return len(b), nil
}

var inHand = regexp.MustCompile(`Processing ([^\r\n]+) \.\.\.`)

// at returns the last reported file, or "".
func (c *fileCounter) at() string {
	if all := inHand.FindAllSubmatch(c.tail, -1); all != nil {
		return string(all[len(all)-1][1])
	}
	return ""
}

func (c *fileCounter) tell(percent int) {
	if percent <= c.last {
		return
	}
	c.last = percent
	if c.report != nil {
		c.report(percent)
	}
}

// erofsTag matches the text before a message of mkfs.erofs, with the place in its source: "<E>
// erofs: f() Line[12] ".
var erofsTag = regexp.MustCompile(`^<([EW])> erofs[a-z_]*: *(?:\w+\(\) Line\[\d+\] *)?`)

// erofsError returns the reasons why mkfs.erofs failed, the first one first, without the usage
// text, and with the last reported file, because the reasons name no file.
func erofsError(lines []string, at string) error {
	var said []string
	for _, line := range lines {
		if tag := erofsTag.FindStringSubmatch(line); tag != nil && tag[1] == "E" {
			said = append(said, strings.TrimSpace(line[len(tag[0]):]))
		}
	}
	if said == nil {
		said = lines[:1]
	}
	text := strings.Join(said[:min(3, len(said))], "; ")
	if at != "" {
		text = "at " + at + ": " + text
	}
	return errors.New("mkfs.erofs: " + text)
}

// expectedWarnings matches warnings of mkfs.erofs about options that are used on purpose: that a
// feature is experimental, which it still says about features that kernels have had for years, and
// that zstd is slow.
var expectedWarnings = regexp.MustCompile(`EXPERIMENTAL|takes more time`)

// erofsWarnings returns the warnings about the tree.
func erofsWarnings(lines []string) []string {
	var said []string
	for _, line := range lines {
		if !expectedWarnings.MatchString(line) {
			said = append(said, strings.TrimPrefix(line, erofsTag.FindString(line)))
		}
	}
	return said
}
