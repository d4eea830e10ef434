package nodeinit

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"netroot/internal/handoff"
	"netroot/internal/nodeinit/devices"
	"netroot/internal/nodeinit/report"
)

var errRefused = errors.New("connection refused")

// failing is a step that fails until the time has come, each attempt taking as long as given.
func failing(until, attempt time.Duration) step {
	started := time.Now()
	return step{name: "attach", run: func(ctx context.Context, _ report.Step) (string, error) {
		devices.Pause(ctx, attempt)
		if time.Since(started) < until {
			return "", errRefused
		}
		return "here it is", nil
	}}
}

// events keeps what was reported.
type events []report.Event

func (e *events) Report(event report.Event) { *e = append(*e, event) }

// TestTry: a step is tried until it succeeds, with the pauses that were announced, and each attempt
// is reported.
func TestTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, said := quiet()
		var got events
		n.to = report.All{n.to, &got}
		started := time.Now()
		if err := n.try(t.Context(), failing(7*time.Second, 0)); err != nil || time.Since(started) != 7*time.Second {
			t.Errorf("%s, %v; want 1+2+4 s", time.Since(started), err)
		}
		for _, want := range []string{
			"<3>netroot: attach: FAILED: connection refused\n",
			"<5>netroot: attach: trying again in 1s (rd.shell on the kernel command line gives a shell here)\n",
			"<5>netroot: attach: trying again in 4s\n",
			"<5>netroot: attach: here it is (0.00 s)\n",
		} {
			if !strings.Contains(said.String(), want) {
				t.Errorf("the console lacks %q:\n%s", want, said)
			}
		}
		var kinds []report.Kind
		for _, e := range got {
			kinds = append(kinds, e.Kind)
		}
		again := []report.Kind{report.Started, report.Failed, report.Retrying}
		want := slices.Concat(again, again, again, []report.Kind{report.Started, report.Done})
		if !slices.Equal(kinds, want) {
			t.Errorf("events %v", kinds)
		}
		if last := got[len(got)-1]; last.Attempt != 4 || got[len(got)-3].Pause != 4*time.Second || !errors.Is(got[len(got)-3].Err, errRefused) {
			t.Errorf("last events %+v", got[len(got)-3:])
		}
	})
}

func TestBackoff(t *testing.T) {
	for failures, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 5: 16 * time.Second, 6: 30 * time.Second, 60: 30 * time.Second} {
		if got := backoff(failures); got != want {
			t.Errorf("after %d failures %s, want %s", failures, got, want)
		}
	}
}

// TestRestartForNewPlan: an attach that fails for the whole of the patience, and often enough, ends
// with a restart; a server that is away for less never causes one, and neither does another step.
func TestRestartForNewPlan(t *testing.T) {
	const ever = 1000 * time.Hour
	for name, tt := range map[string]struct {
		away, attempt time.Duration // how long the server is away; how long an attempt takes
		spread        float64
		retry         time.Duration
		otherStep     bool
		min, max      time.Duration // when it gives up; 0: it does not
	}{
		"withdrawn":               {away: ever, spread: 0.5, min: 12*time.Minute + 30*time.Second, max: 13*time.Minute + time.Second},
		"withdrawn, earliest":     {away: ever, spread: 0, min: 10 * time.Minute, max: 10*time.Minute + 30*time.Second},
		"withdrawn, latest":       {away: ever, spread: 1, min: 15 * time.Minute, max: 15*time.Minute + 38*time.Second},
		"away for 9.5 minutes":    {away: 9*time.Minute + 30*time.Second, spread: 0},
		"back after 12 minutes":   {away: 12 * time.Minute, spread: 0.5},
		"slow attempts":           {away: ever, attempt: 5 * time.Minute, spread: 0.5, min: 25 * time.Minute, max: 26 * time.Minute},
		"slow, back at the third": {away: 14 * time.Minute, attempt: 5 * time.Minute, spread: 0.5},
		"rd.retry=60":             {away: ever, spread: 0, retry: time.Minute, min: time.Minute, max: 90 * time.Second},
		"rd.retry=60, latest":     {away: ever, spread: 1, retry: time.Minute, min: 90 * time.Second, max: 128 * time.Second},
		"rd.retry of a month":     {away: 300 * time.Hour, spread: 0.5, retry: 720 * time.Hour},
		"another step":            {away: 48 * time.Hour, spread: 0.5, otherStep: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, _ := quiet()
				n.spread = func() float64 { return tt.spread }
				n.boot.Retry = tt.retry
				s := failing(tt.away, tt.attempt)
				if !tt.otherStep {
					s.needsPlan = report.AttachFailed
				}
				started := time.Now()
				err := n.try(t.Context(), s)
				took := time.Since(started)
				if tt.max == 0 {
					if err != nil || took < tt.away {
						t.Fatalf("%v after %s", err, took)
					}
					return
				}
				if !errors.Is(err, errRefused) || reasonOf(err) != report.AttachFailed || took < tt.min || took > tt.max {
					t.Errorf("%v after %s, want from %s to %s", err, took, tt.min, tt.max)
				}
			})
		})
	}
}

// TestSiteAfterOutage: of a thousand nodes whose server is away none restarts within the patience,
// and later they do not restart in step.
func TestSiteAfterOutage(t *testing.T) {
	const nodes = 1000
	perMinute := map[time.Duration]int{}
	for i := range nodes {
		synctest.Test(t, func(t *testing.T) {
			n, _ := quiet()
			n.spread = rand.New(rand.NewPCG(1, uint64(i))).Float64
			s := failing(time.Hour, 0)
			s.needsPlan = report.AttachFailed
			started := time.Now()
			if err := n.try(t.Context(), s); err == nil {
				t.Error("no restart")
			}
			perMinute[time.Since(started).Truncate(time.Minute)]++
		})
	}
	most := 0
	for minute, n := range perMinute {
		if most = max(most, n); minute < defaultPatience {
			t.Errorf("%d restart within %s", n, minute+time.Minute)
		}
	}
	if most > nodes/4 {
		t.Errorf("%d of %d restart in one minute: %v", most, nodes, perMinute)
	}
}

func TestReasonOf(t *testing.T) {
	err := error(&planError{"attach", report.AttachFailed, 25, 10*time.Minute + 300*time.Millisecond, errRefused})
	const text = "attach failed 25 times in 10m0s, the last time with: connection refused; a restart asks for a new plan"
	if err.Error() != text || reasonOf(err) != report.AttachFailed || reasonOf(errRefused) != report.BootFailed || reasonOf(nil) != report.BootFailed {
		t.Errorf("%v: %s, %s", err, reasonOf(err), reasonOf(errRefused))
	}
}

// TestTryAsGuest: with rd.shell, the shell of the other initramfs comes after the first failure;
// without, the step is repeated.
func TestTryAsGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := quiet()
		n.guest = true
		if err := n.try(t.Context(), failing(3*time.Second, 0)); err != nil {
			t.Error(err)
		}
		n.boot = handoff.Boot{Shell: true}
		started := time.Now()
		if err := n.try(t.Context(), failing(time.Hour, 0)); !errors.Is(err, errRefused) || time.Since(started) != 0 {
			t.Errorf("%v after %s", err, time.Since(started))
		}
	})
}

// TestSpread: nodes that fail together do not return together.
func TestSpread(t *testing.T) {
	for random, want := range map[float64]time.Duration{0: 7500 * time.Millisecond, 0.5: 10 * time.Second, 1: 12500 * time.Millisecond} {
		if got := (spread(func() float64 { return random })).around(10 * time.Second); got != want {
			t.Errorf("%v: %s, want %s", random, got, want)
		}
	}
}
