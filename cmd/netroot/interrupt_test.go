package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestBuildInterrupted: a build that Ctrl-C ends says so in one line, with --json in an event, too,
// and not what its section printed last.
func TestBuildInterrupted(t *testing.T) {
	dir := tinySite(t, "Bootstrap: scratch\n%pre\necho many lines; exec sleep 613.25\n")
	for _, flags := range [][]string{nil, {"--json"}} {
		cmd := netroot(t, dir, append([]string{"build", "tiny"}, flags...)...)
		var out, said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &said
		must(t, cmd.Start())
		running(t, "613.25", 1)
		must(t, cmd.Process.Signal(syscall.SIGINT))
		err := cmd.Wait()
		if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() != 130 || said.String() != "netroot: interrupted\n" {
			t.Errorf("%v\n%s%s", err, out.String(), said.String())
		}
		running(t, "613.25", 0)
		if flags == nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		var last struct{ Event, Phase, Error string }
		must(t, json.Unmarshal([]byte(lines[len(lines)-1]), &last))
		if last.Event != "failed" || last.Phase != "" || last.Error != "interrupted" {
			t.Errorf("%+v", last)
		}
	}
}
