package main

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// reopen closes a descriptor and opens the file by its name with all kinds of flags. A file without
// a name cannot be opened again, so it is finally replaced with a new one.
func (w *worker) reopen(f *file) error {
	if f.path == "" {
		if w.rng.IntN(2) > 0 {
			return nil
		}
		w.journal.note("close %s, %d descriptors", f, len(f.handles))
		if err := w.check(f); err != nil {
			return err
		}
		w.closeAll(f)
		return w.create(f)
	}
	flags := []int{unix.O_RDWR, unix.O_RDWR, unix.O_RDWR, unix.O_WRONLY, unix.O_RDONLY}[w.rng.IntN(5)]
	switch w.rng.IntN(6) {
	case 0, 1:
		flags |= unix.O_APPEND
	case 2:
		flags |= unix.O_SYNC
	case 3:
		flags |= unix.O_DSYNC
	case 4:
		flags |= unix.O_DIRECT
	}
	if w.rng.IntN(12) == 0 && flags&unix.O_ACCMODE != unix.O_RDONLY {
		flags |= unix.O_TRUNC
		f.resize(0)
	}
	trunc := flags&unix.O_TRUNC != 0
	if len(f.handles) > 4 {
		i := w.rng.IntN(len(f.handles))
		unix.Close(f.handles[i].fd)
		f.handles = append(f.handles[:i], f.handles[i+1:]...)
	}
	w.journal.note("open %s with flags %#o, of %d, beside %d", f, flags, len(f.content), len(f.handles))
	if err := w.open(f, flags); err != nil {
		return err
	}
	if trunc && f.base > 0 {
		if err := unix.Truncate(filepath.Join(w.dir, f.path), f.base); err != nil {
			return fmt.Errorf("truncate %s to %d: %w", f, f.base, err)
		}
	}
	// There must be descriptors to read and to write.
	for w.any(f, both) == nil {
		if err := w.open(f, unix.O_RDWR); err != nil {
			return err
		}
	}
	return w.checkSize(f)
}

// rename renames the file to a free name while it is open.
func (w *worker) rename(f *file) error {
	if f.path == "" {
		return nil
	}
	to := w.newName()
	w.journal.note("rename %s to %s", f, to)
	if err := unix.Rename(filepath.Join(w.dir, f.path), filepath.Join(w.dir, to)); err != nil {
		return fmt.Errorf("rename %s to %s: %w", f, to, err)
	}
	if err := w.gone(f.path); err != nil {
		return err
	}
	f.path = to
	return w.stat(f)
}

// replace renames the file over another open file, which loses that name.
func (w *worker) replace(f *file) error {
	g := w.files[w.rng.IntN(len(w.files))]
	if f.path == "" || g.path == "" || f == g {
		return nil
	}
	w.journal.note("rename %s over %s", f, g)
	if err := unix.Rename(filepath.Join(w.dir, f.path), filepath.Join(w.dir, g.path)); err != nil {
		return fmt.Errorf("rename %s over %s: %w", f, g, err)
	}
	if err := w.gone(f.path); err != nil {
		return err
	}
	f.path, g.path, g.second = g.path, g.second, ""
	g.silly++
	if err := w.stat(f); err != nil {
		return err
	}
	return w.stat(g)
}

func (w *worker) unlink(f *file) error {
	if f.path == "" {
		return nil
	}
	w.journal.note("unlink %s, which is open; its other name is %q", f, f.second)
	name := f.path
	if err := unix.Unlink(filepath.Join(w.dir, name)); err != nil {
		return fmt.Errorf("unlink %s: %w", f, err)
	}
	if err := w.gone(name); err != nil {
		return err
	}
	f.path, f.second = f.second, ""
	f.silly++
	return w.stat(f)
}

// gone checks that a name does not exist any more.
func (w *worker) gone(name string) error {
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(w.dir, name), &st); err != unix.ENOENT {
		return fmt.Errorf("%s was moved away, and lstat of it says %v, want %v", name, err, unix.ENOENT)
	}
	return nil
}

// link gives the file a second name, or reads it by its second name.
func (w *worker) link(f *file) error {
	if f.path == "" {
		return nil
	}
	if f.second == "" {
		f.second = w.newName()
		w.journal.note("link %s to %s", f, f.second)
		if err := unix.Link(filepath.Join(w.dir, f.path), filepath.Join(w.dir, f.second)); err != nil {
			return fmt.Errorf("link %s to %s: %w", f, f.second, err)
		}
		return w.stat(f)
	}
	w.journal.note("read %s by its name %s, of %d", f, f.second, len(f.content))
	return w.checkPath(f, f.second)
}

