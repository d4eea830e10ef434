package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// listing exercises one directory of many entries.
type listing struct {
	o        options
	rng      *rand.Rand
	dir      string
	step     int
	listings atomic.Int64
	names    []string
}

// runReaddir checks the rules of POSIX for readdir: an entry that exists all the time is returned
// once, whatever happens to the others meanwhile; a removed entry is returned once or not at all.
func runReaddir(ctx context.Context, o options, dir, _ string) (summary string, err error) {
	dir, end, err := workplace(dir, "readdir")
	if err != nil {
		return "", err
	}
	defer end(&err)
	l := &listing{o: o, rng: rand.New(rand.NewPCG(o.seed, 0)), dir: dir}
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"make", l.make}, {"list", l.list}, {"seek", l.seek}, {"delete while reading", l.deleteWhileReading},
		{"change while reading", func() error { return l.changeWhileReading(ctx) }}, {"delete what was read", l.deleteWhatWasRead},
	} {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if o.disturb != nil {
			o.disturb(l.step, dir)
		}
		l.step++
		fmt.Fprintln(o.log, "readdir:", step.name)
		if err := step.do(); err != nil {
			return "", fmt.Errorf("%s in %s: %w", step.name, dir, err)
		}
	}
	return fmt.Sprintf("%d entries listed %d times", o.files, l.listings.Load()), nil
}

// make fills the directory with files, links and directories whose names have all lengths.
func (l *listing) make() error {
	for i := range l.o.files {
		name := fmt.Sprintf("%05d", i)
		if l.rng.IntN(3) == 0 {
			name += strings.Repeat("\xffn", l.rng.IntN(125))
		}
		p := filepath.Join(l.dir, name)
		var err error
		switch i % 10 {
		case 0:
			err = unix.Symlink("target", p)
		case 1:
			err = unix.Mkdir(p, 0o700)
		default:
			err = os.WriteFile(p, nil, 0o600)
		}
		if err != nil {
			return err
		}
		l.names = append(l.names, name)
	}
	return nil
}

