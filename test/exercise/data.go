package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// These are the sizes of data's files. They are a few pages larger than the default size of an NFS
// request on small machines, so that requests are split and joined.
const (
	maxSize  = 600 << 10
	maxWrite = 96 << 10
	pageSize = 4096
)

// far is the offset of the bytes in the far file. It is beyond 4 GiB, so that offsets need more
// than 32 bits. Everything before it is a hole.
const far = 5<<30 + 4096

// file is a file and its model.
type file struct {
	number  int
	path    string // empty if the file has no name any more
	second  string // another name of the file; empty: none
	silly   int    // names removed while open, which may still exist as .nfsXXXX
	base    int64  // bytes of the hole before the content
	content []byte
	handles []*handle
}

// handle is an open descriptor of a file.
type handle struct {
	fd             int
	flags          int
	append, direct bool
}

// worker runs one sequence of operations on its files.
type worker struct {
	dir     string
	rng     *rand.Rand
	journal *journal
	o       options
	files   []*file
	names   int // number of names given so far
	drops   int
	without map[string]bool // features that the file system lacks
	total   *totals
}

// totals count the work of all workers.
type totals struct {
	ops, written, verified atomic.Int64
	mu                     sync.Mutex
	without                map[string]bool
}

func runData(ctx context.Context, o options, dir, _ string) (summary string, err error) {
	dir, end, err := workplace(dir, "data")
	if err != nil {
		return "", err
	}
	defer end(&err)
	total := &totals{without: map[string]bool{}}
	errs := make([]error, o.workers)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for i := range o.workers {
		w := &worker{
			dir: filepath.Join(dir, fmt.Sprintf("w%d", i)), rng: rand.New(rand.NewPCG(o.seed, uint64(i))), o: o,
			journal: &journal{who: fmt.Sprintf("w%d-", i), log: o.log}, without: map[string]bool{}, total: total,
		}
		wg.Go(func() {
			if errs[i] = w.run(ctx); errs[i] != nil {
				errs[i] = fmt.Errorf("worker %d in %s: %w", i, w.dir, w.journal.failure(errs[i]))
				cancel()
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			return "", err
		}
	}
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	summary = fmt.Sprintf("%d operations of %d workers, %d MiB written, %d MiB verified",
		total.ops.Load(), o.workers, total.written.Load()>>20, total.verified.Load()>>20)
	for what := range total.without {
		summary += ", without " + what
	}
	return summary, nil
}

// action is one kind of operation and its frequency.
type action struct {
	weight int
	do     func(w *worker, f *file) error
}

func actions() []action {
	return []action{
		{20, (*worker).write}, {8, (*worker).appendTo}, {4, (*worker).seekAndWrite}, {3, (*worker).directWrite}, {20, (*worker).read},
		{3, (*worker).directRead}, {6, (*worker).truncate}, {6, (*worker).mapRead}, {8, (*worker).mapWrite}, {4, (*worker).mapAndWrite},
		{4, (*worker).sync}, {8, (*worker).reopen}, {5, (*worker).drop}, {4, (*worker).rename}, {1, (*worker).replace}, {2, (*worker).unlink},
		{2, (*worker).link}, {2, (*worker).punch}, {2, (*worker).copyRange}, {3, (*worker).stat}, {1, (*worker).check},
	}
}

func (w *worker) run(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Join(w.dir, "sub"), 0o755); err != nil {
		return err
	}
	for i, base := range []int64{0, 0, far} {
		f := &file{number: i, base: base}
		if err := w.create(f); err != nil {
			return err
		}
		w.files = append(w.files, f)
	}
	all, sum := actions(), 0
	for _, a := range all {
		sum += a.weight
	}
	for range w.o.ops {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if w.o.disturb != nil {
			w.o.disturb(w.journal.n, w.dir)
		}
		f := w.files[w.rng.IntN(len(w.files))]
		n := w.rng.IntN(sum)
		for _, a := range all {
			if n -= a.weight; n >= 0 {
				continue
			}
			if err := a.do(w, f); err != nil {
				return err
			}
			break
		}
		w.total.ops.Add(1)
	}
	return w.finish()
}

// finish verifies everything, and checks that no files are left.
func (w *worker) finish() error {
	for _, f := range w.files {
		if err := w.check(f); err != nil {
			return err
		}
		w.closeAll(f)
		for _, name := range []string{f.path, f.second} {
			if name == "" {
				continue
			}
			if err := w.checkPath(f, name); err != nil {
				return err
			}
			if err := os.Remove(filepath.Join(w.dir, name)); err != nil {
				return err
			}
		}
	}
	for _, dir := range []string{"sub", ""} {
		if err := os.Remove(filepath.Join(w.dir, dir)); err != nil {
			return fmt.Errorf("all files were closed and removed: %w", err)
		}
	}
	w.total.mu.Lock()
	defer w.total.mu.Unlock()
	for what := range w.without {
		w.total.without[what] = true
	}
	return nil
}

// newName returns a name that no file has or had.
func (w *worker) newName() string {
	w.names++
	name := fmt.Sprintf("f%d", w.names)
	if w.rng.IntN(3) == 0 {
		return filepath.Join("sub", name)
	}
	return name
}

// create makes an empty file with two descriptors.
func (w *worker) create(f *file) error {
	f.path, f.second, f.silly, f.content = w.newName(), "", 0, nil
	w.journal.note("create %s at %d", f.path, f.base)
	fd, err := unix.Open(filepath.Join(w.dir, f.path), unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return fmt.Errorf("create %s: %w", f.path, err)
	}
	f.handles = []*handle{{fd: fd, flags: unix.O_RDWR}}
	if f.base > 0 {
		if err := unix.Ftruncate(fd, f.base); err != nil {
			return fmt.Errorf("truncate %s to %d: %w", f.path, f.base, err)
		}
	}
	return w.open(f, unix.O_RDWR|unix.O_APPEND)
}

// open adds a descriptor.
func (w *worker) open(f *file, flags int) error {
	fd, err := unix.Open(filepath.Join(w.dir, f.path), flags|unix.O_CLOEXEC, 0)
	if err != nil {
		if flags&unix.O_DIRECT != 0 && err == unix.EINVAL {
			w.without["O_DIRECT"] = true
			return nil
		}
		return fmt.Errorf("open %s with flags %#o: %w", f.path, flags, err)
	}
	f.handles = append(f.handles, &handle{fd, flags, flags&unix.O_APPEND != 0, flags&unix.O_DIRECT != 0})
	return nil
}

func (w *worker) closeAll(f *file) {
	for _, h := range f.handles {
		unix.Close(h.fd)
	}
	f.handles = nil
}

// any returns a descriptor that satisfies the condition, or nil.
func (w *worker) any(f *file, ok func(h *handle) bool) *handle {
	first := w.rng.IntN(len(f.handles))
	for i := range f.handles {
		if h := f.handles[(first+i)%len(f.handles)]; ok(h) {
			return h
		}
	}
	return nil
}

func readable(h *handle) bool { return h.flags&unix.O_ACCMODE != unix.O_WRONLY && !h.direct }
func writable(h *handle) bool { return h.flags&unix.O_ACCMODE != unix.O_RDONLY && !h.direct }
func placed(h *handle) bool   { return writable(h) && !h.append }
func both(h *handle) bool     { return readable(h) && placed(h) }

// set changes the model: data is at off, and bytes that were never written are zeros.
func (f *file) set(off int, data []byte) {
	f.resize(max(len(f.content), off+len(data)))
	copy(f.content[off:], data)
}

func (f *file) resize(size int) {
	if size <= len(f.content) {
		f.content = f.content[:size:size] // the bytes after it are forgotten
		return
	}
	f.content = append(f.content, make([]byte, size-len(f.content))...)
}

// compare compares what was read at off with the model.
func (w *worker) compare(f *file, how string, off int, got []byte) error {
	w.total.verified.Add(int64(len(got)))
	return compareBytes(fmt.Sprintf("%s of %s", how, f), f.base+int64(off), got, f.content[off:off+len(got)])
}

func (f *file) String() string {
	if f.path == "" {
		return fmt.Sprintf("the unlinked file %d", f.number)
	}
	return f.path
}

// compareBytes describes the first difference.
func compareBytes(what string, off int64, got, want []byte) error {
	if bytes.Equal(got, want) {
		return nil
	}
	if len(got) != len(want) {
		return fmt.Errorf("%s at %#x: %d bytes, want %d", what, off, len(got), len(want))
	}
	first, last, n := -1, 0, 0
	for i := range got {
		if got[i] != want[i] {
			if first < 0 {
				first = i
			}
			last = i
			n++
		}
	}
	end := min(first+8, len(got))
	return fmt.Errorf("%s at %#x, %d bytes: differs from %#x to %#x in %d bytes; got % x, want % x",
		what, off, len(got), off+int64(first), off+int64(last), n, got[first:end], want[first:end])
}

// checkSize checks the size with a descriptor.
func (w *worker) checkSize(f *file) error {
	var st unix.Stat_t
	if err := unix.Fstat(f.handles[w.rng.IntN(len(f.handles))].fd, &st); err != nil {
		return fmt.Errorf("fstat of %s: %w", f, err)
	}
	if want := f.base + int64(len(f.content)); st.Size != want {
		return fmt.Errorf("%s has %d bytes, want %d", f, st.Size, want)
	}
	return nil
}
