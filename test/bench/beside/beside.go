// Package beside measures servers beside each other: with the same clients, on the same file, in
// the same run, since figures of different runs on a shared machine say nothing. Its tables have
// the median of all rounds, how each server compares to the first, and the processor time that the
// server itself took, which others on the machine change least.
//
// It is not a test: nothing fails when a figure is bad. The file is in the page cache throughout,
// so servers and protocols are measured, not a disk.
package beside

import (
	"bytes"
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
	"runtime"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"
)

// Server is one that is measured. Start has it serve a file, and returns when it answers.
type Server struct {
	Name  string
	Start func(ctx context.Context, file string) (*Target, error)
}

// Target is a server that runs.
type Target struct {
	URL  string // of the file, as its clients take it
	PID  int
	Stop func()
}

// Measure is one row of a table.
type Measure struct {
	Name string // with its unit; more is better
	Run  func(ctx context.Context, url string) (float64, error)
}

// Bench is how often and on what is measured, as the flags of a benchmark say.
type Bench struct {
	Title   string
	Size    int    // of the file, MiB
	Rounds  int    // of which the median is printed
	Seconds int    // of each measure that goes by time
	Netroot string // our program
}

// Main is the main function of a benchmark: it reads the flags and returns the exit status.
func (b Bench) Main(run func(ctx context.Context, b Bench) error) int {
	flag.IntVar(&b.Size, "size", b.Size, "size of the file in `MiB`")
	flag.IntVar(&b.Rounds, "rounds", b.Rounds, "rounds; the median is printed")
	flag.IntVar(&b.Seconds, "seconds", b.Seconds, "seconds of each measure that goes by time")
	flag.StringVar(&b.Netroot, "netroot", "bin/netroot", "our program")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	runtime.LockOSThread() // daemons end with the thread that started them
	if err := run(ctx, b); err != nil {
		fmt.Fprintf(os.Stderr, "benchmark of %s: %v\n", b.Title, err)
		return 1
	}
	return 0
}

// Run measures and prints the table.
func (b Bench) Run(ctx context.Context, servers []Server, rows []Measure) error {
	dir, err := os.MkdirTemp("", "netroot-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "disk")
	if err := Fill(file, b.Size); err != nil {
		return err
	}
	results := make([][][]result, len(rows)) // row, round, server
	for i := range b.Rounds {
		if err := round(ctx, i, servers, file, rows, results); err != nil {
			return err
		}
	}
	return b.table(os.Stdout, servers, rows, results)
}

// result is one measure: units a second, and the server's processor time for each, in microseconds.
type result struct{ speed, cpu float64 }

// round starts all servers, and takes each measure of one right after another's, so that all meet
// the machine in the same mood. Which of them is the first goes round.
func round(ctx context.Context, first int, servers []Server, file string, rows []Measure, results [][][]result) error {
	var targets []*Target
	for _, s := range servers {
		t, err := s.Start(ctx, file)
		if err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		defer t.Stop()
		targets = append(targets, t)
	}
	for j, m := range rows {
		of := make([]result, len(targets))
		for k := range targets {
			i := (first + k) % len(targets)
			t := targets[i]
			before, begin := t.CPU(), time.Now()
			v, err := m.Run(ctx, t.URL)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", servers[i].Name, m.Name, err)
			}
			took := time.Since(begin).Seconds()
			of[i] = result{v, 1e6 * (t.CPU() - before) / (v * took)}
		}
		results[j] = append(results[j], of)
	}
	return nil
}

func (b Bench) table(out io.Writer, servers []Server, rows []Measure, results [][][]result) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintf(w, "%s\t", b.Title)
	for _, s := range servers {
		fmt.Fprintf(w, "%s\t", s.Name)
	}
	fmt.Fprintln(w)
	for j, m := range rows {
		fmt.Fprintf(w, "%s\t", m.Name)
		for i := range servers {
			of := func(what func(of []result) float64) float64 { return median(results[j], what) }
			fmt.Fprintf(w, "%.0f (%.2f) %.3g µs\t", of(func(r []result) float64 { return r[i].speed }),
				of(func(r []result) float64 { return r[0].speed / r[i].speed }), of(func(r []result) float64 { return r[i].cpu }))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "medians of %d rounds; in brackets: %s divided by that server in the same round, above 1 it is the faster one; then the server's CPU time for one\n\n",
		b.Rounds, servers[0].Name)
	return w.Flush()
}

func median(rounds [][]result, of func([]result) float64) float64 {
	var v []float64
	for _, r := range rounds {
		v = append(v, of(r))
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// Fill writes size MiB of noise, the same in every run.
func Fill(file string, size int) error {
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

// FreePort is a port of 127.0.0.1 without a listener.
func FreePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// Installed finds a program, or names the package that has it.
func Installed(program, debian string) error {
	if _, err := exec.LookPath(program); err != nil {
		return fmt.Errorf("%w: install the package %s", err, debian)
	}
	return nil
}

// Daemon starts a foreign server that is to listen on the port, and waits until it does. stop ends
// it and its children.
func Daemon(port string, argv ...string) (pid int, stop func(), err error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	var said bytes.Buffer // printed only when it does not start
	cmd.Stderr = &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 0, nil, err
	}
	stop = func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	}
	if err := Retry(func() error {
		conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", port))
		if err == nil {
			conn.Close()
		}
		return err
	}); err != nil {
		stop()
		return 0, nil, fmt.Errorf("%s does not listen: %w\n%s", argv[0], err, said.String())
	}
	return cmd.Process.Pid, stop, nil
}

// Retry tries for ten seconds.
func Retry(try func() error) error {
	limit := time.After(10 * time.Second)
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-limit:
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}
