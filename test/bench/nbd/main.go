// Command nbd measures our NBD server beside nbdkit and qemu-nbd: sequential copies by nbdcopy over
// one and several connections, and random 4 KiB reads by fio. It needs nbdcopy and fio; a server
// that is not installed is left out.
//
//	go run ./test/bench/nbd -size 256 -rounds 3 -seconds 5
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"netroot/internal/handoff"
	"netroot/test/bench/beside"
)

func main() {
	os.Exit(beside.Bench{Title: "NBD", Size: 256, Rounds: 3, Seconds: 5}.Main(run))
}

func run(ctx context.Context, b beside.Bench) error {
	if err := errors.Join(beside.Installed("nbdcopy", "libnbd-bin"), beside.Installed("fio", "fio")); err != nil {
		return err
	}
	servers := beside.There(beside.Netroot(b.Netroot, handoff.NBD), beside.Nbdkit(), beside.QemuNBD())
	return b.Run(ctx, servers, measures(b.Size, b.Seconds))
}

// times is how often the file is copied for one measure, so that nbdcopy's start does not matter.
const times = 4

func measures(size, seconds int) []beside.Measure {
	copies := func(connections int) func(context.Context, string) (float64, error) {
		return func(ctx context.Context, uri string) (float64, error) {
			begin := time.Now()
			for range times {
				cmd := exec.CommandContext(ctx, "nbdcopy", "--no-extents", "--connections="+strconv.Itoa(connections), uri, "null:")
				if err := cmd.Run(); err != nil {
					return 0, err
				}
			}
			return float64(size*times) / time.Since(begin).Seconds(), nil
		}
	}
	random := func(depth int) func(context.Context, string) (float64, error) {
		return func(ctx context.Context, uri string) (float64, error) { return fio(ctx, uri, depth, seconds) }
	}
	return []beside.Measure{
		{Name: "copy, 1 connection (MiB/s)", Run: copies(1)},
		{Name: "copy, 4 connections (MiB/s)", Run: copies(4)},
		{Name: "random 4 KiB, depth 1 (1/s)", Run: random(1)},
		{Name: "random 4 KiB, depth 16 (1/s)", Run: random(16)},
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