func (l *listing) open() (int, error) {
	l.listings.Add(1)
	return unix.Open(l.dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// rest reads to the end and counts the names in seen.
func rest(fd int, buf []byte, seen map[string]int) error {
	for {
		some, err := readSome(fd, buf)
		if err != nil || len(some) == 0 {
			return err
		}
		for _, e := range some {
			seen[e.name]++
		}
	}
}

// expect checks the counts: each name of must exactly once, and each name of may at most once.
func expect(seen map[string]int, must []string, may map[string]bool) error {
	must = append([]string{".", ".."}, must...)
	for _, name := range must {
		if seen[name] != 1 {
			return fmt.Errorf("%s was listed %d times, want once", short(name), seen[name])
		}
		delete(seen, name)
	}
	for name, n := range seen {
		if !may[name] || n > 1 {
			return fmt.Errorf("%s was listed %d times; exists: %v", short(name), n, may[name])
		}
	}
	return nil
}

// read lists the directory with a buffer of that size, and counts the names.
func (l *listing) read(size int) (map[string]int, error) {
	fd, err := l.open()
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	seen := map[string]int{}
	return seen, rest(fd, make([]byte, size), seen)
}

// list lists with buffers of several sizes, and compares inodes and types.
func (l *listing) list() error {
	for _, size := range []int{300, 1 << 10, 32 << 10, 1 << 20} {
		seen, err := l.read(size)
		if err != nil {
			return err
		}
		if err := expect(seen, l.names, nil); err != nil {
			return fmt.Errorf("with a buffer of %d bytes: %w", size, err)
		}
	}
	fd, err := l.open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	all, err := readAll(fd)
	if err != nil {
		return err
	}
	if text := summarize(fd, all); strings.Contains(text, "is listed as") {
		return fmt.Errorf("inodes or types are wrong: %s", text)
	}
	return nil
}

// seek seeks to positions that readdir returned, in any order.
func (l *listing) seek() error {
	fd, err := l.open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	all, err := readAll(fd)
	if err != nil {
		return err
	}
	buf := make([]byte, 4<<10)
	for range 100 {
		i := l.rng.IntN(len(all) - 1)
		if _, err := unix.Seek(fd, all[i].next, unix.SEEK_SET); err != nil {
			return fmt.Errorf("lseek to %#x, after %s: %w", all[i].next, short(all[i].name), err)
		}
		some, err := readSome(fd, buf)
		if err != nil || len(some) == 0 || some[0].name != all[i+1].name {
			return fmt.Errorf("after lseek to the position after %s, there are %d entries of %v (%v); want %s first",
				short(all[i].name), len(some), some[:min(1, len(some))], err, short(all[i+1].name))
		}
	}
	return nil
}

// remove removes an entry of any type.
func (l *listing) remove(name string) error { return os.Remove(filepath.Join(l.dir, name)) }

// deleteWhileReading deletes entries that were read and entries that were not read yet, in the
// middle of reading.
func (l *listing) deleteWhileReading() error {
	fd, err := l.open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	seen, buf := map[string]int{}, make([]byte, 2<<10)
	for len(seen) < len(l.names)/4 {
		some, err := readSome(fd, buf)
		if err != nil || len(some) == 0 {
			return fmt.Errorf("reading ended after %d entries: %v", len(seen), err)
		}
		for _, e := range some {
			seen[e.name]++
		}
	}
	var stay []string
	gone := map[string]bool{}
	for _, name := range l.names {
		if l.rng.IntN(2) == 0 {
			stay = append(stay, name)
			continue
		}
		if err := l.remove(name); err != nil {
			return err
		}
		gone[name] = true
	}
	l.names = stay
	if err := rest(fd, buf, seen); err != nil {
		return err
	}
	if err := expect(seen, stay, gone); err != nil {
		return err
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
		return err
	}
	seen = map[string]int{}
	if err := rest(fd, buf, seen); err != nil {
		return err
	}
	return expect(seen, stay, nil)
}

// changeWhileReading lists the directory while others make, rename and delete other names.
func (l *listing) changeWhileReading(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	errs := make(chan error, 4)
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				p := filepath.Join(l.dir, fmt.Sprintf("other%d-%d", i, n))
				err := os.WriteFile(p, nil, 0o600)
				if err == nil {
					err = os.Rename(p, p+"-renamed")
				}
				if err == nil {
					err = os.Remove(p + "-renamed")
				}
				if err != nil {
					errs <- err
					return
				}
				runtime.Gosched()
			}
		})
	}
	err := l.listUnderChange()
	cancel()
	wg.Wait()
	close(errs)
	if other := <-errs; other != nil {
		return other
	}
	return err
}

func (l *listing) listUnderChange() error {
	for range 10 {
		seen, err := l.read(3 << 10)
		if err != nil {
			return err
		}
		for name := range seen {
			if strings.HasPrefix(name, "other") {
				delete(seen, name) // the other thread makes and removes it
			}
		}
		if err := expect(seen, l.names, nil); err != nil {
			return err
		}
	}
	return nil
}

// deleteWhatWasRead empties the directory as rm -r does: no entry may be skipped.
func (l *listing) deleteWhatWasRead() error {
	fd, err := l.open()
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	n, buf := 0, make([]byte, 8<<10)
	for {
		some, err := readSome(fd, buf)
		if err != nil {
			return err
		}
		if len(some) == 0 {
			break
		}
		for _, e := range some {
			if e.name == "." || e.name == ".." {
				continue
			}
			if err := l.remove(e.name); err != nil {
				return err
			}
			n++
		}
	}
	if n != len(l.names) {
		return fmt.Errorf("%d of %d entries were listed and deleted, the others were skipped", n, len(l.names))
	}
	return nil
}
