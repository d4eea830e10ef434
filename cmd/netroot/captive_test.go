package main

import (
	"bytes"
	"path/filepath"
	"syscall"
	"testing"
)

// TestCaptiveEnds: whatever ends a captive server ends its command, with what that has started.
func TestCaptiveEnds(t *testing.T) {
	for _, test := range []struct {
		name, command, slept string
		sleepers             int
		signal               syscall.Signal
		status               int
	}{
		{"asked to", "sleep 611.25 & sleep 611.25; :", "611.25", 2, syscall.SIGTERM, 143},
		{"interrupted", "sleep 612.25; :", "612.25", 1, syscall.SIGINT, 130},
		{"killed", "exec sleep 613.25", "613.25", 1, syscall.SIGKILL, -1},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			must(t, makeImage(filepath.Join(dir, "state"), "tiny", bytes.Repeat([]byte("root"), 1<<10)))
			cmd := netroot(t, dir, "--state", "state", "serve", "--image", "tiny", "--run", test.command)
			must(t, cmd.Start())
			running(t, test.slept, test.sleepers)
			must(t, cmd.Process.Signal(test.signal))
			cmd.Wait()
			if status := cmd.ProcessState.ExitCode(); status != test.status {
				t.Errorf("exit status %d, want %d", status, test.status)
			}
			running(t, test.slept, 0)
		})
	}
}
