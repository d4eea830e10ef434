// Command versions measures several netroot programs beside each other, such as one of the working
// tree and one of an older commit, over NBD, NVMe/TCP and iSCSI: by one client, and by many whose
// requests take longer on the way.
//
//	git worktree add /tmp/old COMMIT && (cd /tmp/old && go build -o /tmp/netroot-old ./cmd/netroot)
//	go run ./test/bench/versions -netroot bin/netroot -other /tmp/netroot-old -clients 200 -delay 100us
//
// With "-tags poller" a program is built whose busy connections do not wait in the kernel
// (internal/proto/accept).
//
// The delay is added by the clients, between a request and its departure: it is what a server sees
// of a network, at a fraction of what a proxy costs on the machine that is measured.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"netroot/internal/handoff"
	"netroot/internal/term"
	"netroot/test/bench/beside"
	"netroot/test/bench/load"
)

func main() {
	var o options
	flag.StringVar(&o.others, "other", "", "programs to compare with, separated by commas")
	flag.StringVar(&o.transports, "transports", "nbd,nvme,iscsi", "transports to measure, separated by commas")
	flag.IntVar(&o.clients, "clients", 200, "clients of the measures with many")
	flag.DurationVar(&o.delay, "delay", 100*time.Microsecond, "added delay of each request of many clients")
	b := beside.Bench{Title: "versions", Size: 64, Rounds: 5, Seconds: 2}
	os.Exit(b.Main(func(ctx context.Context, b beside.Bench) error { return run(ctx, b, o) }))
}

type options struct {
	others, transports string
	clients            int
	delay              time.Duration
}

// pattern is a row for each program.
type pattern struct {
	name    string
	clients int
	delay   time.Duration
	load.Pattern
}

// sample is one measure of one program.
type sample struct {
	load.Result
	cpu     float64 // seconds of the server's processor time for each read
	threads int     // of the server
}

func run(ctx context.Context, b beside.Bench, o options) error {
	dir, err := os.MkdirTemp("", "netroot-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "disk")
	if err := beside.Fill(file, b.Size); err != nil {
		return err
	}
	programs := append([]string{b.Netroot}, strings.FieldsFunc(o.others, func(r rune) bool { return r == ',' })...)
	last := time.Duration(b.Seconds) * time.Second
	patterns := []pattern{
		{"1 client, 4 KiB", 1, 0, load.Pattern{Bytes: 4 << 10, Depth: 1, Random: true, For: last}},
		{"1 client, 4 KiB, depth 16", 1, 0, load.Pattern{Bytes: 4 << 10, Depth: 16, Random: true, For: last}},
		{"1 client, 1 MiB", 1, 0, load.Pattern{Bytes: 1 << 20, Depth: 1, For: last}},
		{fmt.Sprintf("1 client, 4 KiB, +%v", o.delay), 1, o.delay,
			load.Pattern{Bytes: 4 << 10, Depth: 1, Random: true, For: last}},
		{fmt.Sprintf("%d clients, 4 KiB, +%v", o.clients, o.delay), o.clients, o.delay,
			load.Pattern{Bytes: 4 << 10, Depth: 1, Random: true, For: last}},
		{fmt.Sprintf("%d clients, 64 KiB, +%v", o.clients, o.delay), o.clients, o.delay,
			load.Pattern{Bytes: 64 << 10, Depth: 1, Random: true, For: last}},
	}
	rows := [][]string{{"TRANSPORT", "READS", "PROGRAM", "PER SECOND", "RATIO", "P50", "P99", "CPU EACH", "THREADS"}}
	for t := range strings.SplitSeq(o.transports, ",") {
		samples, err := measure(ctx, b, handoff.Transport(t), file, programs, patterns)
		if err != nil {
			return fmt.Errorf("%s: %w", t, err)
		}
		rows = append(rows, table(t, programs, patterns, samples)...)
	}
	return term.Table(os.Stdout, rows)
}

// measure returns the samples by pattern, program and round. All programs are measured one right
// after another, so that they meet the machine in the same state; which of them is the first goes
// round.
func measure(ctx context.Context, b beside.Bench, t handoff.Transport, file string, programs []string, patterns []pattern) ([][][]sample, error) {
	samples := make([][][]sample, len(patterns))
	for i := range samples {
		samples[i] = make([][]sample, len(programs))
	}
	for round := range b.Rounds {
		targets := make([]*beside.Target, len(programs))
		for i, p := range programs {
			var err error
			if targets[i], err = beside.Netroot(p, t).Start(ctx, file); err != nil {
				return nil, err
			}
			defer targets[i].Stop()
		}
		for i, p := range patterns {
			if t == handoff.ISCSI && p.Depth > 1 {
				continue // the client has its reads one after the other
			}
			for k := range programs {
				n := (round + k) % len(programs)
				s, err := p.run(ctx, b, t, targets[n])
				if err != nil {
					return nil, fmt.Errorf("%s: %s: %w", programs[n], p.name, err)
				}
				samples[i][n] = append(samples[i][n], s)
			}
		}
	}
	return samples, nil
}

func (p pattern) run(ctx context.Context, b beside.Bench, t handoff.Transport, target *beside.Target) (s sample, err error) {
	conns, hangUp, err := load.Connect(ctx, t, target.URL, p.clients, int64(b.Size)<<20)
	defer hangUp()
	if err != nil {
		return s, err
	}
	for _, c := range conns {
		c.Delay(p.delay)
	}
	before := target.CPU()
	stop := make(chan struct{})
	most := make(chan int)
	go func() { most <- target.MostThreads(stop) }()
	s.Result, err = load.Run(ctx, conns, p.Pattern)
	close(stop)
	s.threads = <-most
	s.cpu = (target.CPU() - before) / float64(max(s.Reads, 1))
	return s, err
}

func table(t string, programs []string, patterns []pattern, samples [][][]sample) (rows [][]string) {
	for i, p := range patterns {
		for n, program := range programs {
			of := func(what func(n, round int) float64) float64 {
				var v []float64
				for round := range samples[i][n] {
					v = append(v, what(n, round))
				}
				slices.Sort(v)
				return v[len(v)/2]
			}
			if len(samples[i][n]) == 0 {
				continue
			}
			at := func(n, round int) sample { return samples[i][n][round] }
			duration := func(what func(s sample) time.Duration) string {
				return time.Duration(of(func(n, round int) float64 { return float64(what(at(n, round))) })).Round(time.Microsecond).String()
			}
			rows = append(rows, []string{
				t, p.name, filepath.Base(program),
				fmt.Sprintf("%.0f", of(func(n, round int) float64 { return at(n, round).Rate })),
				fmt.Sprintf("%.2f", of(func(n, round int) float64 { return at(n, round).Rate / at(0, round).Rate })),
				duration(func(s sample) time.Duration { return s.P50 }),
				duration(func(s sample) time.Duration { return s.P99 }),
				fmt.Sprintf("%.1f µs", of(func(n, round int) float64 { return 1e6 * at(n, round).cpu })),
				fmt.Sprintf("%.0f", of(func(n, round int) float64 { return float64(at(n, round).threads) })),
			})
		}
	}
	return rows
}
