// Command build compares the time of a build with the time of the tools that it uses, in the same
// rounds, because figures from different times on a shared machine cannot be compared: the
// bootstrap of a debootstrap recipe with mmdebstrap alone and the same packages, packing with
// mksquashfs alone and the same options, and a build with a changed last line of %post with a build
// from nothing.
//
// It is not a test: it does not fail if a figure is bad. It requires root, a mirror that the host's
// apt uses, and a few GiB in -dir. Every round begins with an empty state directory, so that
// nothing is in the cache.
//
//	go run ./test/bench/build -netroot bin/netroot -recipe recipes/debian.def -rounds 3
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"netroot/internal/build"
	"netroot/internal/recipe"
	"netroot/internal/term"
)

type bench struct {
	netroot, dir string
	recipe       *recipe.Recipe
	text         string
	took         map[string][]time.Duration // by measure, one for each round
}

func main() {
	netroot := flag.String("netroot", "bin/netroot", "the program")
	file := flag.String("recipe", "recipes/debian.def", "a debootstrap recipe of one stage, with a %pre and a %post")
	dir := flag.String("dir", "", "working directory (default: the directory for temporary files)")
	rounds := flag.Int("rounds", 3, "rounds; the medians are printed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *netroot, *file, *dir, *rounds)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "build benchmark:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, netroot, file, dir string, rounds int) (err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	b := bench{text: string(text), took: map[string][]time.Duration{}}
	if b.netroot, err = filepath.Abs(netroot); err != nil {
		return err
	}
	if b.recipe, err = recipe.Parse(file, text, recipe.Options{}); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp(dir, "netroot-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	for i := range rounds {
		if err := b.round(ctx, i); err != nil {
			return fmt.Errorf("round %d: %w", i+1, err)
		}
	}
	return b.print(rounds)
}

// measures are in the order of the table: ours, and the tool's.
var measures = []struct{ what, ours, peer, goal string }{
	{"bootstrap beside mmdebstrap alone", "bootstrap", "mmdebstrap", "at most 1.1"},
	{"pack beside mksquashfs alone", "pack", "mksquashfs", "at most 1.1"},
	{"changed %post beside from nothing", "again", "first", "at most 0.2"},
}

// round runs everything once, with the tools alternately before and after ours.
func (b *bench) round(ctx context.Context, i int) error {
	state := filepath.Join(b.dir, "state")
	tree := filepath.Join(state, "trees/bench")
	peer := func() error { return b.mmdebstrap(ctx) }
	first := func() error { return b.build(ctx, state, b.text, "first") }
	if i%2 == 1 {
		peer, first = first, peer
	}
	steps := []func() error{
		peer, first,
		func() error { return b.build(ctx, state, b.changed(i), "again") },
		func() error { return b.mksquashfs(ctx, tree) },
		func() error { return os.RemoveAll(state) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// changed returns the recipe with another last line of %post.
func (b *bench) changed(i int) string {
	post := b.recipe.Stages[0].Post.Body
	return strings.Replace(b.text, post, post+fmt.Sprintf("    echo %d > /etc/changed\n", i), 1)
}

// build builds with netroot and records the times: the total as measure and, for a build from
// nothing, the parts that have a tool to compare with.
func (b *bench) build(ctx context.Context, state, text, measure string) error {
	file := filepath.Join(b.dir, "bench.def")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, b.netroot, "--state", state, "build", "--json", file)
	cmd.Dir, cmd.Stderr = b.dir, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("netroot build: %w", err)
	}
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	var r build.Result
	if err := json.Unmarshal(lines[len(lines)-1], &r); err != nil {
		return fmt.Errorf("parse the output of netroot build: %w", err)
	}
	b.note(measure, r.Took)
	for _, p := range r.Phases {
		if p.Name == "pack" || measure == "first" && p.Name == "bootstrap" {
			b.note(p.Name, p.Took)
		}
		fmt.Fprintf(os.Stderr, "%s %s, ", p.Name, term.Duration(p.Took))
	}
	fmt.Fprintf(os.Stderr, "together %s\n", term.Duration(r.Took))
	return nil
}

// mmdebstrap installs the same packages. dpkg leaves out what the recipe's %pre says.
func (b *bench) mmdebstrap(ctx context.Context) error {
	st := b.recipe.Stages[0]
	suite, _ := st.Header.Get("OSVersion")
	include, _ := st.Header.Get("Include")
	tree, pre := filepath.Join(b.dir, "peer"), filepath.Join(b.dir, "pre")
	defer os.RemoveAll(tree)
	script := ""
	if st.Pre != nil {
		script = "export APPTAINER_ROOTFS=\"$1\" SINGULARITY_ROOTFS=\"$1\"\n" + st.Pre.Body
	}
	if err := os.WriteFile(pre, []byte("#!/bin/sh -e\n"+script), 0o755); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "mmdebstrap", "--quiet", "--mode=root", "--format=directory", "--variant=minbase",
		"--setup-hook="+pre, "--include="+strings.Join(strings.Fields(include), ","), suite, tree)
	return b.peer(cmd, "mmdebstrap")
}

// mksquashfs packs the tree with the options of package pack.
func (b *bench) mksquashfs(ctx context.Context, tree string) error {
	out := filepath.Join(b.dir, "peer.squashfs")
	defer os.Remove(out)
	cmd := exec.CommandContext(ctx, "mksquashfs", tree, out, "-comp", "zstd", "-Xcompression-level", "6", "-b", "131072", "-no-fragments", "-xattrs",
		"-noappend", "-no-recovery", "-quiet", "-no-progress", "-wildcards", "-e", "proc/*", "sys/*", "dev/*", "run/*", "tmp/*")
	return b.peer(cmd, "mksquashfs")
}

func (b *bench) peer(cmd *exec.Cmd, name string) error {
	cmd.Stderr = os.Stderr
	started := time.Now()
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	b.note(name, time.Since(started))
	fmt.Fprintf(os.Stderr, "%s alone %s\n", name, term.Duration(time.Since(started)))
	return nil
}

func (b *bench) note(name string, took time.Duration) { b.took[name] = append(b.took[name], took) }

func (b *bench) print(rounds int) error {
	fmt.Printf("%d rounds, medians\n", rounds)
	rows := [][]string{{"", "NETROOT", "PEER", "RATIO", "GOAL"}}
	for _, m := range measures {
		ours, peer := median(b.took[m.ours]), median(b.took[m.peer])
		rows = append(rows, []string{
			m.what, term.Duration(ours), term.Duration(peer), fmt.Sprintf("%.2f", ours.Seconds()/peer.Seconds()), m.goal,
		})
	}
	return term.Table(os.Stdout, rows)
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}
