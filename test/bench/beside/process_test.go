package beside

import (
	"os"
	"testing"
	"time"
)

// TestThisProcess: its processor time grows while it works, and its memory is some.
func TestThisProcess(t *testing.T) {
	me := &Target{PID: os.Getpid()}
	before := me.CPU()
	for begin := time.Now(); me.CPU() < before+3.0/clockTick; {
		if time.Since(begin) > time.Minute {
			t.Fatalf("%v s before, %v s after a minute of work", before, me.CPU())
		}
	}
	if n, err := me.Resident(); err != nil || n < 1<<20 {
		t.Errorf("%d bytes, %v", n, err)
	}
}
