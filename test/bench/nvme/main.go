// Command nvme measures our NVMe/TCP server beside our own NBD server, each with a client that is the same but for the
// protocol (package load).
//
//	go run ./test/bench/nvme -size 256 -rounds 5 -seconds 2
package main

import (
	"context"
	"net/url"
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
		conns, hangUp, err := b.connect(ctx, url, connections)
		defer hangUp()
		if err != nil {
			return 0, err
		}
		v, err := load.Run(ctx, conns, p)
		if !p.Random {
			v *= float64(p.Bytes) / (1 << 20)
		}
		return v, err
	}}
}

// connect makes connections to a server by what its URL says it is.
func (b reader) connect(ctx context.Context, where string, n int) (conns []*load.Conn, hangUp func(), err error) {
	var host *load.Host
	hangUp = func() {
		for _, c := range conns {
			c.Close()
		}
		if host != nil {
			host.Close()
		}
	}
	if strings.HasPrefix(where, "nbd:") {
		u, err := url.Parse(where)
		if err != nil {
			return nil, hangUp, err
		}
		for range n {
			c, err := load.NBD(ctx, u.Host, strings.TrimPrefix(u.Path, "/"))
			if err != nil {
				return conns, hangUp, err
			}
			conns = append(conns, c)
		}
		return conns, hangUp, nil
	}
	address, nqn, err := load.ParseNVMe(where)
	if err != nil {
		return nil, hangUp, err
	}
	if host, err = load.NVMe(ctx, address, nqn, 0); err != nil {
		return nil, hangUp, err
	}
	for i := range n {
		c, err := host.Queue(ctx, 0, i+1, int64(b.Size)<<20)
		if err != nil {
			return conns, hangUp, err
		}
		conns = append(conns, c)
	}
	return conns, hangUp, nil
}
