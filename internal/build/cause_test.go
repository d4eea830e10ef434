package build

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"netroot/internal/sandbox"
)

// TestCause: lines that tools printed, and the cause that is found in them.
func TestCause(t *testing.T) {
	many := strings.Repeat("Setting up x\n", causeLines)
	status := &sandbox.ExitError{Name: "mmdebstrap", Code: 25}
	for _, tc := range []struct {
		name, output string
		err          error
		want         string
	}{
		{"mmdebstrap 1.3, refused", `Reading package lists...
E: Failed to fetch http://127.0.0.1:9/debian/dists/bookworm/InRelease  Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)
E: Some index files failed to download. They have been ignored, or old ones used instead.
E: apt-get update --error-on=any -oAPT::Status-Fd=<$fd> -oDpkg::Use-Pty=false failed
I: main() received signal PIPE: waiting for setup...
E: mmdebstrap failed to run`, status, "cannot fetch http://127.0.0.1:9/debian/dists/bookworm/InRelease: Could not connect to 127.0.0.1:9 (127.0.0.1). - connect (111: Connection refused)"},
		{"debootstrap 1.0.128", "I: Target architecture can be executed\nI: Retrieving InRelease \nI: Retrieving Release \nE: Failed getting release file http://127.0.0.1:9/debian/dists/bookworm/Release", status, "cannot fetch http://127.0.0.1:9/debian/dists/bookworm/Release"},
		{"dnf 4.14", "Errors during downloading metadata for repository 'x':\n  - Curl error (7): Couldn't connect to server for http://127.0.0.1:9/repodata/repomd.xml [Failed to connect to 127.0.0.1 port 9]\nError: Failed to download metadata for repo 'x': Cannot download repomd.xml", status, "cannot fetch http://127.0.0.1:9/repodata/repomd.xml: Couldn't connect to server"},
		{"curl", "curl: (6) Could not resolve host: nosuch.invalid", status, "curl: Could not resolve host: nosuch.invalid"},
		{"killed", "half a line", &sandbox.ExitError{Name: "cp", Code: -1, Signal: syscall.SIGKILL}, "the kernel does this when memory runs out; journalctl -k says so"},
		{"survived", "curl: (6) Could not resolve host: nosuch.invalid\n" + many, status, ""},
		{"nothing", "last words", errors.New("else"), ""},
	} {
		b := &builder{log: &buildLog{}}
		if got := b.cause(fmt.Errorf("agent: %w", tc.err), strings.Split(strings.TrimSpace(tc.output), "\n")); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

// TestErrorText: one prefix, and one line when the cause is known.
func TestErrorText(t *testing.T) {
	for want, e := range map[string]Error{
		"%post: exit status 3":                          {Phase: "%post", Err: errors.New("%post: exit status 3")},
		"bootstrap localimage: From: no such file":      {Phase: "bootstrap", Err: errors.New("bootstrap localimage: From: no such file")},
		"pack: packing it failed":                       {Phase: "pack", Err: errors.New("packing it failed")},
		"bootstrap x: exit status 1: why; the log is l": {Phase: "bootstrap", Err: errors.New("bootstrap x: exit status 1:\n\tE: a\n\tE: b"), Cause: "why", Log: "l"},
	} {
		if got := e.Error(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
