package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// pair opens a new file twice.
func pair(dir, name string) (a, b *os.File, err error) {
	if a, err = os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, nil, err
	}
	if b, err = os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0); err != nil {
		a.Close()
		return nil, nil, err
	}
	return a, b, nil
}

// locks takes locks of all three kinds and checks which of them must wait: those of flock(2), and
// those of fcntl(2) that belong to a process and to an open file.
func (s *system) locks(context.Context) error {
	a, b, err := pair(s.dir, "locks")
	if err != nil {
		return err
	}
	defer a.Close()
	defer b.Close()
	flock := func(f *os.File, how int) func() error {
		return func() error { return unix.Flock(int(f.Fd()), how|unix.LOCK_NB) }
	}
	part := func(f *os.File, cmd int, kind int16, start, length int64) func() error {
		return func() error {
			return unix.FcntlFlock(f.Fd(), cmd, &unix.Flock_t{Type: kind, Start: start, Len: length})
		}
	}
	const beyond = 6 << 30
	const ofd, process = unix.F_OFD_SETLK, unix.F_SETLK
	for i, c := range []struct {
		do   func() error
		want error
	}{
		{flock(a, unix.LOCK_EX), nil}, {flock(b, unix.LOCK_EX), unix.EAGAIN}, {flock(b, unix.LOCK_SH), unix.EAGAIN},
		{flock(a, unix.LOCK_SH), nil}, {flock(b, unix.LOCK_SH), nil}, {flock(a, unix.LOCK_EX), unix.EAGAIN},
		{flock(b, unix.LOCK_UN), nil}, {flock(a, unix.LOCK_UN), nil}, {flock(b, unix.LOCK_EX), nil}, {flock(b, unix.LOCK_UN), nil},

		{part(a, ofd, unix.F_WRLCK, 0, 100), nil}, {part(b, ofd, unix.F_WRLCK, 50, 10), unix.EAGAIN}, {part(b, ofd, unix.F_RDLCK, 99, 1), unix.EAGAIN},
		{part(b, ofd, unix.F_WRLCK, 100, 0), nil}, {part(a, ofd, unix.F_RDLCK, beyond, 1), unix.EAGAIN}, {part(a, ofd, unix.F_UNLCK, 0, 60), nil},
		{part(b, ofd, unix.F_WRLCK, 50, 10), nil}, {part(b, ofd, unix.F_UNLCK, 0, 0), nil}, {part(a, ofd, unix.F_UNLCK, 0, 0), nil},

		{part(a, process, unix.F_WRLCK, beyond, 100), nil}, {part(b, ofd, unix.F_WRLCK, beyond+99, 5), unix.EAGAIN},
		{part(b, process, unix.F_WRLCK, beyond, 5), nil}, // of the same process
		{part(a, process, unix.F_UNLCK, 0, 0), nil}, {part(b, ofd, unix.F_WRLCK, beyond, 5), nil},
	} {
		if err := c.do(); !errors.Is(err, c.want) && err != c.want {
			return fmt.Errorf("lock %d: %v, want %v", i, err, c.want)
		}
	}
	return nil
}

// counter makes threads increment a number in a file, each under a lock that it waits for.
func (s *system) counter(context.Context) error {
	const threads, rounds = 20, 20
	name := filepath.Join(s.dir, "counter")
	if err := os.WriteFile(name, []byte("0"), 0o600); err != nil {
		return err
	}
	errs := make([]error, threads)
	var wg sync.WaitGroup
	for i := range threads {
		wg.Go(func() {
			for range rounds {
				if errs[i] = countOne(name, i%2 == 0); errs[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	text, err := os.ReadFile(name)
	if err == nil && string(text) != fmt.Sprint(threads*rounds) {
		err = fmt.Errorf("%d threads counted to %q under locks, want %d", threads, text, threads*rounds)
	}
	return err
}

// countOne increments the number in the file. While the file is rewritten it has no number for a
// moment, which other threads see if the lock does not work.
func countOne(name string, wait bool) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	lock := unix.Flock_t{Type: unix.F_WRLCK}
	for {
		cmd := unix.F_OFD_SETLK
		if wait {
			cmd = unix.F_OFD_SETLKW
		}
		err := unix.FcntlFlock(f.Fd(), cmd, &lock)
		if err == nil {
			break
		}
		if err != unix.EINTR && (wait || err != unix.EAGAIN) {
			return fmt.Errorf("lock %s: %w", name, err)
		}
	}
	buf := make([]byte, 20)
	n, _ := f.ReadAt(buf, 0)
	v, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	if err != nil {
		return fmt.Errorf("the number in %s, under its lock: %w", name, err)
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	if _, err := f.WriteAt([]byte(fmt.Sprint(v+1)), 0); err != nil {
		return err
	}
	return f.Close() // this releases the lock
}
