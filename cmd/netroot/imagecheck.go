package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"netroot/internal/store"
	"netroot/internal/term"
)

func imageCheckCmd(e *env) *cobra.Command {
	var asJSON, repair bool
	cmd := &cobra.Command{
		Use:   "check [IMAGE...]",
		Short: "Read the images and find damage",
		Long: `Check reads every file of the images, or of all images, and compares it with its
digest. It names each file that is missing or damaged, the images that need it,
and what to do.

--repair brings the index forward first: entries that other programs wrote without
our annotations, or that earlier versions of netroot wrote, are completed from the
images. Every change of the store does the same. It does not repair files.

Exit status: 0 all files are whole, 1 some are not.`,
		Example: `  netroot image check
  netroot image check prod --json`,
		ValidArgsFunction: e.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := e.openStore()
			if err != nil {
				return err
			}
			repaired := false
			if repair {
				if repaired, err = s.Repair(cmd.Context()); err != nil {
					return err
				}
			}
			report, err := e.checkImages(cmd.Context(), s, args, asJSON)
			if errors.Is(err, store.ErrNotFound) {
				return usage(err)
			}
			if err != nil {
				return err
			}
			if asJSON {
				err = e.json(report)
			} else {
				err = e.printReport(report, repaired)
			}
			if err == nil && len(report.Problems) > 0 {
				err = &exitError{code: exitFailed}
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "complete the entries of the index first")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

// checkImages checks, and shows on a terminal how far it is.
func (e *env) checkImages(ctx context.Context, s *store.Store, refs []string, asJSON bool) (*store.Report, error) {
	opt := term.Detect(e.stderr, os.Getenv)
	if !opt.Live || asJSON {
		return s.Check(ctx, refs, nil)
	}
	phase := term.New(e.stderr, opt).Phase("check", s.Dir())
	report, err := s.Check(ctx, refs, func(done, total int64) { phase.Progress(float64(done) / float64(max(total, 1))) })
	if err != nil {
		phase.Fail(err)
	} else {
		phase.Done()
	}
	return report, err
}

func (e *env) printReport(r *store.Report, repaired bool) error {
	if repaired {
		fmt.Fprintln(e.stdout, "the index was brought forward")
	}
	for _, p := range r.Problems {
		e.print(fmt.Sprintf("%s of %s: %s\n  %s\n", p.Part, strings.Join(p.Images, ", "), p.Reason, p.Fix))
	}
	state := "all whole"
	if n := len(r.Problems); n > 0 {
		state = fmt.Sprintf("%d missing or damaged", n)
	}
	return e.print(fmt.Sprintf("%s, %s, %s: %s\n", term.Count(r.Images, "image"), term.Count(r.Blobs, "file"), term.Size(r.Bytes), state))
}
