package main

import (
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// fill returns bytes that no other write wrote.
func (w *worker) fill(n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 8 {
		v := w.rng.Uint64()
		for j := i; j < min(i+8, n); j++ {
			b[j] = byte(v)
			v >>= 8
		}
	}
	return b
}

// span returns a range to write: often small, often at page borders, sometimes beyond the end.
func (w *worker) span(f *file) (off, n int) {
	switch w.rng.IntN(4) {
	case 0:
		n = 1 + w.rng.IntN(64)
	case 1:
		n = pageSize * (1 + w.rng.IntN(4))
	default:
		n = 1 + w.rng.IntN(maxWrite)
	}
	off = w.rng.IntN(maxSize - n)
	if len(f.content) > 0 && w.rng.IntN(3) > 0 {
		off = min(w.rng.IntN(len(f.content)), off)
	}
	if w.rng.IntN(3) == 0 {
		off -= off % pageSize
	}
	return off, n
}

// wrote checks the result of a write: the count must be right, and the new size visible. It updates
// the model.
func (w *worker) wrote(f *file, off, n int, err error, data []byte) error {
	if err != nil {
		return fmt.Errorf("write to %s: %w", f, err)
	}
	if n != len(data) {
		return fmt.Errorf("write to %s: wrote %d of %d bytes", f, n, len(data))
	}
	f.set(off, data)
	w.total.written.Add(int64(n))
	return w.checkSize(f)
}

func (w *worker) write(f *file) error {
	h := w.any(f, placed)
	if h == nil {
		return nil
	}
	off, n := w.span(f)
	data := w.fill(n)
	w.journal.note("pwrite %s at %#x, %d bytes, of %d", f, off, n, len(f.content))
	n, err := unix.Pwrite(h.fd, data, f.base+int64(off))
	return w.wrote(f, off, n, err, data)
}

func (w *worker) appendTo(f *file) error {
	h := w.any(f, func(h *handle) bool { return writable(h) && h.append })
	if h == nil {
		return nil
	}
	data := w.fill(1 + w.rng.IntN(9000))
	off := len(f.content)
	if off+len(data) > maxSize {
		return nil
	}
	w.journal.note("append %d bytes to %s of %d", len(data), f, off)
	n, err := unix.Write(h.fd, data)
	return w.wrote(f, off, n, err, data)
}

// seekAndWrite writes at the descriptor's own position, in pieces.
func (w *worker) seekAndWrite(f *file) error {
	h := w.any(f, placed)
	if h == nil {
		return nil
	}
	off, n := w.span(f)
	whence, by := unix.SEEK_SET, f.base+int64(off)
	if w.rng.IntN(2) == 0 {
		off = min(len(f.content)+w.rng.IntN(3*pageSize), maxSize-n)
		whence, by = unix.SEEK_END, int64(off-len(f.content))
	}
	data := w.fill(n)
	cut := w.rng.IntN(n)
	w.journal.note("lseek %s to %#x by whence %d, writev %d+%d bytes, of %d", f, off, whence, cut, n-cut, len(f.content))
	at, err := unix.Seek(h.fd, by, whence)
	if err != nil || at != f.base+int64(off) {
		return fmt.Errorf("lseek of %s: %d, want %d: %v", f, at, f.base+int64(off), err)
	}
	n, err = unix.Writev(h.fd, [][]byte{data[:cut], data[cut:]})
	return w.wrote(f, off, n, err, data)
}

func (w *worker) read(f *file) error {
	h := w.any(f, readable)
	if h == nil {
		return nil
	}
	off := w.rng.IntN(len(f.content) + pageSize)
	buf := make([]byte, 1+w.rng.IntN(2*maxWrite))
	w.journal.note("pread %s at %#x, %d bytes, of %d", f, off, len(buf), len(f.content))
	return w.readAt(f, "pread", h.fd, off, buf)
}

// readAt reads and compares. A short read before the end of the file is an error.
func (w *worker) readAt(f *file, how string, fd, off int, buf []byte) error {
	n, err := unix.Pread(fd, buf, f.base+int64(off))
	if err != nil {
		return fmt.Errorf("%s of %s at %#x: %w", how, f, off, err)
	}
	if want := max(0, min(len(buf), len(f.content)-off)); n != want {
		return fmt.Errorf("%s of %s at %#x: %d bytes, want %d", how, f, off, n, want)
	}
	if n == 0 {
		return nil
	}
	return w.compare(f, how, off, buf[:n])
}

// aligned returns memory with the alignment that O_DIRECT requires.
func aligned(n int) []byte {
	buf := make([]byte, n+pageSize)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(buf)))) & (pageSize - 1)
	return buf[skip : skip+n : skip+n]
}

// settle writes the data of mappings and buffers, which direct reads and writes do not see.
func (w *worker) settle(f *file) error {
	if err := unix.Fsync(f.handles[0].fd); err != nil {
		return fmt.Errorf("fsync of %s: %w", f, err)
	}
	return nil
}

func (w *worker) directWrite(f *file) error {
	h := w.any(f, func(h *handle) bool { return h.direct && h.flags&unix.O_ACCMODE == unix.O_RDWR })
	if h == nil {
		return nil
	}
	off, n := w.span(f)
	off -= off % pageSize
	n = max(n-n%pageSize, pageSize)
	if off+n > maxSize {
		return nil
	}
	data := aligned(n)
	copy(data, w.fill(n))
	w.journal.note("direct write %s at %#x, %d bytes, of %d", f, off, n, len(f.content))
	if err := w.settle(f); err != nil {
		return err
	}
	n, err := unix.Pwrite(h.fd, data, f.base+int64(off))
	return w.wrote(f, off, n, err, data)
}

