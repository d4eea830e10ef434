// Command nvme measures our NVMe/TCP server beside our own NBD server, each with a client that is
// the same but for the protocol (package load).
//
//	go run ./test/bench/nvme -size 256 -rounds 5 -seconds 2
package main

import (
	"context"
	"os"
	"strings"
	"time"

	"netroot/internal/handoff"
	"netroot/test/bench/beside"
	"netroot/test/bench/load"
)

func main() {
	os.Exit(beside.Bench{Title: "NVMe/TCP and NBD", Size: 256, Rounds: 5, Seconds: 2}.Main(run))
}

func run(ctx context.Context, b beside.Bench) error {
	nvme, nbd := beside.Netroot(b.Netroot, handoff.NVMe), beside.Netroot(b.Netroot, handoff.NBD)
	nvme.Name, nbd.Name = "NVMe/TCP", "NBD"
	reads := reader{b}
	return b.Run(ctx, []beside.Server{nvme, nbd}, []beside.Measure{
		reads.measure("1 MiB, depth 1 (MiB/s)", 1, load.Pattern{Bytes: 1 << 20, Depth: 1}),
		reads.measure("128 KiB, depth 8 (MiB/s)", 1, load.Pattern{Bytes: 128 << 10, Depth: 8}),
		reads.measure("128 KiB, depth 8, 4 connections (MiB/s)", 4, load.Pattern{Bytes: 128 << 10, Depth: 8}),
		reads.measure("random 4 KiB, depth 1 (1/s)", 1, load.Pattern{Bytes: 4 << 10, Depth: 1, Random: true}),
		reads.measure("random 4 KiB, depth 16 (1/s)", 1, load.Pattern{Bytes: 4 << 10, Depth: 16, Random: true}),
	})
}

type reader struct{ beside.Bench }

// measure reads by a pattern. Large reads are counted in MiB, small ones each.
func (b reader) measure(name string, connections int, p load.Pattern) beside.Measure {
	p.For = time.Duration(b.Seconds) * time.Second
	return beside.Measure{Name: name, Run: func(ctx context.Context, url string) (float64, error) {
		t := handoff.NVMe
		if strings.HasPrefix(url, "nbd:") {
			t = handoff.NBD
		}
		conns, hangUp, err := load.Connect(ctx, t, url, connections, int64(b.Size)<<20)
		defer hangUp()
		if err != nil {
			return 0, err
		}
		r, err := load.Run(ctx, conns, p)
		if !p.Random {
			r.Rate *= float64(p.Bytes) / (1 << 20)
		}
		return r.Rate, err
	}}
}
