// Command iscsi measures our iSCSI target beside tgtd, with the same initiator on the same file in the same run,
// since figures of different runs on a shared machine say nothing. It prints a table of what iscsi-perf of
// libiscsi reads: sequentially by 1 MiB, one command at a time, and by 128 KiB, eight at a time; and 4 KiB at
// random, sixteen at a time.
//
// It is not a test: nothing fails when a figure is bad. It needs iscsi-perf; tgtd is left out where it is not
// installed or this is not root, which it wants to be. It gets a control socket and a port of 127.0.0.1 of its own.
// The file is in the page cache throughout, so targets and protocol are measured, not a disk.
//
//	go run ./test/bench/iscsi -size 256 -rounds 5 -seconds 4
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"netroot/internal/proto/iscsi"
)

const target = "iqn.2026-01.org.example:bench"

func main() {
	size := flag.Int("size", 256, "size of the file in MiB")
	rounds := flag.Int("rounds", 5, "rounds; the median is printed")
	seconds := flag.Int("seconds", 4, "seconds of each measure in each round")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *size, *rounds, *seconds, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "iscsi benchmark:", err)
		os.Exit(1)
	}
}

// server is one that is measured: it is started on a port, ready when start returns, and stopped by the function
// that start returns.
type server struct {
	name  string
	lun   int
	start func(ctx context.Context, file, port string) (stop func(), err error)
}

func servers() []server {
	all := []server{{"netroot", 0, ours}}
	if _, err := exec.LookPath("tgtd"); err == nil && os.Geteuid() == 0 {
		all = append(all, server{"tgtd", 1, tgtd})
	}
	return all
}

// ours serves the file in this process.
func ours(ctx context.Context, file, port string) (func(), error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &iscsi.Server{Lookup: func(_ context.Context, name string) (*iscsi.Target, error) {
		return &iscsi.Target{Name: name, Backend: io.NewSectionReader(f, 0, size)}, nil
	}}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	return func() {
		cancel()
		<-done
		f.Close()
	}, nil
}

// tgtd serves it read-only, with tgtd's defaults.
func tgtd(ctx context.Context, file, port string) (func(), error) {
	n, err := strconv.Atoi(port)
	if err != nil {
		return nil, err
	}
	control := strconv.Itoa(n & 0x7fff) // as high as it goes
	cmd := exec.CommandContext(ctx, "tgtd", "--foreground", "--control-port", control, "--iscsi", "portal=127.0.0.1:"+port)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	stop := func() {
		cmd.Process.Kill()
		cmd.Wait()
		os.Remove("/var/run/tgtd/socket." + control)
		os.Remove("/var/run/tgtd/socket." + control + ".lock")
	}
	if err := setUp(ctx, file, control); err != nil {
		stop()
		return nil, err
	}
	return stop, nil
}

// setUp tells tgtd what to serve, as soon as it listens.
func setUp(ctx context.Context, file, control string) error {
	admin := func(args ...string) ([]byte, error) {
		return exec.CommandContext(ctx, "tgtadm", append([]string{"--control-port", control}, args...)...).CombinedOutput()
	}
	ready, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		out, err := admin("--op", "show", "--mode", "sys")
		if err == nil {
			break
		}
		select {
		case <-ready.Done():
			return fmt.Errorf("tgtd does not listen: %w\n%s", err, out)
		case <-time.After(20 * time.Millisecond):
		}
	}
	for _, args := range [][]string{
		{"--op", "new", "--mode", "target", "--tid", "1", "--targetname", target},
		{"--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "--backing-store", file},
		{"--op", "update", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "--params", "readonly=1"},
		{"--op", "bind", "--mode", "target", "--tid", "1", "--initiator-address", "ALL"},
	} {
		if out, err := admin(append([]string{"--lld", "iscsi"}, args...)...); err != nil {
			return fmt.Errorf("tgtadm %v: %w\n%s", args, err, out)
		}
	}
	return nil
}

// measure is one row of the table: more is better.
type measure struct {
	name   string
	args   []string // of iscsi-perf
	column int      // of its result: 1 commands a second, 2 MiB a second
}

func measures() []measure {
	return []measure{
		{"1 MiB, depth 1 (MiB/s)", []string{"-b", "2048", "-m", "1"}, 2},
		{"128 KiB, depth 8 (MiB/s)", []string{"-b", "256", "-m", "8"}, 2},
		{"random 4 KiB, depth 16 (1/s)", []string{"-b", "8", "-m", "16", "-r"}, 1},
	}
}

var average = regexp.MustCompile(`iops average (\d+) \((\d+) MB/s\)`)

// perf returns the average that iscsi-perf prints last. It prints one each second, and sometimes does not see its
// end; then it is stopped.
func perf(ctx context.Context, m measure, seconds int, url string) (float64, error) {
	limit, cancel := context.WithTimeout(ctx, time.Duration(seconds+3)*time.Second)
	defer cancel()
	args := append(slices.Clone(m.args), "-t", strconv.Itoa(seconds), url)
	out, err := exec.CommandContext(limit, "iscsi-perf", args...).CombinedOutput()
	all := average.FindAllSubmatch(out, -1)
	if len(all) == 0 || ctx.Err() != nil {
		return 0, fmt.Errorf("iscsi-perf %v: %w\n%s", args, errors.Join(ctx.Err(), err, errors.New("no result")), out)
	}
	return strconv.ParseFloat(string(all[len(all)-1][m.column]), 64)
}

func run(ctx context.Context, size, rounds, seconds int, out io.Writer) error {
	if _, err := exec.LookPath("iscsi-perf"); err != nil {
		return fmt.Errorf("%w: install the package libiscsi-bin", err)
	}
	dir, err := os.MkdirTemp("", "iscsi-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "disk")
	if err := fill(file, size); err != nil {
		return err
	}
	all, rows := servers(), measures()
	results := make([][][]float64, len(all)) // server, measure, round
	for i := range all {
		results[i] = make([][]float64, len(rows))
	}
	for range rounds {
		for i, s := range all {
			if err := round(ctx, s, file, seconds, rows, results[i]); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	return table(out, all, rows, results)
}

// round starts a server, takes each measure once, and stops it.
func round(ctx context.Context, s server, file string, seconds int, rows []measure, results [][]float64) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	stop, err := s.start(ctx, file, port)
	if err != nil {
		return err
	}
	defer stop()
	for i, m := range rows {
		v, err := perf(ctx, m, seconds, fmt.Sprintf("iscsi://127.0.0.1:%s/%s/%d", port, target, s.lun))
		if err != nil {
			return err
		}
		results[i] = append(results[i], v)
	}
	return nil
}

// table prints medians, and in brackets how many times as much the first server has.
func table(out io.Writer, all []server, rows []measure, results [][][]float64) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprint(w, "\t")
	for _, s := range all {
		fmt.Fprintf(w, "%s\t", s.name)
	}
	fmt.Fprintln(w)
	for j, m := range rows {
		fmt.Fprintf(w, "%s\t", m.name)
		first := median(results[0][j])
		for i := range all {
			v := median(results[i][j])
			fmt.Fprintf(w, "%.0f (%.2f)\t", v, first/v)
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "in brackets: %s divided by that server; above 1 it is the faster one\n", all[0].name)
	return w.Flush()
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// fill writes size MiB of noise, the same in every run.
func fill(file string, size int) error {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	noise := rand.NewChaCha8([32]byte{1})
	buf := make([]byte, 1<<20)
	for range size {
		noise.Read(buf)
		if _, err := f.Write(buf); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return f.Close()
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}
