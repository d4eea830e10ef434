package main

import (
	"strings"
	"testing"

	"netroot/internal/term"
)

func TestLeaveConsole(t *testing.T) {
	for want, opt := range map[string]term.Options{
		"":                           {},
		"\x1b[?7h\x1b[?25h\x1b[0m\n": {Live: true},
	} {
		var screen strings.Builder
		if leaveConsole(&screen, opt); screen.String() != want {
			t.Errorf("%+v: %q", opt, screen.String())
		}
	}
}
