package cache

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Content returns a digest of a file or directory of this machine, for use in a key. It covers
// types, modes, owners, link targets, extended attributes and contents. It does not cover times, so
// that a fresh checkout equals an old one. A symbolic link at the top is followed.
func Content(ctx context.Context, path string) (string, error) {
	top, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	err = filepath.WalkDir(top, func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		return describe(h, name, strings.TrimPrefix(name, top))
	})
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// describe adds one file to the digest. name is its path below the top.
func describe(h hash.Hash, path, name string) error {
	fi, err := os.Lstat(path)
	if err != nil {
		return err
	}
	st := fi.Sys().(*syscall.Stat_t)
	target := ""
	if fi.Mode().Type() == fs.ModeSymlink {
		if target, err = os.Readlink(path); err != nil {
			return err
		}
	}
	attrs, err := xattrs(path)
	if err != nil {
		return err
	}
	fmt.Fprintf(h, "%q %o %d %d %d %q %q\n", name, st.Mode, st.Uid, st.Gid, st.Rdev, target, attrs)
	if !fi.Mode().IsRegular() {
		return nil
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	err = digestData(h, f, fi.Size())
	fmt.Fprintf(h, " %d\n", fi.Size())
	return err
}

// digestData adds the content of a file of that size to the digest. A hole of more than a few pages
// counts as its position and not as zeros, so that it costs nothing: a copy without holes has another
// digest.
func digestData(h hash.Hash, f *os.File, size int64) error {
	const small = 1 << 20
	for at := int64(0); at < size; {
		data, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			data, err = size, nil
		} else if errors.Is(err, unix.EINVAL) { // the file system does not tell
			data, err = at, nil
		}
		if err != nil {
			return err
		}
		if data-at > small {
			fmt.Fprintf(h, " hole %d %d\n", at, data-at)
			at = data
		}
		next := size
		if hole, err := f.Seek(data, unix.SEEK_HOLE); err == nil {
			next = min(hole, size)
		}
		if _, err := io.Copy(h, io.NewSectionReader(f, at, next-at)); err != nil {
			return err
		}
		at = max(next, data)
	}
	return nil
}

// xattrs returns the extended attributes of a file as "name=value", sorted. It does not follow a
// link.
func xattrs(path string) ([]string, error) {
	buf := make([]byte, 64<<10) // XATTR_LIST_MAX and XATTR_SIZE_MAX, linux/limits.h
	n, err := unix.Llistxattr(path, buf)
	if errors.Is(err, unix.ENOTSUP) || n == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "listxattr", Path: path, Err: err}
	}
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	for i, name := range names {
		n, err := unix.Lgetxattr(path, name, buf)
		if err != nil {
			return nil, &fs.PathError{Op: "getxattr " + name, Path: path, Err: err}
		}
		names[i] += "=" + string(buf[:n])
	}
	slices.Sort(names)
	return names, nil
}
