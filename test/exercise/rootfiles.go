package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// sparse writes at the limits of offsets of 31 and 32 bits, and checks that the file takes little
// space.
func (s *system) sparse(context.Context) error {
	name := filepath.Join(s.dir, "sparse")
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	pieces := map[int64][]byte{}
	for _, at := range []int64{100, 1<<31 - 5000, 1<<32 - 5000, 1<<33 + 12345} {
		data := make([]byte, 10000)
		for i := range data {
			data[i] = byte(s.rng.Uint32())
		}
		if _, err := f.WriteAt(data, at); err != nil {
			return err
		}
		pieces[at] = data
	}
	if err := f.Close(); err != nil {
		return err
	}
	if f, err = os.OpenFile(name, os.O_RDWR, 0); err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return err
	}
	for at, data := range pieces {
		for _, want := range []struct {
			at   int64
			data []byte
		}{{at, data}, {at - 100, make([]byte, 100)}} {
			got := make([]byte, len(want.data))
			if _, err := f.ReadAt(got, want.at); err != nil {
				return err
			}
			if err := compareBytes("pread of the sparse file", want.at, got, want.data); err != nil {
				return err
			}
		}
	}
	if err := sizes(f, 1<<33+12345+10000, 1<<20); err != nil {
		return err
	}
	if err := f.Truncate(1<<32 + 1); err != nil {
		return err
	}
	if err := sizes(f, 1<<32+1, 1<<20); err != nil {
		return err
	}
	return os.Remove(name)
}

// sizes checks the size of the file, and that it takes at most room bytes on disk.
func sizes(f *os.File, size, room int64) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Size != size || st.Blocks*512 > room {
		return fmt.Errorf("%s has %d bytes and takes %d; want %d, in at most %d", f.Name(), st.Size, st.Blocks*512, size, room)
	}
	return nil
}

// threads makes hundreds of threads make, write, read, rename and remove files of one directory,
// and append to one file.
func (s *system) threads(context.Context) error {
	const rounds = 4
	dir := filepath.Join(s.dir, "threads")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	log := filepath.Join(dir, "log")
	start := make(chan struct{})
	errs := make([]error, s.o.threads)
	var wg sync.WaitGroup
	for i := range s.o.threads {
		wg.Go(func() {
			runtime.LockOSThread()
			<-start // start when all threads exist
			for round := range rounds {
				if errs[i] = oneThread(dir, log, i, round); errs[i] != nil {
					return
				}
			}
		})
	}
	close(start)
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	text, err := os.ReadFile(log)
	if err != nil {
		return err
	}
	if err := os.Remove(log); err != nil {
		return err
	}
	seen := map[string]int{}
	for line := range strings.Lines(string(text)) {
		seen[line]++
	}
	for i := range s.o.threads {
		for round := range rounds {
			if seen[record(i, round)] != 1 {
				return fmt.Errorf("the line of thread %d in round %d is in the log %d times", i, round, seen[record(i, round)])
			}
		}
	}
	if len(seen) != s.o.threads*rounds {
		return fmt.Errorf("the log has %d different lines, want %d", len(seen), s.o.threads*rounds)
	}
	return os.Remove(dir)
}

func record(i, round int) string {
	return fmt.Sprintf("thread %d round %d %s\n", i, round, strings.Repeat("=", i%97))
}

