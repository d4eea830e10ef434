package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// openValues are the options whose value may be anything: a text, a number, an address, or a file,
// which the shell completes by itself.
var openValues = strings.Fields(`allow-secret bind build-arg build-arg-file clients config console grace health http iscsi keep
	kernel level lun mac mem nbd nfs nvme older output packed port portmap run serial server set-key socket ssh-port state tftp
	tls-cert tls-key why`)

// TestFlagsComplete: every option with a closed set of values completes them. A new option has a
// completion, or its value is open.
func TestFlagsComplete(t *testing.T) {
	used := map[string]bool{}
	commands(newRoot(&env{}), func(c *cobra.Command) {
		if c.Name() == "completion" || c.HasParent() && c.Parent().Name() == "completion" {
			return
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Value.Type() == "bool" {
				return
			}
			used[f.Name] = true
			if _, completes := c.GetFlagCompletionFunc(f.Name); completes == slices.Contains(openValues, f.Name) {
				t.Errorf("%s --%s: a completion is %t", c.CommandPath(), f.Name, completes)
			}
		})
	})
	for _, name := range openValues {
		if !used[name] && name != "config" && name != "state" {
			t.Errorf("no command has --%s", name)
		}
	}
}