func (w *worker) directRead(f *file) error {
	h := w.any(f, func(h *handle) bool { return h.direct && h.flags&unix.O_ACCMODE != unix.O_WRONLY })
	if h == nil || len(f.content) == 0 {
		return nil
	}
	off := w.rng.IntN(len(f.content))
	off -= off % pageSize
	buf := aligned(pageSize * (1 + w.rng.IntN(30)))
	w.journal.note("direct read %s at %#x, %d bytes, of %d", f, off, len(buf), len(f.content))
	if err := w.settle(f); err != nil {
		return err
	}
	return w.readAt(f, "direct read", h.fd, off, buf)
}

func (w *worker) truncate(f *file) error {
	size := w.rng.IntN(maxSize)
	switch w.rng.IntN(4) {
	case 0:
		size = 0
	case 1:
		size -= size % pageSize
	case 2:
		size = min(size, len(f.content))
	}
	h := w.any(f, writable)
	var err error
	if h != nil && (f.path == "" || w.rng.IntN(2) == 0) {
		w.journal.note("ftruncate %s from %d to %d", f, len(f.content), size)
		err = unix.Ftruncate(h.fd, f.base+int64(size))
	} else if f.path != "" {
		w.journal.note("truncate %s from %d to %d", f, len(f.content), size)
		err = unix.Truncate(filepath.Join(w.dir, f.path), f.base+int64(size))
	} else {
		return nil
	}
	if err != nil {
		return fmt.Errorf("truncate %s to %d: %w", f, size, err)
	}
	f.resize(size)
	return w.checkSize(f)
}

// window maps a part of the file that has bytes. The first byte is at off in the model.
func (w *worker) window(f *file, prot int) (h *handle, off int, mem []byte, err error) {
	h = w.any(f, both)
	if h == nil || len(f.content) == 0 {
		return nil, 0, nil, nil
	}
	off = w.rng.IntN(len(f.content))
	off -= off % pageSize
	n := min(len(f.content)-off, 1+w.rng.IntN(maxWrite))
	mem, err = unix.Mmap(h.fd, f.base+int64(off), n, prot, unix.MAP_SHARED)
	if err != nil {
		return nil, 0, nil, fmt.Errorf("mmap of %s at %#x, %d bytes: %w", f, off, n, err)
	}
	return h, off, mem, nil
}

func (w *worker) mapRead(f *file) error {
	h, off, mem, err := w.window(f, unix.PROT_READ)
	if h == nil {
		return err
	}
	defer unix.Munmap(mem)
	w.journal.note("read mapping of %s at %#x, %d bytes, of %d", f, off, len(mem), len(f.content))
	return w.compare(f, "mapping", off, mem)
}

func (w *worker) mapWrite(f *file) error {
	h, off, mem, err := w.window(f, unix.PROT_READ|unix.PROT_WRITE)
	if h == nil {
		return err
	}
	defer unix.Munmap(mem)
	from := w.rng.IntN(len(mem))
	data := w.fill(1 + w.rng.IntN(len(mem)-from))
	how := []int{0, unix.MS_SYNC, unix.MS_ASYNC}[w.rng.IntN(3)]
	w.journal.note("write mapping of %s at %#x, %d bytes, msync %d, of %d", f, off+from, len(data), how, len(f.content))
	copy(mem[from:], data)
	f.set(off+from, data)
	w.total.written.Add(int64(len(data)))
	if how != 0 {
		if err := unix.Msync(mem, how); err != nil {
			return fmt.Errorf("msync of %s: %w", f, err)
		}
	}
	return w.compare(f, "mapping", off, mem)
}

// mapAndWrite writes with the descriptor while the file is mapped; the mapping must show the bytes.
// It also does the reverse.
func (w *worker) mapAndWrite(f *file) error {
	h, off, mem, err := w.window(f, unix.PROT_READ|unix.PROT_WRITE)
	if h == nil {
		return err
	}
	defer unix.Munmap(mem)
	data := w.fill(len(mem))
	cut := w.rng.IntN(len(mem))
	w.journal.note("pwrite %s at %#x, %d bytes, under its mapping, and %d by the mapping, of %d", f, off, cut, len(mem)-cut, len(f.content))
	if n, err := unix.Pwrite(h.fd, data[:cut], f.base+int64(off)); err != nil || n != cut {
		return fmt.Errorf("write to %s: wrote %d of %d bytes: %v", f, n, cut, err)
	}
	f.set(off, data[:cut])
	if err := w.compare(f, "mapping", off, mem); err != nil {
		return err
	}
	copy(mem[cut:], data[cut:])
	f.set(off+cut, data[cut:])
	w.total.written.Add(int64(len(data)))
	return w.readAt(f, "pread", h.fd, off, make([]byte, len(mem)))
}

func (w *worker) sync(f *file) error {
	fd := f.handles[w.rng.IntN(len(f.handles))].fd
	sync, name := unix.Fsync, "fsync"
	if w.rng.IntN(2) == 0 {
		sync, name = unix.Fdatasync, "fdatasync"
	}
	w.journal.note("%s %s", name, f)
	if err := sync(fd); err != nil {
		return fmt.Errorf("%s of %s: %w", name, f, err)
	}
	return nil
}

// drop drops caches, so that the next reads come from the file system.
func (w *worker) drop(f *file) error {
	w.drops++
	all := w.o.drop && w.drops%8 == 0
	w.journal.note("drop what is cached of %s, of all: %v", f, all)
	if err := w.settle(f); err != nil {
		return err
	}
	if err := unix.Fadvise(f.handles[0].fd, 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("fadvise of %s: %w", f, err)
	}
	if !all {
		return nil
	}
	return os.WriteFile("/proc/sys/vm/drop_caches", []byte("3\n"), 0)
}
