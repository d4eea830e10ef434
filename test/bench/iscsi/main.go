// Command iscsi measures our iSCSI target beside tgtd, by iscsi-perf of libiscsi: sequentially by 1
// MiB, one command at a time, and by 128 KiB, eight at a time; and 4 KiB at random, sixteen at a
// time. It needs iscsi-perf; tgtd is left out where it is not installed or this is not root, which
// it wants to be.
//
//	go run ./test/bench/iscsi -size 256 -rounds 5 -seconds 4
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"time"

	"netroot/internal/handoff"
	"netroot/test/bench/beside"
)

func main() {
	os.Exit(beside.Bench{Title: "iSCSI", Size: 256, Rounds: 5, Seconds: 4}.Main(run))
}

func run(ctx context.Context, b beside.Bench) error {
	if err := beside.Installed("iscsi-perf", "libiscsi-bin"); err != nil {
		return err
	}
	servers := []beside.Server{beside.Netroot(b.Netroot, handoff.ISCSI)}
	if os.Geteuid() == 0 {
		servers = beside.There(servers[0], beside.Tgtd())
	}
	return b.Run(ctx, servers, []beside.Measure{
		perf("1 MiB, depth 1 (MiB/s)", mibs, b.Seconds, "-b", "2048", "-m", "1"),
		perf("128 KiB, depth 8 (MiB/s)", mibs, b.Seconds, "-b", "256", "-m", "8"),
		perf("random 4 KiB, depth 16 (1/s)", commands, b.Seconds, "-b", "8", "-m", "16", "-r"),
	})
}

// Columns of the result of iscsi-perf.
const (
	commands = 1 // a second
	mibs     = 2 // a second
)

var average = regexp.MustCompile(`iops average (\d+) \((\d+) MB/s\)`)

// perf returns the average that iscsi-perf prints last. It prints one each second, and sometimes
// does not see its end; then it is stopped.
func perf(name string, column, seconds int, args ...string) beside.Measure {
	return beside.Measure{Name: name, Run: func(ctx context.Context, url string) (float64, error) {
		limit, cancel := context.WithTimeout(ctx, time.Duration(seconds+3)*time.Second)
		defer cancel()
		args := append(slices.Clone(args), "-t", strconv.Itoa(seconds), url)
		out, err := exec.CommandContext(limit, "iscsi-perf", args...).CombinedOutput()
		all := average.FindAllSubmatch(out, -1)
		if len(all) == 0 || ctx.Err() != nil {
			return 0, fmt.Errorf("iscsi-perf %v: %w\n%s", args, errors.Join(ctx.Err(), err, errors.New("no result")), out)
		}
		return strconv.ParseFloat(string(all[len(all)-1][column]), 64)
	}}
}
