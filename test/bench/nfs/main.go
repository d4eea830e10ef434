// Command nfs compares our NFS server with go-nfs and nfs-ganesha, with the same client on the same
// directory in the same run, because figures of different runs on a shared machine cannot be
// compared. It prints a table: reads of three sizes, attributes and look-ups, and the same again
// when the server has handles of many files, as for a root file system.
//
// It is not a test: it does not fail if a figure is bad. Each server is a separate process. go-nfs
// is built from test/oracle; nfs-ganesha is skipped if it is not installed or does not run. The
// command requires root, as our server does. Everything is in the page cache, so that servers and
// protocol are measured, and not a disk.
//
//	go run ./test/bench/nfs -files 100000 -rounds 3 -seconds 2
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
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

func main() {
	files := flag.Int("files", 100_000, "files that are looked up before the second half")
	rounds := flag.Int("rounds", 3, "rounds; the median is printed")
	seconds := flag.Float64("seconds", 2, "seconds of each measure")
	serve := flag.String("serve", "", "serve this directory with our server on -port (the benchmark starts itself with this flag)")
	port := flag.String("port", "", "port of -serve")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var err error
	if *serve != "" {
		err = serveOurs(ctx, *serve, *port)
	} else {
		err = run(ctx, *files, *rounds, time.Duration(*seconds*float64(time.Second)), os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "nfs benchmark:", err)
		os.Exit(1)
	}
}

const (
	bigSize = 256 << 20 // bytes of the file for reads
	perDir  = 1000      // files in a directory
	fillFor = 15 * time.Second
)

// target is a running server, and what the loads require.
type target struct {
	port             string
	pid              int
	root, big, small []byte   // handles
	many             [][]byte // handles of the files that were looked up
}

// measure is one row of the table. Greater is better.
type measure struct {
	name string
	load func(t *target) load
	mega bool // the unit is MiB/s, not calls/s
	many bool // measured after many files were looked up
}

func readCall(h []byte, off uint64, n uint32) []byte {
	b := be.AppendUint64(opaque(nil, h), off)
	return callTo(programNFS, procRead, be.AppendUint32(b, n))
}

func reads(size, depth, conns int) func(t *target) load {
	return func(t *target) load {
		calls := make([][]byte, min(bigSize/size, 1024))
		for i := range calls {
			off := i * size
			if size < 64<<10 { // small reads are at random positions
				off = int(rand.Uint32N(bigSize/uint32(size))) * size
			}
			calls[i] = readCall(t.big, uint64(off), uint32(size))
		}
		return load{func(i int) []byte { return calls[i%len(calls)] }, depth, conns}
	}
}

func getattr(t *target) load {
	return fixed(callTo(programNFS, procGetattr, opaque(nil, t.small)), 32, 1)
}

func lookup(t *target) load {
	return fixed(callTo(programNFS, procLookup, opaque(opaque(nil, t.root), []byte("small"))), 32, 1)
}

// getattrAll requests one after the other of the files that were looked up, in random order.
func getattrAll(t *target) load {
	return load{func(i int) []byte {
		return callTo(programNFS, procGetattr, opaque(nil, t.many[uint(i)*2654435761%uint(len(t.many))]))
	}, 32, 1}
}

func measures() []measure {
	return []measure{
		{"READ 1 MiB, depth 8, MiB/s", reads(1<<20, 8, 1), true, false},
		{"READ 128 KiB, depth 8, MiB/s", reads(128<<10, 8, 1), true, false},
		{"READ 128 KiB, depth 8, 4 connections, MiB/s", reads(128<<10, 8, 4), true, false},
		{"READ 4 KiB, depth 32, 1/s", reads(4096, 32, 1), false, false},
		{"GETATTR, depth 32, 1/s", getattr, false, false},
		{"LOOKUP, depth 32, 1/s", lookup, false, false},
		{"then: GETATTR of the same, 1/s", getattr, false, true},
		{"then: LOOKUP of the same, 1/s", lookup, false, true},
		{"then: READ 4 KiB, depth 32, 1/s", reads(4096, 32, 1), false, true},
		{"then: GETATTR of one after the other, 1/s", getattrAll, false, true},
	}
}

