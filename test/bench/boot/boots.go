package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"netroot/internal/pack"
	"netroot/internal/store"
	"netroot/internal/term"
	"netroot/test/bench/beside"
)

// sample is the result of one boot. Times are in seconds since the kernel started, so they exclude
// the firmware.
type sample struct {
	init, switched, login float64
	read                  float64 // bytes read of the packed root, if the root is an NBD device
	wire                  float64 // bytes received from the kernel's start to the login
	memory                float64 // bytes in use that cannot be reclaimed, at the login
	server                float64 // seconds of processor time of the serving process
}

// median returns the median of one figure of all samples.
func median(all []sample, of func(sample) float64) float64 {
	var v []float64
	for _, s := range all {
		v = append(v, of(s))
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// boot measures the steps of one way to boot.
func (b bench) boot(ctx context.Context, size int64) error {
	all, err := b.sample(ctx, "nbd", "nbd", b.packs[0])
	if err != nil {
		return err
	}
	read := median(all, func(s sample) float64 { return s.read })
	rows := [][]string{
		{"BOOT of " + b.label, "MEDIAN OF " + strconv.Itoa(b.boots), "BESIDE"},
		{"kernel to \"Run /init\"", seconds(median(all, func(s sample) float64 { return s.init })), ""},
		{"\"Run /init\" to switch root", seconds(median(all, func(s sample) float64 { return s.switched - s.init })), ""},
		{"kernel to ssh login", seconds(median(all, func(s sample) float64 { return s.login })), ""},
		{"read of the root until login", term.Size(int64(read)), fmt.Sprintf("%.1f %% of the image's %s", 100*read/float64(size), term.Size(size))},
	}
	fmt.Println()
	return term.Table(os.Stdout, rows)
}

// byTransport boots the same image over each transport.
func (b bench) byTransport(ctx context.Context) error {
	rows := [][]string{slices.Concat([]string{"THE SAME IMAGE OVER"}, columns)}
	for _, t := range b.transports {
		all, err := b.sample(ctx, t, t, b.packs[0])
		if err != nil {
			return err
		}
		rows = append(rows, row(t, all))
	}
	fmt.Println()
	return term.Table(os.Stdout, rows)
}

// packed returns the newest image that is packed in the given way, or nil.
func (b bench) packed(images []*store.Image, how string) *store.Image {
	i := slices.IndexFunc(images, func(im *store.Image) bool {
		return im.Label == b.label && pack.Method(how).Packed(im.Config.RootFormat, im.Config.Compressor)
	})
	if i < 0 {
		return nil
	}
	return images[i]
}

// byPack boots over NBD the newest image in each format that the store has.
func (b bench) byPack(ctx context.Context, images []*store.Image) error {
	rows := [][]string{slices.Concat([]string{"THE SAME TREE AS", "ROOT", "COMPRESSOR", "READ"}, columns)}
	for _, p := range b.packs {
		im := b.packed(images, p)
		if im == nil {
			fmt.Fprintf(os.Stderr, "no image is packed as %s: \"netroot build %s --update --pack %s\" makes one\n", p, b.label, p)
			continue
		}
		size, err := rootSize(im)
		if err != nil {
			return err
		}
		all, err := b.sample(ctx, p, "nbd", p)
		if err != nil {
			return err
		}
		read := term.Size(int64(median(all, func(s sample) float64 { return s.read })))
		rows = append(rows, slices.Concat([]string{p, term.Size(size), im.Config.Compressor, read}, row("", all)[1:]))
	}
	fmt.Println()
	return term.Table(os.Stdout, rows)
}

// columns are the columns of row after the name.
var columns = []string{"LOGIN AFTER", "ON THE WIRE", "NODE'S MEMORY", "SERVER'S CPU"}

func row(name string, all []sample) []string {
	size := func(of func(sample) float64) string { return term.Size(int64(median(all, of))) }
	return []string{
		name, seconds(median(all, func(s sample) float64 { return s.login })),
		size(func(s sample) float64 { return s.wire }), size(func(s sample) float64 { return s.memory }),
		seconds(median(all, func(s sample) float64 { return s.server })),
	}
}

func seconds(s float64) string { return fmt.Sprintf("%.2f s", s) }

// sample boots as often as requested.
func (b bench) sample(ctx context.Context, name, transport, packed string) ([]sample, error) {
	var all []sample
	for i := range b.boots {
		fmt.Fprintf(os.Stderr, "%s: boot %d of %d\n", name, i+1, b.boots)
		s, err := b.once(ctx, transport, packed)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		all = append(all, s)
	}
	return all, nil
}

// ask makes the node print each figure after its name: sysfs, proc(5),
// Documentation/block/stat.rst.
const ask = `
echo login $(cut -d' ' -f1 /proc/uptime)
echo wire $(cat /sys/class/net/*/statistics/rx_bytes | sort -n | tail -n 1)
echo memory $(awk '/^MemTotal/ { t = $2 } /^MemAvailable/ { print t - $2 }' /proc/meminfo)
if [ -e /sys/block/nbd0/stat ]; then echo sectors $(awk '{ print $3 }' /sys/block/nbd0/stat); fi
`

var stamp = regexp.MustCompile(`\[ *([0-9]+\.[0-9]+)\] (Run /init as init process|netroot: switch: )`)

func (b bench) once(ctx context.Context, transport, packed string) (sample, error) {
	dir, err := os.MkdirTemp("", "netroot-bench-")
	if err != nil {
		return sample{}, err
	}
	defer os.RemoveAll(dir)
	serial := filepath.Join(dir, "console.log")
	cmd := exec.CommandContext(ctx, b.netroot, "--state", b.state, "vm", b.label, "--transport", transport, "--pack", packed,
		"--ssh-port", "0", "--serial", serial, "--run", ask)
	out := &watched{process: cmd}
	var errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &errs
	if err := cmd.Run(); err != nil {
		return sample{}, fmt.Errorf("%w: %s", err, errs.String())
	}
	said := map[string]float64{}
	for line := range strings.Lines(out.said.String()) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if said[name], err = strconv.ParseFloat(value, 64); err != nil {
			return sample{}, fmt.Errorf("the node printed %q", out.said.String())
		}
	}
	s := sample{login: said["login"], wire: said["wire"], memory: said["memory"] * 1024, read: said["sectors"] * 512, server: out.spent}
	console, err := os.ReadFile(serial)
	if err != nil {
		return sample{}, err
	}
	for _, m := range stamp.FindAllSubmatch(console, -1) {
		at, _ := strconv.ParseFloat(string(m[1]), 64)
		if bytes.HasPrefix(m[2], []byte("Run")) {
			s.init = at
		} else {
			s.switched = at
		}
	}
	return s, nil
}

// watched receives the output of a program, and reads the program's processor time when the first
// output arrives. For "netroot vm" that includes its servers, while qemu is another process.
type watched struct {
	said    bytes.Buffer // not embedded, because its ReadFrom would be used instead of Write
	process *exec.Cmd
	spent   float64
}

func (w *watched) Write(p []byte) (int, error) {
	if w.said.Len() == 0 {
		w.spent, _ = beside.CPU(w.process.Process.Pid) // 0 for a process that has ended
	}
	return w.said.Write(p)
}
