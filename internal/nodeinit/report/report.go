// Package report carries what the init of a node does to those who follow the boot: each step
// emits typed events, and all of them leave through one interface, Reporter.
//
// The console is the first Reporter; History keeps the lines for the rescue shell. The package is
// not a logger: an event has a kind, a step, a duration and an error, and only a Reporter turns it
// into text. It does not decide anything about the boot.
package report

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

// Kind says what happened.
type Kind string

// The kinds of events.
const (
	Started    Kind = "started"    // an attempt of a step began
	Done       Kind = "done"       // a step succeeded; Text is its result, Duration that of this attempt
	Failed     Kind = "failed"     // an attempt of a step failed; Err says why
	Retrying   Kind = "retrying"   // the step is tried again after Pause
	Fault      Kind = "fault"      // something went wrong, and the step continues without it
	Note       Kind = "note"       // progress
	Detail     Kind = "detail"     // for debugging
	Restarting Kind = "restarting" // the machine restarts after Pause, for Reason
)

// Reason is why the machine restarts.
type Reason string

// The reasons of a restart.
const (
	AttachFailed Reason = "attach-failed" // the root could not be attached with the present plan
	MountFailed  Reason = "mount-failed"  // the root was attached, and could not be mounted
	LayersFailed Reason = "layers-failed" // the archives of the present plan could not be fetched or applied
	BootFailed   Reason = "boot-failed"   // a failure that the init cannot repeat, such as a bad command line
	Panicked     Reason = "panicked"      // a defect of the init
)

// Event is one thing that happened during the boot. Fields that do not belong to its kind are zero.
type Event struct {
	Kind     Kind
	Step     string
	Time     time.Time
	Duration time.Duration // Done, Failed: of this attempt
	Attempt  int           // Started, Done, Failed, Retrying: from 1 on
	Pause    time.Duration // Retrying, Restarting: until it happens
	Text     string        // Done, Note, Detail: one line
	Err      error         // Failed, Fault: why; Retrying, Restarting: the last error
	Reason   Reason        // Restarting
}

// Reporter receives the events of a boot. Report returns soon: a boot does not wait for its
// audience. It is called from several goroutines.
type Reporter interface {
	Report(Event)
}

// Step emits the events of one step.
type Step struct {
	Name string
	To   Reporter
}

// Emit completes an event with the step's name and the time.
func (s Step) Emit(e Event) {
	e.Step, e.Time = s.Name, time.Now()
	s.To.Report(e)
}

// Note tells of progress.
func (s Step) Note(text string) { s.Emit(Event{Kind: Note, Text: text}) }

// Fault tells of an error that does not end the step.
func (s Step) Fault(err error) { s.Emit(Event{Kind: Fault, Err: err}) }

// Detail tells what only a developer needs.
func (s Step) Detail(text string) { s.Emit(Event{Kind: Detail, Text: text}) }

// All passes each event to several reporters, in order.
type All []Reporter

// Report implements Reporter.
func (a All) Report(e Event) {
	for _, r := range a {
		r.Report(e)
	}
}

// String is the event as one line of text.
func (e Event) String() string {
	switch e.Kind {
	case Started:
		return fmt.Sprintf("%s: attempt %d", e.Step, e.Attempt)
	case Done:
		return fmt.Sprintf("%s: %s (%.2f s)", e.Step, e.Text, e.Duration.Seconds())
	case Failed, Fault:
		return fmt.Sprintf("%s: FAILED: %v", e.Step, e.Err)
	case Retrying:
		hint := ""
		if e.Attempt <= 2 { // once for each step
			hint = " (rd.shell on the kernel command line gives a shell here)"
		}
		return fmt.Sprintf("%s: trying again in %s%s", e.Step, e.Pause, hint)
	case Restarting:
		return fmt.Sprintf("%s: restarting the machine in %s", e.Step, e.Pause)
	}
	return e.Step + ": " + e.Text
}

// History keeps what the steps reported, one line an event, without debugging and progress.
type History struct {
	mu    sync.Mutex
	lines []string
}

// historyLimit bounds the lines that are kept: a step may fail for days.
const historyLimit = 200

// Report implements Reporter.
func (h *History) Report(e Event) {
	if e.Kind != Done && e.Kind != Failed && e.Kind != Fault || e.Kind == Done && e.Text == "" {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.lines) == historyLimit {
		h.lines = append(h.lines[:0], h.lines[1:]...)
	}
	h.lines = append(h.lines, e.String())
}

// String is all lines, the oldest first.
func (h *History) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.lines, "\n")
}
