package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// commands calls do with every command that users see.
func commands(c *cobra.Command, do func(*cobra.Command)) {
	do(c)
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			commands(sub, do)
		}
	}
}

// TestSuperfluousArguments holds all commands to exit status 2 for an argument that they do not expect.
func TestSuperfluousArguments(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	commands(newRoot(&env{}), func(c *cobra.Command) {
		if c.HasAvailableSubCommands() || c.Name() == "exec" || c.Name() == "build" {
			return
		}
		if strings.Contains(c.Use, "...") || strings.Contains(c.CommandPath(), "completion") {
			return // takes any number
		}
		args := append(strings.Fields(c.CommandPath())[1:], "--state", dir, "a", "b", "c")
		var said strings.Builder
		if code := run(t.Context(), args, strings.NewReader(""), &said, &said); code != exitUsage {
			t.Errorf("netroot %s: exit status %d: %s", strings.Join(args, " "), code, said.String())
		}
	})
}
