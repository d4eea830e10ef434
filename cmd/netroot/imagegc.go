package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"netroot/internal/store"
)

func imageGCCmd(e *env) *cobra.Command {
	var asJSON, dryRun, verbose bool
	keep := 2
	older, grace := duration(7*24*time.Hour), duration(store.DefaultGrace)
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove the versions that nothing needs",
		Long: `Gc removes the versions that no tag points to, that are not pinned, that no machine
runs from, and that are beyond the limits; then the files that no image needs. It
prints what it removes and how many bytes that frees.

Of each label the newest versions stay (--keep), and so do versions that were
added, or that a tag pointed to, not long ago (--older). A version that a machine
was told to boot is kept for a grace time (--grace), because machines that have
their root in memory do not tell the server that they still run.`,
		Example: `  netroot image gc --dry-run --verbose
  netroot image gc --keep 5 --older 30d`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if keep < 0 {
				return usage(fmt.Errorf("--keep %d: it must be 0 or more", keep))
			}
			s, err := e.openStore()
			if err != nil {
				return err
			}
			removed, err := s.GC(cmd.Context(), store.Limits{Keep: keep, Older: time.Duration(older), Grace: time.Duration(grace), DryRun: dryRun})
			if err != nil {
				return err
			}
			if verbose && !asJSON {
				for _, k := range removed.Kept {
					e.print(fmt.Sprintf("kept %s: %s\n", k.Name, k.Why))
				}
			}
			verb := "removed"
			if dryRun {
				verb = "would remove"
			}
			return e.printRemoved(removed, verb, asJSON)
		},
	}
	fl := cmd.Flags()
	fl.IntVar(&keep, "keep", keep, "`number` of newest versions of each label that stay")
	fl.Var(&older, "older", "`time` for which a version stays after a tag pointed to it, such as 12h or 30d")
	fl.Var(&grace, "grace", "`time` after its last use for which a version is kept, such as 12h or 3d")
	fl.BoolVar(&dryRun, "dry-run", false, "print what would be removed, and remove nothing")
	fl.BoolVar(&verbose, "verbose", false, "print why each other version stays")
	fl.BoolVar(&asJSON, "json", false, "as JSON, with why each other version stays")
	return cmd
}

// duration is a flag that takes days as well as what Go's durations have.
type duration time.Duration

func (d *duration) Type() string { return "time" }

func (d *duration) String() string {
	v := time.Duration(*d)
	if day := 24 * time.Hour; v >= day && v%day == 0 {
		return strconv.FormatInt(int64(v/day), 10) + "d"
	}
	return v.String()
}

func (d *duration) Set(text string) error {
	v, err := time.ParseDuration(text)
	if days, isDays := strings.CutSuffix(text, "d"); isDays {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		v = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || v < 0 {
		return errors.New("it must be a number with its unit, such as 90m, 12h or 30d")
	}
	*d = duration(v)
	return nil
}
