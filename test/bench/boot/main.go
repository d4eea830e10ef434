// Command boot measures what a node costs before its login: the size of its
// initramfs and the time to make it, the time from the kernel's first process to
// the switch to the root, and the bytes it reads of the packed root. Beside the
// initramfs stands dracut's of the same kernel, where dracut is installed, and
// beside the bytes the whole image, which a root in memory would cost.
//
// It is not a test: nothing fails when a figure is bad. It boots an image that
// "netroot build" made.
//
//	go run ./test/bench/boot -netroot bin/netroot -state /var/lib/netroot -label debian12
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"netroot/internal/initramfs"
	"netroot/internal/kernel"
	"netroot/internal/store"
	"netroot/internal/term"
)

type bench struct {
	netroot, init, state, label string
	boots                       int
}

func main() {
	var b bench
	flag.StringVar(&b.netroot, "netroot", "bin/netroot", "the program")
	flag.StringVar(&b.init, "init", "bin/netroot-init", "the node's init")
	flag.StringVar(&b.state, "state", "/var/lib/netroot", "state directory")
	flag.StringVar(&b.label, "label", "debian12", "label to boot")
	flag.IntVar(&b.boots, "boots", 3, "boots; the median is printed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := b.run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "boot benchmark:", err)
		os.Exit(1)
	}
}

func (b bench) run(ctx context.Context) error {
	s, err := store.Open(filepath.Join(b.state, "images"))
	if err != nil {
		return err
	}
	im, err := s.Resolve(b.label)
	if err != nil {
		return fmt.Errorf("%w: run \"netroot build %s\" first", err, b.label)
	}
	if err := b.generator(ctx); err != nil {
		return err
	}
	root, ok, err := im.Blob(store.RoleRoot)
	if err != nil || !ok {
		return errors.Join(err, errors.New("the image has no root"))
	}
	defer root.Close()
	return b.boot(ctx, root.Size())
}

// generator measures the initramfs: ours, and dracut's of the same kernel.
func (b bench) generator(ctx context.Context) error {
	tree := filepath.Join(b.state, "trees", b.label)
	k, err := kernel.Find(tree, "")
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "netroot-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	started := time.Now()
	parts, err := initramfs.Generate(ctx, initramfs.Options{Tree: tree, Kernel: k, Init: b.init, OutDir: dir})
	if err != nil {
		return err
	}
	took := time.Since(started)
	rows := [][]string{{"INITRAMFS of " + k.Release, "SIZE", "MADE IN", "RATIO"}}
	var sum int64
	for _, p := range parts {
		sum += p.Size
		rows = append(rows, []string{"netroot, up to " + p.Name, term.Size(sum), term.Duration(took), "1"})
	}
	if row := dracut(ctx, tree, k, dir, sum, took); row != nil {
		rows = append(rows, row)
	}
	return term.Table(os.Stdout, rows)
}

// dracut makes an initramfs of the tree's kernel with this machine's programs.
func dracut(ctx context.Context, tree string, k *kernel.Kernel, dir string, ours int64, took time.Duration) []string {
	path, err := exec.LookPath("dracut")
	if err != nil {
		return []string{"dracut", "not installed", "", ""}
	}
	out := filepath.Join(dir, "dracut.img")
	started := time.Now()
	text, err := exec.CommandContext(ctx, path, "--force", "--no-hostonly", "--zstd", "--kver", k.Release,
		"--kmoddir", filepath.Join(tree, k.ModuleDir), "--fwdir", filepath.Join(tree, "lib/firmware"), out).CombinedOutput()
	spent := time.Since(started)
	info, serr := os.Stat(out)
	if serr != nil {
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		return []string{"dracut", fmt.Sprintf("failed: %v: %s", err, lines[len(lines)-1]), "", ""}
	}
	return []string{"dracut, not host-only", term.Size(info.Size()), term.Duration(spent),
		fmt.Sprintf("%.1f times the size, %.0f times the time", float64(info.Size())/float64(ours), spent.Seconds()/took.Seconds())}
}

// times of one boot, in seconds since the kernel started, and what it read.
type times struct {
	init, switched, login float64
	read                  int64
}

func (b bench) boot(ctx context.Context, size int64) error {
	var all []times
	for i := range b.boots {
		fmt.Fprintf(os.Stderr, "boot %d of %d\n", i+1, b.boots)
		t, err := b.once(ctx)
		if err != nil {
			return err
		}
		all = append(all, t)
	}
	median := func(of func(times) float64) float64 {
		var v []float64
		for _, t := range all {
			v = append(v, of(t))
		}
		slices.Sort(v)
		return v[len(v)/2]
	}
	read := median(func(t times) float64 { return float64(t.read) })
	rows := [][]string{
		{"BOOT of " + b.label, "MEDIAN OF " + strconv.Itoa(b.boots), "BESIDE"},
		{"kernel to \"Run /init\"", seconds(median(func(t times) float64 { return t.init })), ""},
		{"\"Run /init\" to switch root", seconds(median(func(t times) float64 { return t.switched - t.init })), ""},
		{"kernel to ssh login", seconds(median(func(t times) float64 { return t.login })), ""},
		{"read of the root until login", term.Size(int64(read)), fmt.Sprintf("%.1f %% of the image's %s", 100*read/float64(size), term.Size(size))},
	}
	fmt.Println()
	return term.Table(os.Stdout, rows)
}

func seconds(s float64) string { return fmt.Sprintf("%.2f s", s) }

var stamp = regexp.MustCompile(`\[ *([0-9]+\.[0-9]+)\] (Run /init as init process|netroot: switch: )`)

func (b bench) once(ctx context.Context) (times, error) {
	dir, err := os.MkdirTemp("", "netroot-bench-")
	if err != nil {
		return times{}, err
	}
	defer os.RemoveAll(dir)
	serial := filepath.Join(dir, "console.log")
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, b.netroot, "--state", b.state, "vm", b.label, "--transport", "nbd", "--ssh-port", "0", "--serial", serial,
		"--run", "cat /proc/uptime /sys/block/nbd0/stat")
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return times{}, fmt.Errorf("%w: %s", err, errs.String())
	}
	var t times
	f := strings.Fields(out.String()) // uptime, idle time, reads, merges, sectors read (Documentation/block/stat.rst)
	if len(f) < 5 {
		return times{}, fmt.Errorf("the node said %q", out.String())
	}
	t.login, _ = strconv.ParseFloat(f[0], 64)
	sectors, _ := strconv.ParseInt(f[4], 10, 64)
	t.read = sectors * 512
	console, err := os.ReadFile(serial)
	if err != nil {
		return times{}, err
	}
	for _, m := range stamp.FindAllSubmatch(console, -1) {
		at, _ := strconv.ParseFloat(string(m[1]), 64)
		if bytes.HasPrefix(m[2], []byte("Run")) {
			t.init = at
		} else {
			t.switched = at
		}
	}
	return t, nil
}
