package secrets

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// walker inspects the files of a tree. A directory is read by one goroutine, which opens what is in
// it by its name in that directory: no path is resolved from the top, and no link is followed.
type walker struct {
	skip  []string // directories whose contents are left out
	group *errgroup.Group

	mu    sync.Mutex
	found []Finding
}

// walk inspects a directory. It closes dir, whose path below the tree is name.
func (w *walker) walk(ctx context.Context, dir *os.File, name string) error {
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return in(name, err)
	}
	fd := int(dir.Fd())
	if err := w.files(ctx, fd, name, entries); err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := w.enter(ctx, fd, e.Name(), path.Join(name, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// files inspects the files of a directory.
func (w *walker) files(ctx context.Context, dir int, name string, entries []fs.DirEntry) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for _, e := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !e.Type().IsRegular() {
			continue
		}
		if err := w.file(dir, e.Name(), path.Join(name, e.Name()), *buf); err != nil {
			return err
		}
	}
	return nil
}

// enter inspects a directory of the directory dir, in a goroutine of its own if one is free.
func (w *walker) enter(ctx context.Context, dir int, base, name string) error {
	if slices.Contains(w.skip, name) {
		return nil
	}
	fd, err := open(dir, base, unix.O_DIRECTORY)
	if fd < 0 {
		return in(name, err)
	}
	sub := os.NewFile(uintptr(fd), name)
	walk := func() error { return w.walk(ctx, sub, name) }
	if w.group.TryGo(walk) {
		return nil
	}
	return walk()
}

// file inspects a file of the directory dir.
func (w *walker) file(dir int, base, name string, buf []byte) error {
	// Opening must not block: a pipe that has replaced the file has no writer.
	fd, err := open(dir, base, unix.O_NONBLOCK)
	if fd < 0 {
		return in(name, err)
	}
	defer unix.Close(fd)
	rules := rulesFor(name)
	text, err := read(fd, buf, len(rules) > 0)
	if err != nil {
		return in(name, err)
	}
	if found := inspect(name, rules, text); found != nil {
		w.mu.Lock()
		w.found = append(w.found, found...)
		w.mu.Unlock()
	}
	return nil
}

// open opens what a directory has under a name. Without an error and without a descriptor, it is a
// link or is not a directory any more.
func open(dir int, base string, flags int) (fd int, err error) {
	for {
		fd, err = unix.Openat(dir, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC|flags, 0)
		switch {
		case err == unix.EINTR:
			continue
		case err == unix.ELOOP, err == unix.ENOTDIR:
			return -1, nil
		case err != nil:
			return -1, err
		}
		return fd, nil
	}
}

// read reads a file, at most len(buf) bytes of it. It returns nothing of a file that is larger,
// and only the beginning of one that is a program, unless the file has rules of its own.
func read(fd int, buf []byte, ruled bool) ([]byte, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size == 0 || !ruled && st.Size > maxFile {
		return nil, nil
	}
	want := int(min(st.Size, int64(len(buf))))
	n, err := fill(fd, buf[:min(want, firstRead)])
	if err != nil || n == want || !ruled && binary(buf[:n]) {
		return buf[:n], err
	}
	more, err := fill(fd, buf[n:want])
	return buf[:n+more], err
}

// fill reads until buf is full or the file ends.
func fill(fd int, buf []byte) (n int, err error) {
	for n < len(buf) {
		got, err := unix.Read(fd, buf[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil || got == 0 {
			return n, err
		}
		n += got
	}
	return n, nil
}

// in names the file of an error.
func in(name string, err error) error {
	if err == nil {
		return nil
	}
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		err = p.Err
	}
	return fmt.Errorf("/%s: %w", name, err)
}

// maxFile is the number of bytes of a file that are checked. Files with keys are smaller: the
// largest are bundles and kubeconfigs.
const maxFile = 256 << 10

// firstRead is how much of a file is read before it is known to be a text.
const firstRead = 4096

var buffers = sync.Pool{New: func() any { b := make([]byte, maxFile); return &b }}

// walkers is how many directories are inspected at the same time: where the disk is slow, more than
// there are processors.
func walkers() int { return 2*runtime.GOMAXPROCS(0) + 2 }
