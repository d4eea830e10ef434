package nodeinit

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/nodeinit/devices"
	"netroot/internal/nodeinit/report"
)

const (
	// firstPause and longestPause bound the pauses between two attempts of a step: 1, 2, 4 and so
	// on to 30 s. A server that restarts is found soon, and one that is away is not flooded.
	firstPause   = time.Second
	longestPause = 30 * time.Second
	// defaultPatience is how long a step that depends on the plan may fail before the machine
	// restarts to ask for a new one, unless rd.retry= says otherwise. A boot server that is
	// restarted or updated is back within minutes, and no node restarts for that; an image or an
	// archive that was withdrawn, or a server that has moved, never is.
	defaultPatience = 10 * time.Minute
	// leastFailures is how often the step must have failed by then: one attempt may wait for
	// minutes for servers that do not respond, and must not use up the patience.
	leastFailures = 5
	// restartPause leaves time to read the console.
	restartPause = 30 * time.Second
	// jitter spreads the pauses by a quarter in both directions, so that nodes that lost their
	// server together do not return together.
	jitter = 0.25
	// grace is the part of the patience that is added to it at most, for the same purpose. It is
	// never shortened: an outage that is shorter than the patience restarts no node.
	grace = 0.5
)

// spread yields random numbers from 0 to 1, or, in tests, a fixed one.
type spread func() float64

// around returns a duration that differs from d by at most the jitter.
func (s spread) around(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (1 + jitter*(2*s()-1))).Round(10 * time.Millisecond)
}

// beyond returns a duration from d to d and the grace.
func (s spread) beyond(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (1 + grace*s())).Round(10 * time.Millisecond)
}

// patience decides when another attempt with the same plan is pointless.
type patience struct {
	limit    time.Duration // from the first failure on
	failures int
	first    time.Time
}

// exhausted counts a failure and reports whether it was the last.
func (p *patience) exhausted(now time.Time) bool {
	if p.failures++; p.failures == 1 {
		p.first = now
	}
	return p.failures >= leastFailures && now.Sub(p.first) >= p.limit
}

// planError says that a step failed until the patience was exhausted.
type planError struct {
	step     string
	reason   report.Reason
	failures int
	after    time.Duration
	last     error
}

func (e *planError) Error() string {
	return fmt.Sprintf("%s failed %d times in %s, the last time with: %v; a restart asks for a new plan",
		e.step, e.failures, e.after.Round(time.Second), e.last)
}

func (e *planError) Unwrap() error { return e.last }

// hopelessError is an error that another attempt with the same plan meets again: no server has to come
// back for it.
type hopelessError struct{ error }

func (e hopelessError) Unwrap() error { return e.error }

func isHopeless(err error) bool {
	var h hopelessError
	return errors.As(err, &h)
}

func reasonOf(err error) report.Reason {
	var p *planError
	if errors.As(err, &p) {
		return p.reason
	}
	return report.BootFailed
}

// try runs one step until it succeeds. Between two attempts it offers the rescue shell if the
// command line asks for one, and waits otherwise, longer each time. It returns an error only if the
// machine should restart for a new plan, or if another initramfs has a shell to offer.
func (n *node) try(ctx context.Context, s step) error {
	out := report.Step{Name: s.name, To: n.to}
	limit := defaultPatience
	if n.boot.Retry > 0 {
		limit = n.boot.Retry
	}
	p := patience{limit: n.spread.beyond(limit)}
	over := func(err error) bool {
		exhausted := p.exhausted(time.Now())
		return s.needsPlan != "" && (exhausted || isHopeless(err) && p.failures >= leastFailures)
	}
	for attempt := 1; ; attempt++ {
		out.Emit(report.Event{Kind: report.Started, Attempt: attempt})
		started := time.Now()
		said, err := s.run(ctx, out)
		took := time.Since(started)
		if err == nil {
			out.Emit(report.Event{Kind: report.Done, Attempt: attempt, Duration: took, Text: said})
			return nil
		}
		out.Emit(report.Event{Kind: report.Failed, Attempt: attempt, Duration: took, Err: err})
		switch {
		case n.boot.Shell && n.guest:
			return err
		case n.boot.Shell:
			n.rescue(out, s.name+" failed; \"retry\" tries it again")
			continue
		case over(err):
			return &planError{s.name, s.needsPlan, p.failures, time.Since(p.first), err}
		}
		pause := n.spread.around(backoff(attempt))
		out.Emit(report.Event{Kind: report.Retrying, Attempt: attempt + 1, Pause: pause, Err: err})
		devices.Pause(ctx, pause)
	}
}

// backoff is the pause after the given number of failures.
func backoff(failures int) time.Duration {
	return min(firstPause<<min(failures-1, 5), longestPause)
}

// restart restarts the machine after a pause in which the console can be read.
func (n *node) restart(out report.Step, why report.Reason, err error) {
	pause := n.spread.around(restartPause)
	out.Emit(report.Event{Kind: report.Restarting, Reason: why, Pause: pause, Err: err})
	devices.Pause(context.Background(), pause)
	unix.Sync()
	unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}
