package report

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// The console prints each kind of event at the kernel's level for it.
func TestConsole(t *testing.T) {
	refused := errors.New("dial tcp 10.0.2.2:10809:\nconnection refused")
	for _, tt := range []struct {
		event       Event
		want, debug string
	}{
		{Event{Kind: Started, Attempt: 2}, "<7>netroot: attach: attempt 2\n", "<5>netroot: attach: attempt 2\n"},
		{Event{Kind: Done, Text: "/dev/nbd0", Duration: 1234 * time.Millisecond}, "<5>netroot: attach: /dev/nbd0 (1.23 s)\n", ""},
		{Event{Kind: Done}, "", ""},
		{Event{Kind: Failed, Err: refused}, "<3>netroot: attach: FAILED: dial tcp 10.0.2.2:10809:; connection refused\n", ""},
		{Event{Kind: Fault, Err: refused}, "<3>netroot: attach: FAILED: dial tcp 10.0.2.2:10809:; connection refused\n", ""},
		{Event{Kind: Retrying, Attempt: 2, Pause: time.Second, Err: refused},
			"<5>netroot: attach: trying again in 1s (rd.shell on the kernel command line gives a shell here)\n", ""},
		{Event{Kind: Retrying, Attempt: 3, Pause: 2 * time.Second, Err: refused}, "<5>netroot: attach: trying again in 2s\n", ""},
		{Event{Kind: Note, Text: "12.0 MiB of 99.0 MiB"}, "<5>netroot: attach: 12.0 MiB of 99.0 MiB\n", ""},
		{Event{Kind: Detail, Text: "x"}, "<7>netroot: attach: x\n", "<5>netroot: attach: x\n"},
		{Event{Kind: Restarting, Pause: 30 * time.Second, Reason: AttachFailed}, "<5>netroot: attach: restarting the machine in 30s\n", ""},
		{Event{Kind: Note, Text: strings.Repeat("x", 2000)}, "<5>netroot: attach: " + strings.Repeat("x", 892) + "...\n", ""},
	} {
		if tt.debug == "" {
			tt.debug = tt.want
		}
		for debug, want := range map[bool]string{false: tt.want, true: tt.debug} {
			var out bytes.Buffer
			c := NewConsole(&out)
			c.Debug = debug
			Step{"attach", c}.Emit(tt.event)
			if out.String() != want {
				t.Errorf("%+v, debug %v:\n%q\n%q", tt.event, debug, out.String(), want)
			}
		}
	}
}

// A Reporter gets every event with its step and its time.
func TestAll(t *testing.T) {
	var a, b recorder
	s := Step{"mount", All{&a, &b}}
	s.Fault(errors.New("x"))
	if len(a) != 1 || len(b) != 1 || a[0].Step != "mount" || a[0].Kind != Fault || a[0].Time.IsZero() {
		t.Errorf("%+v, %+v", a, b)
	}
}

type recorder []Event

func (r *recorder) Report(e Event) { *r = append(*r, e) }

func TestHistory(t *testing.T) {
	var h History
	s := Step{"attach", &h}
	for i := range historyLimit + 5 {
		s.Emit(Event{Kind: Started})
		s.Note("progress")
		s.Fault(fmt.Errorf("error %d", i))
	}
	lines := strings.Split(h.String(), "\n")
	if len(lines) != historyLimit || lines[0] != "attach: FAILED: error 5" || lines[historyLimit-1] != "attach: FAILED: error 204" {
		t.Errorf("%d lines, from %q to %q", len(lines), lines[0], lines[len(lines)-1])
	}
}
