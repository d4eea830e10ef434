// Command probe makes and measures a store of images. The benchmark of the store runs it in this
// tree and copies it into an earlier one, so it uses only what both have.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/store"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

// run is "make DIR VERSIONS PACKAGES" or "measure DIR".
func run(args []string) error {
	switch {
	case len(args) == 4 && args[0] == "make":
		versions, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		packages, err := strconv.Atoi(args[3])
		if err != nil {
			return err
		}
		return fill(args[1], versions, packages)
	case len(args) == 2 && args[0] == "measure":
		return measure(args[1])
	}
	return fmt.Errorf("arguments %q", args)
}

// fill commits versions of ten labels, with the parts that an image has.
func fill(dir string, versions, packages int) error {
	s, err := store.Create(dir)
	if err != nil {
		return err
	}
	parts, err := os.MkdirTemp(filepath.Dir(dir), "parts-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(parts)
	roles := []store.Role{store.RoleRoot, store.RoleKernel, store.RoleInitramfs, store.RoleInitramfsHardware, store.RoleInitramfsFirmware}
	for i := range versions {
		cfg := store.Config{
			Created: time.Unix(1700000000+int64(i), 0).UTC(), Architecture: "amd64", System: "Debian GNU/Linux 12 (bookworm)",
			RecipeDigest: "sha256:" + strings.Repeat("0123456789abcdef", 4), KernelRelease: "6.1.0-56-amd64", RootFormat: "squashfs", Compressor: "zstd",
		}
		for p := range packages {
			cfg.Packages = append(cfg.Packages, fmt.Sprintf("library-of-%d-things 1:%d.%d-%d+deb12u1", p, p%7, p%11, i))
		}
		var list []store.Part
		for _, role := range roles {
			path := filepath.Join(parts, string(role))
			if err := os.WriteFile(path, fmt.Appendf(nil, "%s of version %d", role, i), 0o644); err != nil {
				return err
			}
			list = append(list, store.Part{Role: role, Path: path})
		}
		if _, err := s.Commit(context.Background(), fmt.Sprintf("label%d", i%10), cfg, list); err != nil {
			return err
		}
	}
	return nil
}

// measures are what the benchmark prints; times are of the processor, in nanoseconds.
type measures struct {
	First    int64 // Open and Resolve, as a command does
	Next     int64 // Resolve, as a server does
	List     int64 // List, in a Store that has done it before
	Images   int
	Resident int64 // bytes, after all of this
}

func measure(dir string) error {
	var m measures
	label := "label7"
	first := func() error {
		s, err := store.Open(dir)
		if err == nil {
			_, err = s.Resolve(label)
		}
		return err
	}
	s, err := store.Open(dir)
	if err != nil {
		return err
	}
	images, err := s.List()
	if err != nil {
		return err
	}
	m.Images = len(images)
	if m.First, err = median(first); err != nil {
		return err
	}
	if m.Next, err = median(func() error { _, err := s.Resolve(label); return err }); err != nil {
		return err
	}
	if m.List, err = median(func() error { _, err := s.List(); return err }); err != nil {
		return err
	}
	if blobs, ok := any(s).(interface {
		Blob(string) (*store.Blob, error)
	}); ok { // a server knows the digests of all parts
		blobs.Blob("sha256:" + strings.Repeat("0", 64)) //nolint:errcheck // there is none
	}
	if m.Resident, err = resident(); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(m)
}

// median is the processor time of f, which a busy machine does not change much: the middle of a
// second's worth of runs, three at least. Everything is read from memory, so f hardly waits.
func median(f func() error) (int64, error) {
	var all []int64
	for began := time.Now(); len(all) < 3 || time.Since(began) < time.Second; {
		before, err := processor()
		if err != nil {
			return 0, err
		}
		const runs = 3 // a garbage collection within them counts
		for range runs {
			if err := f(); err != nil {
				return 0, err
			}
		}
		after, err := processor()
		if err != nil {
			return 0, err
		}
		all = append(all, (after-before)/runs)
	}
	slices.Sort(all)
	return all[len(all)/2], nil
}

// processor is the time that this process has used of processors, in nanoseconds.
func processor() (int64, error) {
	var ts unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts)
	return ts.Nano(), err
}

func resident() (int64, error) {
	raw, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	var total, pages int64
	if _, err := fmt.Sscan(string(raw), &total, &pages); err != nil {
		return 0, err
	}
	return pages * int64(os.Getpagesize()), nil
}