// stat compares the results of stat by name and by descriptor.
func (w *worker) stat(f *file) error {
	if f.path == "" {
		return w.checkSize(f)
	}
	var byName, byHandle unix.Stat_t
	if err := unix.Lstat(filepath.Join(w.dir, f.path), &byName); err != nil {
		return fmt.Errorf("lstat %s: %w", f, err)
	}
	if err := unix.Fstat(f.handles[0].fd, &byHandle); err != nil {
		return fmt.Errorf("fstat %s: %w", f, err)
	}
	links := 1
	if f.second != "" {
		links = 2
	}
	size := f.base + int64(len(f.content))
	if byName.Size != size || byName.Ino != byHandle.Ino || int(byName.Nlink) < links || int(byName.Nlink) > links+f.silly {
		return fmt.Errorf("%s has %d bytes, inode %d, %d links; want %d bytes, inode %d, %d links",
			f, byName.Size, byName.Ino, byName.Nlink, size, byHandle.Ino, links)
	}
	return nil
}

// check compares the whole file.
func (w *worker) check(f *file) error {
	w.journal.note("check %s, of %d", f, len(f.content))
	if f.path != "" {
		if err := w.checkPath(f, f.path); err != nil {
			return err
		}
	}
	h := w.any(f, readable)
	if h == nil {
		return nil
	}
	return w.readAt(f, "pread", h.fd, 0, make([]byte, len(f.content)+pageSize))
}

// checkPath compares the whole file, opened by one of its names, and the hole before it at three
// positions.
func (w *worker) checkPath(f *file, name string) error {
	fd, err := unix.Open(filepath.Join(w.dir, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	defer unix.Close(fd)
	for range 3 {
		if f.base == 0 {
			break
		}
		off, buf := w.rng.Int64N(f.base-pageSize), make([]byte, pageSize)
		if n, err := unix.Pread(fd, buf, off); err != nil || n != len(buf) {
			return fmt.Errorf("pread of the hole in %s at %#x: %d bytes, %v", name, off, n, err)
		}
		if err := compareBytes("pread of the hole in "+name, off, buf, make([]byte, len(buf))); err != nil {
			return err
		}
	}
	return w.readAt(f, "pread by "+name, fd, 0, make([]byte, len(f.content)+pageSize))
}

// punch makes zeros with fallocate, if the file system supports it.
func (w *worker) punch(f *file) error {
	h := w.any(f, placed)
	if h == nil || len(f.content) == 0 || w.without["fallocate"] {
		return nil
	}
	off := w.rng.IntN(len(f.content))
	n := 1 + w.rng.IntN(len(f.content)-off)
	w.journal.note("punch a hole into %s at %#x, %d bytes, of %d", f, off, n, len(f.content))
	err := unix.Fallocate(h.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, f.base+int64(off), int64(n))
	if errors.Is(err, unix.EOPNOTSUPP) {
		w.without["fallocate"] = true
		return nil
	}
	if err != nil {
		return fmt.Errorf("fallocate of %s: %w", f, err)
	}
	clear(f.content[off : off+n])
	return w.checkSize(f)
}

// copyRange copies from one file to another in the kernel.
func (w *worker) copyRange(f *file) error {
	g := w.files[w.rng.IntN(len(w.files))]
	from, to := w.any(f, readable), w.any(g, placed)
	if f == g || from == nil || to == nil || len(f.content) == 0 {
		return nil
	}
	off := w.rng.IntN(len(f.content))
	n := 1 + w.rng.IntN(min(len(f.content)-off, maxWrite))
	at, _ := w.span(g)
	n = min(n, maxSize-at)
	w.journal.note("copy_file_range from %s at %#x to %s at %#x, %d bytes, of %d and %d", f, off, g, at, n, len(f.content), len(g.content))
	in, out := f.base+int64(off), g.base+int64(at)
	for done := 0; done < n; {
		m, err := unix.CopyFileRange(from.fd, &in, to.fd, &out, n-done, 0)
		if done == 0 && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)) {
			w.without["copy_file_range"] = true
			return nil
		}
		if err != nil || m == 0 {
			return fmt.Errorf("copy_file_range from %s to %s: %d of %d bytes: %v", f, g, done+m, n, err)
		}
		done += m
	}
	g.set(at, f.content[off:off+n])
	w.total.written.Add(int64(n))
	return w.checkSize(g)
}
