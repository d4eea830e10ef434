// Command boot measures what a node needs before its login: the size of its initramfs and the time
// to make it, the time from the kernel's first process to the switch to the root, and the bytes
// that it reads of the packed root. It compares the initramfs with dracut's for the same kernel, if
// dracut is installed, and the bytes with the whole image, which a root in memory would read.
//
// Then it boots the same image over all transports (-transports), and the same tree in all formats
// in which the store has it (-packs), and prints a table of each. All but the last table use the
// first of the formats.
//
// It is not a test: it does not fail if a figure is bad. It boots images that "netroot build" made.
//
//	go run ./test/bench/boot -netroot bin/netroot -state /var/lib/netroot -label debian12
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"netroot/internal/initramfs"
	"netroot/internal/kernel"
	"netroot/internal/store"
	"netroot/internal/term"
)

type bench struct {
	netroot, init, state, label string
	transports, packs           []string
	boots                       int
}

func main() {
	var b bench
	flag.StringVar(&b.netroot, "netroot", "bin/netroot", "the program")
	flag.StringVar(&b.init, "init", "bin/netroot-init", "the node's init")
	flag.StringVar(&b.state, "state", "/var/lib/netroot", "state directory")
	flag.StringVar(&b.label, "label", "debian12", "label to boot")
	flag.IntVar(&b.boots, "boots", 3, "boots of each kind; medians are printed")
	transports := flag.String("transports", "", "transports to compare, with commas (default: all that the image's kernel has)")
	packs := flag.String("packs", "squashfs,erofs,erofs-uncompressed", "formats to compare, with commas")
	flag.Parse()
	b.transports, b.packs = words(*transports), words(*packs)
	if len(b.packs) == 0 {
		fmt.Fprintln(os.Stderr, "boot benchmark: -packs names no format")
		os.Exit(2)
	}
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
	images, err := s.List()
	if err != nil {
		return err
	}
	im := b.packed(images, b.packs[0])
	if im == nil {
		return fmt.Errorf("no image of %s is packed as %s: run \"netroot build %[1]s --pack %[2]s\"", b.label, b.packs[0])
	}
	if err := b.generator(ctx); err != nil {
		return err
	}
	size, err := rootSize(im)
	if err != nil {
		return err
	}
	if err := b.boot(ctx, size); err != nil {
		return err
	}
	if len(b.transports) == 0 {
		for _, t := range im.Config.Transports {
			b.transports = append(b.transports, string(t))
		}
	}
	if err := b.byTransport(ctx); err != nil {
		return err
	}
	return b.byPack(ctx, images)
}

func words(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

func rootSize(im *store.Image) (int64, error) {
	root, ok, err := im.Blob(store.RoleRoot)
	if err != nil || !ok {
		return 0, errors.Join(err, fmt.Errorf("image %s has no root", im.Name()))
	}
	defer root.Close()
	return root.Size(), nil
}

// generator measures the initramfs: ours, and dracut's for the same kernel.
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

// dracut makes an initramfs for the tree's kernel with this machine's programs.
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
