package bootstrap

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// packedRoot is the position of a root file system in a file.
type packedRoot struct {
	format       rootFormat
	offset, size int64
}

type rootFormat string

const (
	formatSquashfs rootFormat = "squashfs"
	formatExt      rootFormat = "ext3"
)

// findRoot finds the root file system of an image file: a SIF, or a bare file system, which
// Singularity 2 put behind a line "#!/usr/bin/env run-singularity".
func findRoot(r io.ReaderAt, size int64) (packedRoot, error) {
	head := make([]byte, min(size, 256))
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return packedRoot{}, err
	}
	if isSIF(head) {
		return findSIFRoot(r, size)
	}
	offset := int64(0)
	if line, _, ok := bytes.Cut(head, []byte("\n")); ok && bytes.HasPrefix(line, []byte("#!")) && bytes.Contains(line, []byte("singularity")) {
		offset = int64(len(line)) + 1
	}
	format, err := sniff(r, offset)
	if err != nil {
		return packedRoot{}, err
	}
	if format == "" {
		return packedRoot{}, errors.New("not an image: neither SIF, squashfs nor ext3")
	}
	return packedRoot{format, offset, size - offset}, nil
}

// sniff identifies a file system by its magic number: squashfs_fs.h and ext4.h of the kernel
// (fs/squashfs, fs/ext4). It returns "" for anything else.
func sniff(r io.ReaderAt, offset int64) (rootFormat, error) {
	const extMagicAt = 1024 + 0x38 // s_magic of the superblock
	for _, fs := range []struct {
		format rootFormat
		at     int64
		magic  string
	}{{formatSquashfs, 0, "hsqs"}, {formatExt, extMagicAt, "\x53\xef"}} {
		got := make([]byte, len(fs.magic))
		if _, err := r.ReadAt(got, offset+fs.at); err != nil && err != io.EOF {
			return "", err
		}
		if string(got) == fs.magic {
			return fs.format, nil
		}
	}
	return "", nil
}

// checkWhole compares the size in the superblock of a squashfs (bytes_used at byte 40) with the
// space that the file has for it.
func (p packedRoot) checkWhole(r io.ReaderAt) error {
	if p.format != formatSquashfs {
		return nil
	}
	var used [8]byte
	if _, err := r.ReadAt(used[:], p.offset+40); err != nil {
		return errors.New("its squashfs has no superblock: the file is truncated")
	}
	if n := binary.LittleEndian.Uint64(used[:]); n > uint64(p.size) {
		return fmt.Errorf("its squashfs has %d bytes, but the file contains %d of them: the file is truncated", n, p.size)
	}
	return nil
}

// installFile unpacks an image file into the Tree. from is the file's name for messages.
func (j Job) installFile(ctx context.Context, file *os.File, from string) error {
	fi, err := file.Stat()
	if err != nil {
		return err
	}
	at, err := findRoot(file, fi.Size())
	if err == nil {
		err = at.checkWhole(file)
	}
	if err != nil {
		return fmt.Errorf("From: %s: %w", from, err)
	}
	j.logf("%s: %s of %s", from, at.format, megabytes(at.size))
	if at.format == formatExt {
		return j.copyMounted(ctx, file.Name(), at)
	}
	return j.unsquash(ctx, file, at)
}

// unsquash unpacks with unsquashfs, which keeps owners, modes, times, links, devices and extended
// attributes.
func (j Job) unsquash(ctx context.Context, file *os.File, at packedRoot) error {
	prog, err := find(tool{"unsquashfs", "squashfs-tools", "squashfs-tools"})
	if err != nil {
		return err
	}
	argv := []string{prog, "-no-progress", "-force", "-dest", j.Root}
	path := file.Name()
	switch {
	case at.offset == 0:
	case hasOffset(ctx, prog):
		argv = append(argv, "-offset", strconv.FormatInt(at.offset, 10))
	default:
		part, err := os.CreateTemp("", "netroot-*.squashfs")
		if err != nil {
			return err
		}
		defer os.Remove(part.Name())
		defer part.Close()
		body := &progress{ctx: ctx, r: io.NewSectionReader(file, at.offset, at.size), report: func(int64) {}}
		if _, err := io.Copy(part, body); err != nil {
			return err
		}
		path = part.Name()
	}
	return j.run(ctx, append(argv, path))
}

// hasOffset reports whether unsquashfs has the option for an offset, which it has since version 4.4
// (EL 8's is older).
func hasOffset(ctx context.Context, prog string) bool {
	// Without arguments it fails and prints its options on stderr.
	help, _ := exec.CommandContext(ctx, prog).CombinedOutput()
	return strings.Contains(string(help), "-offset") || strings.Contains(string(help), "-o[ffset]")
}

// copyMounted mounts an ext3 file system read-only and copies it, because the tools of ext3 lose
// hard links, devices and attributes. The mount is in a namespace that ends with the command.
func (j Job) copyMounted(ctx context.Context, file string, at packedRoot) error {
	point, err := os.MkdirTemp("", "netroot-mnt-")
	if err != nil {
		return err
	}
	defer os.Remove(point)
	file, err = filepath.Abs(file)
	if err != nil {
		return err
	}
	options := fmt.Sprintf("loop,ro,noload,offset=%d,sizelimit=%d", at.offset, at.size)
	const script = `mount -t ext4 -o "$1" -- "$2" "$3" && cp --archive --sparse=auto --no-target-directory -- "$3" "$4"`
	if err := j.run(ctx, []string{"/bin/sh", "-c", script, "mount", options, file, point, j.Root}); err != nil {
		return err
	}
	root, err := os.OpenRoot(j.Root)
	if err != nil {
		return err
	}
	defer root.Close()
	return root.RemoveAll("lost+found")
}
