// Command sparse compares the time of a build with that of the same build with a sparse file of 20
// GiB in %files, in the same rounds. The file holds 48 KiB of data, at its beginning, in its middle and
// at its end.
//
// It is not a test: it does not fail if the figure is bad. It requires root, busybox, and a file system
// with sparse files in -dir.
//
//	go run ./test/bench/sparse -netroot bin/netroot -rounds 3
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
	"syscall"
	"time"

	"netroot/internal/build"
	"netroot/internal/term"
)

const (
	size = 20 << 30
	data = 16 << 10 // in each of three places
)

// header begins both recipes; the image has no kernel, because only copying and packing are compared.
const header = "Bootstrap: scratch\n%setup\n    mkdir -p \"$SINGULARITY_ROOTFS/bin\"\n    cp \"$(command -v busybox)\" \"$SINGULARITY_ROOTFS/bin/\"\n"

func main() {
	netroot := flag.String("netroot", "bin/netroot", "the program")
	dir := flag.String("dir", "", "working directory (default: the directory for temporary files)")
	rounds := flag.Int("rounds", 3, "rounds; the medians are printed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *netroot, *dir, *rounds)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "sparse benchmark:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, netroot, dir string, rounds int) (err error) {
	if netroot, err = filepath.Abs(netroot); err != nil {
		return err
	}
	if dir, err = os.MkdirTemp(dir, "netroot-bench-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := sparseFile(filepath.Join(dir, "disk.img")); err != nil {
		return err
	}
	recipes := []string{"plain", "sparse"}
	for _, name := range recipes {
		text := header
		if name == "sparse" {
			text += "%files\n    disk.img /srv/\n"
		}
		if err := os.WriteFile(filepath.Join(dir, name+".def"), []byte(text), 0o644); err != nil {
			return err
		}
	}
	took := map[string][]time.Duration{}
	for i := range rounds {
		for _, name := range recipes {
			r, err := buildOnce(ctx, netroot, dir, name)
			if err != nil {
				return fmt.Errorf("round %d: %w", i+1, err)
			}
			took[name] = append(took[name], r.Took)
		}
		slices.Reverse(recipes)
	}
	plain, sparse := median(took["plain"]), median(took["sparse"])
	fmt.Printf("%d rounds, medians: without the file %s, with a sparse file of %s %s, difference %s (goal: at most 1 s)\n",
		rounds, term.Duration(plain), term.Size(size), term.Duration(sparse), (sparse - plain).Round(time.Millisecond))
	return nil
}

// sparseFile makes the file, and fails where it would not be sparse.
func sparseFile(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	err = f.Truncate(size)
	for _, at := range []int64{0, size/2 + 12345, size - data} {
		_, writeErr := f.WriteAt(bytes.Repeat([]byte("data"), data/4), at)
		err = errors.Join(err, writeErr)
	}
	return errors.Join(err, f.Close())
}

// buildOnce builds from nothing.
func buildOnce(ctx context.Context, netroot, dir, name string) (build.Result, error) {
	var r build.Result
	state := filepath.Join(dir, "state")
	defer os.RemoveAll(state)
	cmd := exec.CommandContext(ctx, netroot, "--state", state, "build", "--json", "--kernel", build.NoKernel, name+".def")
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return r, fmt.Errorf("netroot build %s: %w", name, err)
	}
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	if err := json.Unmarshal(lines[len(lines)-1], &r); err != nil {
		return r, fmt.Errorf("parse the output of netroot build: %w", err)
	}
	fmt.Fprintf(os.Stderr, "%s: ", name)
	for _, p := range r.Phases {
		fmt.Fprintf(os.Stderr, "%s %s, ", p.Name, term.Duration(p.Took))
	}
	fmt.Fprintf(os.Stderr, "together %s\n", term.Duration(r.Took))
	return r, nil
}

func median(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)/2]
}
