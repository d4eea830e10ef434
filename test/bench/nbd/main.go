// Command nbd measures our NBD server beside nbdkit and qemu-nbd, with the same clients on the same file in
// the same run, since figures of different runs on a shared machine say nothing. It prints a table: sequential
// copies by nbdcopy over one and several connections, and random 4 KiB reads by fio.
//
// It is not a test: nothing fails when a figure is bad. It needs nbdcopy and fio; a server that is not
// installed is left out. The file is in the page cache throughout, so servers and protocol are measured, not
// a disk.
//
//	go run ./test/bench/nbd -size 256 -rounds 3 -seconds 5
package main

import (
	"bytes"
	"context"
	"encoding/json"
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
	"slices"
	"strconv"
	"text/tabwriter"
	"time"

	"netroot/internal/proto/nbd"
)

func main() {
	size := flag.Int("size", 256, "size of the file in MiB")
	rounds := flag.Int("rounds", 3, "rounds; the median is printed")
	seconds := flag.Int("seconds", 5, "seconds of random reads in each round")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *size, *rounds, *seconds, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "nbd benchmark:", err)
		os.Exit(1)
	}
}

// server is one that is measured: it is started on a port and stopped by the function it returns.
type server struct {
	name  string
	start func(ctx context.Context, file, port string) (stop func(), err error)
}

func servers() []server {
	all := []server{{"netroot", ours}}
	for _, s := range []struct {
		name string
		args func(file, port string) []string
	}{
		{"nbdkit", func(file, port string) []string {
			return []string{"--foreground", "--exit-with-parent", "--readonly", "--ipaddr=127.0.0.1", "--port=" + port, "file", file}
		}},
		{"qemu-nbd", func(file, port string) []string {
			return []string{"--read-only", "--persistent", "--shared=0", "--format=raw", "--bind=127.0.0.1", "--port=" + port, file}
		}},
	} {
		if _, err := exec.LookPath(s.name); err == nil {
			all = append(all, server{s.name, foreign(s.name, s.args)})
		}
	}
	return all
}

// ours serves the file in this process.
func ours(ctx context.Context, file, port string) (func(), error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	backend, err := nbd.NewFile(f)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &nbd.Server{Lookup: func(context.Context, string) (*nbd.Export, error) {
		return &nbd.Export{Backend: backend}, nil
	}}
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	return func() {
		cancel()
		<-done
		f.Close()
	}, nil
}

func foreign(name string, args func(file, port string) []string) func(context.Context, string, string) (func(), error) {
	return func(ctx context.Context, file, port string) (func(), error) {
		cmd := exec.CommandContext(ctx, name, args(file, port)...)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			return nil, err
		}
		return func() {
			cmd.Process.Kill()
			cmd.Wait()
		}, nil
	}
}

// measure is one column of the table: more is better.
type measure struct {
	name string
	run  func(ctx context.Context, uri string) (float64, error)
}

func measures(size, seconds int) []measure {
	copies := func(connections int) func(context.Context, string) (float64, error) {
		return func(ctx context.Context, uri string) (float64, error) {
			begin := time.Now()
			err := exec.CommandContext(ctx, "nbdcopy", "--no-extents",
				"--connections="+strconv.Itoa(connections), uri, "null:").Run()
			return float64(size) / time.Since(begin).Seconds(), err
		}
	}
	random := func(depth int) func(context.Context, string) (float64, error) {
		return func(ctx context.Context, uri string) (float64, error) { return fio(ctx, uri, depth, seconds) }
	}
	return []measure{
		{"copy, 1 connection (MiB/s)", copies(1)},
		{"copy, 4 connections (MiB/s)", copies(4)},
		{"random 4 KiB, depth 1 (1/s)", random(1)},
		{"random 4 KiB, depth 16 (1/s)", random(16)},
	}
}

// fio returns the random reads a second.
func fio(ctx context.Context, uri string, depth, seconds int) (float64, error) {
	out, err := exec.CommandContext(ctx, "fio", "--name=nbd", "--ioengine=nbd", "--uri="+uri, "--rw=randread", "--bs=4k",
		"--iodepth="+strconv.Itoa(depth), "--runtime="+strconv.Itoa(seconds), "--time_based", "--output-format=json").Output()
	if err != nil {
		return 0, err
	}
	out = out[max(bytes.IndexByte(out, '{'), 0):] // the engine says hello first
	var r struct {
		Jobs []struct{ Read struct{ IOPS float64 } }
	}
	if err := json.Unmarshal(out, &r); err != nil || len(r.Jobs) == 0 {
		return 0, fmt.Errorf("fio printed no result: %w", err)
	}
	return r.Jobs[0].Read.IOPS, nil
}

func run(ctx context.Context, size, rounds, seconds int, out io.Writer) error {
	for _, tool := range []string{"nbdcopy", "fio"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w: install the packages libnbd-bin and fio", err)
		}
	}
	dir, err := os.MkdirTemp("", "nbd-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "disk")
	if err := fill(file, size); err != nil {
		return err
	}
	all, cols := servers(), measures(size, seconds)
	results := make([][][]float64, len(all)) // server, measure, round
	for i := range all {
		results[i] = make([][]float64, len(cols))
	}
	for range rounds {
		for i, s := range all {
			if err := round(ctx, s, file, cols, results[i]); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	return table(out, all, cols, results)
}

// round starts a server, takes each measure once, and stops it.
func round(ctx context.Context, s server, file string, cols []measure, results [][]float64) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	stop, err := s.start(ctx, file, port)
	if err != nil {
		return err
	}
	defer stop()
	if err := ready(ctx, port); err != nil {
		return err
	}
	for i, m := range cols {
		v, err := m.run(ctx, "nbd://127.0.0.1:"+port)
		if err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		results[i] = append(results[i], v)
	}
	return nil
}

// table prints medians, and in brackets how many times as much as the first server.
func table(out io.Writer, all []server, cols []measure, results [][][]float64) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprint(w, "\t")
	for _, s := range all {
		fmt.Fprintf(w, "%s\t", s.name)
	}
	fmt.Fprintln(w)
	for j, m := range cols {
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

// ready waits until an NBD server answers on the port.
func ready(ctx context.Context, port string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", port))
		if err == nil {
			_, err = nbd.Handshake(ctx, conn, "")
			conn.Close()
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}