func oneThread(dir, log string, i, round int) error {
	p := filepath.Join(dir, fmt.Sprintf("t%d", i))
	want := bytes.Repeat([]byte{byte(i), byte(i >> 8), byte(round)}, 1000+i)
	if err := os.WriteFile(p, want, 0o600); err != nil {
		return err
	}
	if err := os.Rename(p, p+"-renamed"); err != nil {
		return err
	}
	got, err := os.ReadFile(p + "-renamed")
	if err != nil {
		return err
	}
	if err := compareBytes("thread's file "+p, 0, got, want); err != nil {
		return err
	}
	f, err := os.OpenFile(log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteString(record(i, round)); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Remove(p + "-renamed")
}

// replace replaces a file with new versions, as editors and package managers do, while others read
// it: each reader must see a whole version, and never an older one than before.
func (s *system) replace(context.Context) error {
	const versions, size = 150, 20000
	name := filepath.Join(s.dir, "current")
	put := func(v int) error {
		if err := os.WriteFile(name+".new", bytes.Repeat([]byte{byte(v)}, size), 0o600); err != nil {
			return err
		}
		return os.Rename(name+".new", name)
	}
	if err := put(1); err != nil {
		return err
	}
	done := make(chan struct{})
	errs := make([]error, 4)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			last := byte(0)
			for errs[i] == nil {
				last, errs[i] = readVersion(name, size, last)
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	var err error
	for v := 2; v <= versions && err == nil; v++ {
		err = put(v)
	}
	close(done)
	wg.Wait()
	return errors.Join(append(errs, err)...)
}

func readVersion(name string, size int, last byte) (byte, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	if len(text) != size {
		return 0, fmt.Errorf("a version of %s has %d bytes, want %d", name, len(text), size)
	}
	if v := text[0]; v < last || !bytes.Equal(text, bytes.Repeat([]byte{v}, size)) {
		return 0, fmt.Errorf("a reader of %s saw version %d after %d, or two at once", name, v, last)
	}
	return text[0], nil
}

// pipes sends bytes through a fifo and a socket that have names in the directory.
func (s *system) pipes(context.Context) error {
	fifo := filepath.Join(s.dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		return err
	}
	data := bytes.Repeat([]byte("fifo"), 100_000)
	sent := make(chan error, 1)
	go func() { sent <- os.WriteFile(fifo, data, 0) }()
	got, err := os.ReadFile(fifo)
	if err := errors.Join(err, <-sent); err != nil {
		return err
	}
	if err := compareBytes("data from a fifo", 0, got, data); err != nil {
		return err
	}
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	// The path of a socket has at most 107 bytes.
	name := fmt.Sprintf("/proc/self/fd/%d/socket", d.Fd())
	l, err := net.Listen("unix", name)
	if err != nil {
		return err
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err == nil {
			io.Copy(c, c)
			c.Close()
		}
	}()
	c, err := net.Dial("unix", name)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(data[:1000]); err != nil {
		return err
	}
	got = make([]byte, 1000)
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	return compareBytes("data from a socket", 0, got, data[:1000])
}

// deep makes nested directories until the path has its greatest length, and renames the first.
func (s *system) deep(context.Context) error {
	top := filepath.Join(s.dir, "deep")
	p, word := top, strings.Repeat("d", 30)
	for len(p) < 4000 {
		if err := os.Mkdir(p, 0o700); err != nil {
			return err
		}
		p = filepath.Join(p, word)
	}
	if err := os.WriteFile(p, []byte("bottom"), 0o600); err != nil {
		return err
	}
	if err := os.Rename(top, top+"er"); err != nil {
		return err
	}
	if _, err := os.Stat(p); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the deep file still has its old path: %v", err)
	}
	text, err := os.ReadFile(top + "er" + strings.TrimPrefix(p, top))
	if err == nil && string(text) != "bottom" {
		err = fmt.Errorf("the deep file contains %q", text)
	}
	return err
}

// programs runs programs in the directory, which nobody may write meanwhile.
func (s *system) programs(ctx context.Context) error {
	for program, want := range map[string]int{"true": 0, "false": 1} {
		from, err := exec.LookPath(program)
		if err != nil {
			return err
		}
		to := filepath.Join(s.dir, program)
		if err := command(ctx, "cp", "-L", "--preserve=mode", from, to); err != nil {
			return err
		}
		cmd := exec.CommandContext(ctx, to)
		if err := cmd.Run(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != want {
			return fmt.Errorf("%s: %v, want status %d", to, err, want)
		}
	}
	return nil
}
