package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// system is the exercise of the common uses of a root file system.
type system struct {
	o        options
	rng      *rand.Rand
	dir, ref string
}

func runRoot(ctx context.Context, o options, dir, ref string) (summary string, err error) {
	s := &system{o: o, rng: rand.New(rand.NewPCG(o.seed, 0))}
	for i, d := range []*string{&s.dir, &s.ref} {
		work, end, err := workplace([]string{dir, ref}[i], "root")
		if err != nil {
			return "", err
		}
		defer func() { end(&err) }()
		*d = work
	}
	var done []string
	for n, step := range []struct {
		name string
		do   func(ctx context.Context) error
	}{
		{"copies", s.copies}, {"locks", s.locks}, {"counter", s.counter}, {"sparse", s.sparse}, {"threads", s.threads}, {"replace", s.replace},
		{"pipes", s.pipes}, {"deep", s.deep}, {"programs", s.programs},
	} {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		if o.disturb != nil {
			o.disturb(n, s.dir)
		}
		fmt.Fprintln(o.log, "root:", step.name)
		if err := step.do(ctx); err != nil {
			return "", fmt.Errorf("%s in %s: %w", step.name, s.dir, err)
		}
		done = append(done, step.name)
	}
	return fmt.Sprintf("%s, with %d files and %d threads", strings.Join(done, ", "), o.files, o.threads), nil
}

// copies copies a tree with cp and tar to the directory under test, and back with cp.
func (s *system) copies(ctx context.Context) error {
	source := filepath.Join(s.ref, "source")
	if err := s.makeTree(source); err != nil {
		return err
	}
	want, err := scan(source, false, exactly)
	if err != nil {
		return err
	}
	byCp, byTar, back := filepath.Join(s.dir, "cp"), filepath.Join(s.dir, "tar"), filepath.Join(s.ref, "back")
	for _, c := range []struct {
		to   string
		copy func() error
	}{
		{byCp, func() error { return command(ctx, "cp", "-a", source, byCp) }},
		{byTar, func() error { return tar(ctx, source, byTar) }},
		{back, func() error { return command(ctx, "cp", "-a", byTar, back) }},
	} {
		if err := c.copy(); err != nil {
			return err
		}
		if s.o.disturb != nil {
			s.o.disturb(100, c.to)
		}
		got, err := scan(c.to, false, exactly)
		if err != nil {
			return err
		}
		if err := compareScans(got, want); err != nil {
			return fmt.Errorf("%s, a copy of %s: %w", c.to, source, err)
		}
	}
	return nil
}

func exactly(st *unix.Stat_t) string { return fmt.Sprintf("%d.%09d", st.Mtim.Sec, st.Mtim.Nsec) }

func command(ctx context.Context, name string, args ...string) error {
	if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// tar copies with GNU tar, in the format that has times in nanoseconds.
func tar(ctx context.Context, from, to string) error {
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	pack := exec.CommandContext(ctx, "tar", "-C", from, "--format=posix", "--sparse", "-cf", "-", ".")
	unpack := exec.CommandContext(ctx, "tar", "-C", to, "--numeric-owner", "-xpf", "-")
	var errs strings.Builder
	pack.Stderr, unpack.Stderr = &errs, &errs
	pipe, err := pack.StdoutPipe()
	if err != nil {
		return err
	}
	unpack.Stdin = pipe
	if err := pack.Start(); err != nil {
		return err
	}
	err = unpack.Run()
	if packErr := pack.Wait(); err != nil || packErr != nil {
		return fmt.Errorf("tar from %s to %s: %v, %v: %s", from, to, packErr, err, errs.String())
	}
	return nil
}

// makeTree makes files of all kinds, with modes, owners, times and links.
func (s *system) makeTree(root string) error {
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	dirs, files := []string{root}, []string{}
	for i := range s.o.files {
		dir := dirs[s.rng.IntN(len(dirs))]
		p := filepath.Join(dir, fmt.Sprintf("%d%.250s", i, words()[s.rng.IntN(len(words()))]))
		if len(p) > 2000 {
			p = filepath.Join(root, fmt.Sprint(i))
		}
		kind := s.rng.IntN(20)
		switch {
		case kind == 0 && len(files) > 0:
			if err := os.Link(files[s.rng.IntN(len(files))], p); err != nil {
				return err
			}
			continue // its rights are those of the other name
		case kind == 1:
			dirs = append(dirs, p)
		case kind > 4:
			files = append(files, p)
		}
		if err := s.makeFile(p, kind); err != nil {
			return err
		}
	}
	for i := len(dirs) - 1; i >= 0; i-- { // their content is complete by now
		if err := s.setTime(dirs[i]); err != nil {
			return err
		}
	}
	return nil
}

// makeFile makes one file.
func (s *system) makeFile(p string, kind int) error {
	mode := []uint32{0o644, 0o755, 0o600, 0o4755, 0o2755, 0o440, 0o666}[s.rng.IntN(7)]
	var err error
	switch kind {
	case 1:
		mode |= 0o1700
		err = unix.Mkdir(p, mode)
	case 2:
		err = unix.Symlink("../"+filepath.Base(p), p)
	case 3:
		err = unix.Mkfifo(p, mode)
	case 4: // mostly a hole
		err = s.write(p, 3<<20+int64(s.rng.IntN(1<<20)), 5000)
	default:
		err = s.write(p, 0, s.rng.IntN(20000))
	}
	if err != nil {
		return fmt.Errorf("make %s: %w", p, err)
	}
	if os.Geteuid() == 0 {
		if err := unix.Lchown(p, 1000+s.rng.IntN(3), 2000+s.rng.IntN(3)); err != nil {
			return err
		}
	}
	if kind != 2 {
		if err := unix.Chmod(p, mode); err != nil {
			return err
		}
	}
	return s.setTime(p)
}

func (s *system) setTime(p string) error {
	t := unix.Timespec{Sec: s.rng.Int64N(1 << 31), Nsec: s.rng.Int64N(1e9)}
	return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
}

// write makes a file with random bytes at an offset.
func (s *system) write(p string, off int64, n int) error {
	f, err := os.Create(p)
	if err != nil {
		return err
	}
	defer f.Close()
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(s.rng.Uint32())
	}
	if _, err := f.WriteAt(data, off); err != nil {
		return err
	}
	return f.Close()
}
