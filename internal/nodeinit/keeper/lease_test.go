package keeper

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"netroot/internal/nodeinit/network"
	"netroot/internal/nodeinit/report"
)

// TestKeepLease: a lease is renewed at half of its duration, and, while the server is away, at each
// tenth of it; one of seconds does not flood the network.
func TestKeepLease(t *testing.T) {
	for name, tt := range map[string]struct {
		duration time.Duration
		renewals []time.Duration // the durations that the server grants; 0: it does not answer
		want     []time.Duration // the pauses before each request
	}{
		"renewed": {time.Hour, []time.Duration{time.Hour, 2 * time.Hour, time.Hour},
			[]time.Duration{30 * time.Minute, 30 * time.Minute, time.Hour}},
		"server away": {time.Hour, []time.Duration{0, 0, time.Hour, time.Hour},
			[]time.Duration{30 * time.Minute, 6 * time.Minute, 6 * time.Minute, 30 * time.Minute}},
		"short": {time.Minute, []time.Duration{0, time.Minute, 0},
			[]time.Duration{30 * time.Second, 10 * time.Second, 30 * time.Second}},
		"very short": {2 * time.Second, []time.Duration{0, 0}, []time.Duration{10 * time.Second, 10 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var said bytes.Buffer
				step := report.Step{Name: "keeper", To: report.NewConsole(&said)}
				last := time.Now()
				var pauses []time.Duration
				var held []time.Duration // the lease that each request names
				renew := func(_ context.Context, index int, l *network.Lease) (*network.Lease, error) {
					pauses, held = append(pauses, time.Since(last)), append(held, l.Duration)
					last = time.Now()
					granted := tt.renewals[len(pauses)-1]
					if len(pauses) == len(tt.renewals) {
						cancel()
					}
					if index != 2 || granted == 0 {
						return nil, errors.New("no answer")
					}
					return &network.Lease{Duration: granted}, nil
				}
				cfg := network.Config{Index: 2, Address: netip.MustParsePrefix("10.1.2.3/24"), Lease: &network.Lease{Duration: tt.duration}}
				keepLease(ctx, step, cfg, renew)
				if !slices.Equal(pauses, tt.want) {
					t.Errorf("pauses %v, want %v", pauses, tt.want)
				}
				away := strings.Count(said.String(), "<3>netroot: keeper: FAILED: renew the lease of 10.1.2.3: no answer\n")
				if want := countZero(tt.renewals); away != want {
					t.Errorf("%d failures are on the console, want %d:\n%s", away, want, said.String())
				}
				want := tt.duration // of the lease that is held
				for i, got := range held {
					if got != want {
						t.Errorf("request %d names a lease of %s, want %s", i, got, want)
					}
					if tt.renewals[i] != 0 {
						want = tt.renewals[i]
					}
				}
			})
		})
	}
}

func countZero(d []time.Duration) (n int) {
	for _, v := range d {
		if v == 0 {
			n++
		}
	}
	return n
}

// TestInfiniteLease: a lease without an end is not renewed.
func TestInfiniteLease(t *testing.T) {
	step := report.Step{To: report.NewConsole(&bytes.Buffer{})}
	keepLease(t.Context(), step, network.Config{Lease: &network.Lease{}}, func(context.Context, int, *network.Lease) (*network.Lease, error) {
		t.Fatal("asked")
		return nil, nil
	})
}
