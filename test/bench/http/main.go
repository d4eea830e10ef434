// Command http compares our HTTP server with nginx: curl fetches the packed root over one stream
// and over several streams at once. It requires curl; nginx is skipped if it is not installed.
//
//	go run ./test/bench/http -size 256 -rounds 5
package main

import (
	"context"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sync/errgroup"

	"netroot/internal/handoff"
	"netroot/test/bench/beside"
)

func main() {
	os.Exit(beside.Bench{Title: "HTTP", Size: 256, Rounds: 5}.Main(run))
}

func run(ctx context.Context, b beside.Bench) error {
	if err := beside.Installed("curl", "curl"); err != nil {
		return err
	}
	return b.Run(ctx, beside.There(beside.Netroot(b.Netroot, handoff.HTTP), beside.Nginx()), []beside.Measure{
		{Name: "1 stream (MiB/s)", Run: fetch(b.Size, 1)},
		{Name: "4 streams (MiB/s)", Run: fetch(b.Size, 4)},
	})
}

// fetch returns the speed of one curl for each stream. Each fetches the file so often that its
// start does not matter.
func fetch(size, streams int) func(context.Context, string) (float64, error) {
	const times = 8
	return func(ctx context.Context, url string) (float64, error) {
		args := []string{"--silent", "--show-error", "--fail"}
		for range times {
			args = append(args, "--output", "/dev/null", url)
		}
		begin := time.Now()
		all, ctx := errgroup.WithContext(ctx)
		for range streams {
			all.Go(func() error {
				cmd := exec.CommandContext(ctx, "curl", args...)
				cmd.Stderr = os.Stderr
				return cmd.Run()
			})
		}
		err := all.Wait()
		return float64(size*times*streams) / time.Since(begin).Seconds(), err
	}
}