func run(ctx context.Context, files, rounds int, d time.Duration, out io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("NFS servers require root")
	}
	dir, err := os.MkdirTemp("", "nfs-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	tree := filepath.Join(dir, "tree")
	if err := fill(tree, files); err != nil {
		return err
	}
	all, err := servers(ctx, dir, tree, out)
	if err != nil {
		return err
	}
	rows := measures()
	results := make([][][]figure, len(all)) // by server, measure, round
	known := make([]int, len(all))          // number of files that were looked up
	for i := range all {
		results[i] = make([][]figure, len(rows))
	}
	for range rounds {
		for i, s := range all {
			if known[i], err = round(ctx, s, tree, files, d, rows, results[i]); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	return table(out, all, rows, results, known)
}

// round starts a server, takes each measure once, and stops the server.
func round(ctx context.Context, s server, tree string, files int, d time.Duration, rows []measure, results [][]figure) (int, error) {
	t, stop, err := begin(ctx, s, tree)
	if err != nil {
		return 0, err
	}
	defer stop()
	for i, m := range rows {
		if m.many && t.many == nil {
			if err := t.fill(files); err != nil {
				return 0, err
			}
		}
		f, err := t.take(m, d)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", m.name, err)
		}
		results[i] = append(results[i], f)
	}
	return len(t.many), nil
}

// figure is the result of a measure: the rate per second, and the server's processor time for each
// call in microseconds. On a busy machine, the processor time is the more reliable one.
type figure struct{ rate, micros float64 }

func (t *target) take(m measure, d time.Duration) (f figure, err error) {
	before, err := cpuTime(t.pid)
	if err != nil {
		return f, err
	}
	begin := time.Now()
	calls, bytes, err := m.load(t).run(t.port, d)
	if err != nil {
		return f, err
	}
	took := time.Since(begin).Seconds()
	after, err := cpuTime(t.pid)
	f.micros = float64((after - before).Microseconds()) / (calls * took)
	if f.rate = calls; m.mega {
		f.rate = bytes / (1 << 20)
	}
	return f, err
}

// cpuTime returns the processor time of a process (proc(5): stat, in hundredths of a second).
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ") // after the program's name
	fields := strings.Fields(rest)
	var ticks int
	for _, f := range fields[11:13] { // utime, stime
		n, err := strconv.Atoi(f)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// begin starts a server and looks up the files.
func begin(ctx context.Context, s server, tree string) (t *target, stop func(), err error) {
	t = &target{}
	mountPort, err := freePort()
	if err != nil {
		return nil, nil, err
	}
	if t.port, err = freePort(); err != nil {
		return nil, nil, err
	}
	if !s.twoPorts {
		mountPort = t.port
	}
	t.pid, stop, err = s.start(ctx, tree, t.port, mountPort)
	if err != nil {
		return nil, nil, err
	}
	if t.root, err = ready(ctx, mountPort, tree); err == nil {
		err = t.find()
	}
	if err != nil {
		stop()
		return nil, nil, err
	}
	return t, stop, nil
}

// ready waits until the export can be mounted.
func ready(ctx context.Context, port, tree string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		h, err := mount(port, tree)
		if err == nil {
			return h, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (t *target) find() error {
	c, err := dial(t.port)
	if err != nil {
		return err
	}
	defer c.nc.Close()
	if t.big, err = c.lookup(t.root, "big"); err == nil {
		t.small, err = c.lookup(t.root, "small")
	}
	return err
}

// fill looks up as many files as possible in fillFor.
func (t *target) fill(files int) error {
	c, err := dial(t.port)
	if err != nil {
		return err
	}
	defer c.nc.Close()
	end := time.Now().Add(fillFor)
	var dir []byte
	for i := 0; i < files && time.Now().Before(end); i++ {
		if i%perDir == 0 {
			if dir, err = c.lookup(t.root, strconv.Itoa(i/perDir)); err != nil {
				return err
			}
		}
		h, err := c.lookup(dir, strconv.Itoa(i))
		if err != nil {
			return err
		}
		t.many = append(t.many, slices.Clone(h))
	}
	return nil
}

// fill makes a directory with a big file, a small one, and many files in directories.
func fill(tree string, files int) error {
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	noise := make([]byte, bigSize)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	if err := os.WriteFile(filepath.Join(tree, "big"), noise, 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tree, "small"), noise[:100], 0o644); err != nil {
		return err
	}
	for i := range files {
		dir := filepath.Join(tree, strconv.Itoa(i/perDir))
		if i%perDir == 0 {
			if err := os.Mkdir(dir, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// table prints medians, and in brackets the ratio to the first server.
func table(out io.Writer, all []server, rows []measure, results [][][]figure, known []int) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	for _, part := range []struct {
		title string
		of    func(figure) float64
		ratio func(first, v float64) float64
	}{
		{"", func(f figure) float64 { return f.rate }, func(first, v float64) float64 { return first / v }},
		{"the server's processor time, in us a call", func(f figure) float64 { return f.micros }, func(first, v float64) float64 { return v / first }},
	} {
		fmt.Fprintf(w, "%s\t", part.title)
		for _, s := range all {
			fmt.Fprintf(w, "%s\t", s.name)
		}
		fmt.Fprintln(w)
		for j, m := range rows {
			if m.many && !rows[j-1].many {
				fmt.Fprintf(w, "handles given out, in %v at most\t", fillFor)
				for _, n := range known {
					fmt.Fprintf(w, "%d\t", n)
				}
				fmt.Fprintln(w)
			}
			fmt.Fprintf(w, "%s\t", m.name)
			first := median(results[0][j], part.of)
			for i := range all {
				v := median(results[i][j], part.of)
				fmt.Fprintf(w, "%.4g (%.2f)\t", v, part.ratio(first, v))
			}
			fmt.Fprintln(w)
		}
	}
	fmt.Fprintf(w, "in brackets: how many times better %s is than that server\n", all[0].name)
	return w.Flush()
}

func median(all []figure, of func(figure) float64) float64 {
	var v []float64
	for _, f := range all {
		v = append(v, of(f))
	}
	slices.Sort(v)
	return v[len(v)/2]
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
