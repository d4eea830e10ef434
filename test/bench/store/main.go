// Command store measures a store of many images: how long a command and a server take to resolve a
// label, how long a list takes, and the memory of a process that knows all images. With -old it
// makes the same store with an earlier revision of netroot, measures that, and prints the ratio.
// Times are of the processor; nothing waits for the disk.
//
// It is not a test: nothing fails when a figure is bad. The stores are made in memory (/dev/shm),
// because making them waits for the disk thousands of times.
//
//	go run ./test/bench/store -old 02da570
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/store"
	"netroot/internal/term"
)

type bench struct {
	versions, packages int
	old, dir           string
}

func main() {
	var b bench
	flag.IntVar(&b.versions, "versions", 1000, "versions in the store")
	flag.IntVar(&b.packages, "packages", 700, "packages of each")
	flag.StringVar(&b.old, "old", "", "revision to compare with")
	flag.StringVar(&b.dir, "dir", "/dev/shm", "directory for the stores, about 1 MiB for ten versions")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "store benchmark:", err)
		os.Exit(1)
	}
}

// measures are the probe's.
type measures struct {
	First, Next, List int64
	Images            int
	Resident          int64
}

const probe = "test/bench/store/probe"

func (b bench) run(ctx context.Context) error {
	work, err := os.MkdirTemp(b.dir, "netroot-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	ours, err := b.measure(ctx, ".", filepath.Join(work, "new"))
	if err != nil {
		return err
	}
	index, err := listTime(filepath.Join(work, "new", "images"))
	if err != nil {
		return err
	}
	var theirs *measures
	if b.old != "" {
		if theirs, err = b.measureOld(ctx, work); err != nil {
			return err
		}
	}
	rows := [][]string{{fmt.Sprintf("%d VERSIONS, %d PACKAGES", ours.Images, b.packages), "HERE", "BEFORE", "RATIO"}}
	add := func(name string, here, before int64, text func(int64) string) {
		row := []string{name, text(here), "", ""}
		if theirs != nil {
			row[2], row[3] = text(before), fmt.Sprintf("%.1f", float64(before)/float64(here))
		}
		rows = append(rows, row)
	}
	before := measures{}
	if theirs != nil {
		before = *theirs
	}
	add("resolve a label, a new process", ours.First, before.First, duration)
	add("resolve a label, a server", ours.Next, before.Next, duration)
	add("list from the index", index, before.List, duration)
	add("list of whole images", ours.List, before.List, duration)
	add("memory of the process", ours.Resident, before.Resident, term.Size)
	return term.Table(os.Stdout, rows)
}

func duration(ns int64) string { return time.Duration(ns).Round(time.Microsecond / 10).String() }

// measureOld does the same with the sources of an earlier revision.
func (b bench) measureOld(ctx context.Context, work string) (*measures, error) {
	tree := filepath.Join(work, "old-tree")
	if err := command(ctx, ".", "git", "worktree", "add", "--detach", tree, b.old).Run(); err != nil {
		return nil, fmt.Errorf("git worktree add %s: %w", b.old, err)
	}
	defer command(context.WithoutCancel(ctx), ".", "git", "worktree", "remove", "--force", tree).Run()
	source, err := os.ReadFile(filepath.Join(probe, "main.go"))
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(tree, probe), 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(tree, probe, "main.go"), source, 0o644); err != nil {
		return nil, err
	}
	return b.measure(ctx, tree, filepath.Join(work, "old"))
}

// measure builds the probe of a tree, makes a store with it and measures that in another process.
func (b bench) measure(ctx context.Context, tree, work string) (*measures, error) {
	program, images := filepath.Join(work, "probe"), filepath.Join(work, "images")
	if err := command(ctx, tree, "go", "build", "-o", program, "./"+probe).Run(); err != nil {
		return nil, fmt.Errorf("build the probe: %w", err)
	}
	if err := command(ctx, ".", program, "make", images, strconv.Itoa(b.versions), strconv.Itoa(b.packages)).Run(); err != nil {
		return nil, fmt.Errorf("make a store: %w", err)
	}
	c := command(ctx, ".", program, "measure", images)
	c.Stdout = nil
	out, err := c.Output()
	if err != nil {
		return nil, fmt.Errorf("measure: %w", err)
	}
	m := new(measures)
	return m, json.Unmarshal(out, m)
}

func command(ctx context.Context, dir, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.Dir, c.Stderr, c.Stdout = dir, os.Stderr, os.Stderr
	return c
}

// listTime is the processor time of the list of a new process, as "netroot image ls" makes it, in
// nanoseconds.
func listTime(dir string) (int64, error) {
	var all []int64
	for range 21 {
		var before, after unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &before); err != nil {
			return 0, err
		}
		s, err := store.Open(dir)
		if err == nil {
			_, err = s.Versions()
		}
		if err != nil {
			return 0, err
		}
		if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &after); err != nil {
			return 0, err
		}
		all = append(all, after.Nano()-before.Nano())
	}
	slices.Sort(all)
	return all[len(all)/2], nil
}
