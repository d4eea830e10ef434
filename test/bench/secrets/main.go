// Command secrets measures the search for secrets in a tree of many files, beside find(1), which
// only lists them, and grep(1), which searches all of their bytes for a few of the forms.
//
//	go run ./test/bench/secrets -files 100000
//
// The sizes are about those of an installed system: most files are small texts, some are programs.
// The tree is in the page cache. It is not a test: nothing fails when a figure is bad.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"netroot/internal/secrets"
	"netroot/internal/term"
)

func main() {
	files := flag.Int("files", 100_000, "files in the tree")
	rounds := flag.Int("rounds", 5, "rounds; the median is printed")
	flag.Parse()
	if err := run(context.Background(), *files, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "benchmark of secrets:", err)
		os.Exit(1)
	}
}

// found is how many secrets the tree has.
const found = 3

func run(ctx context.Context, files, rounds int) error {
	tree, err := os.MkdirTemp("", "netroot-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	size, err := fill(tree, files)
	if err != nil {
		return err
	}
	measures := []struct {
		name string
		run  func() error
	}{
		{"netroot", func() error {
			list, err := secrets.Scan(ctx, tree, nil)
			if err == nil && len(list) != found {
				err = fmt.Errorf("%d findings, want %d", len(list), found)
			}
			return err
		}},
		{"find -type f", func() error { return quiet(exec.CommandContext(ctx, "find", tree, "-type", "f")) }},
		{"grep -rIE", func() error {
			return quiet(exec.CommandContext(ctx, "grep", "-rIlE", "-e", "-----BEGIN .*PRIVATE KEY|gh[pousr]_[A-Za-z0-9]{36}|AKIA[A-Z2-7]{16}", tree))
		}},
	}
	took, cpu := make([][]time.Duration, len(measures)), make([][]time.Duration, len(measures))
	for range rounds {
		for i, m := range measures {
			started, before := time.Now(), processor()
			if err := m.run(); err != nil {
				return fmt.Errorf("%s: %w", m.name, err)
			}
			took[i], cpu[i] = append(took[i], time.Since(started)), append(cpu[i], processor()-before)
		}
	}
	rows := [][]string{{"PROGRAM", "MEDIAN", "BEST", "CPU", "FILES A SECOND"}}
	for i, m := range measures {
		slices.Sort(took[i])
		slices.Sort(cpu[i])
		median := took[i][len(took[i])/2]
		rows = append(rows, []string{m.name, median.Round(time.Millisecond).String(), took[i][0].Round(time.Millisecond).String(),
			cpu[i][len(cpu[i])/2].Round(time.Millisecond).String(),
			fmt.Sprintf("%.0f", float64(files)/median.Seconds())})
	}
	fmt.Printf("%d files, %s\n", files, term.Size(size))
	return term.Table(os.Stdout, rows)
}

// processor is the processor time of this process and of the commands that have ended. It is what a
// busy machine changes least.
func processor() time.Duration {
	var total int64
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if syscall.Getrusage(who, &u) == nil {
			total += u.Utime.Nano() + u.Stime.Nano()
		}
	}
	return time.Duration(total)
}

// quiet runs a command without its output. grep ends with 1 when it finds nothing.
func quiet(cmd *exec.Cmd) error {
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 1 {
		return nil
	}
	return err
}

// fill makes the tree and returns its bytes. The secrets are put together here, and belong to
// nobody.
func fill(tree string, files int) (size int64, err error) {
	r := rand.New(rand.NewPCG(1, 2))
	text := bytes.Repeat([]byte("The quick brown fox jumps over the lazy dog; getopt(3) says -g. key = value\n"), 4096)
	program := append([]byte("\x7fELF\x02\x01\x01\x00"), text...)
	dirs := []string{"etc", "usr/bin", "usr/lib/modules/6.1/kernel", "usr/lib/python3/dist-packages", "usr/share/doc", "opt/app/share", "var/lib/dpkg/info"}
	ends := []string{"", ".conf", ".py", ".so", ".ko", ".h", ".txt", ".list", ".pem", ".json"}
	put := func(name string, content []byte) error {
		name = filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		size += int64(len(content))
		return os.WriteFile(name, content, 0o644)
	}
	for i := range files - found {
		n := int(512 * (1 + r.ExpFloat64()*6)) // a median of 2.6 KiB
		if r.IntN(50) == 0 {
			n *= 20
		}
		from := text
		if r.IntN(3) == 0 {
			from = program
		}
		name := fmt.Sprintf("%s/d%d/f%d%s", dirs[r.IntN(len(dirs))], r.IntN(200), i, ends[r.IntN(len(ends))])
		if err := put(name, from[:min(n, len(from))]); err != nil {
			return 0, err
		}
	}
	token := "gh" + "p_" + "0aZ9bY8cX7dW6eV5fU4gT3hS2iR1jQ0kP9lO"
	return size, errors.Join(
		put("etc/munge/munge.key", []byte("made up")),
		put("srv/deploy.sh", []byte("#!/bin/sh\nTOKEN="+token+"\n")),
		put("opt/slurm/etc/slurmdbd.conf", []byte("StoragePass=made-up\n")))
}
