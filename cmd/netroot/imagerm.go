package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"netroot/internal/store"
	"netroot/internal/term"
)

func imageRemoveCmd(e *env) *cobra.Command {
	var asJSON bool
	var why string
	grace := duration(store.DefaultGrace)
	cmd := &cobra.Command{
		Use:   "rm IMAGE...",
		Short: "Remove tags and versions",
		Long: `Rm removes tags and versions. TAG removes the tag; the version that it points to
stays. LABEL@ID removes that version of the label, and ID the version from every
label, with all files that nothing else needs.

A version is not removed while another tag points to it, while it is pinned, while
a machine runs from it, or within the grace time after a machine was told to boot
it. The error names the reason, and then nothing at all is removed.`,
		Example: `  netroot image rm debian12@5daa415ee5cf
  netroot image rm prod --why "replaced by stable"`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(errors.New("netroot image rm expects tags or images; \"netroot image ls\" lists them"))
			}
			return nil
		},
		ValidArgsFunction: e.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := e.openStore()
			if err != nil {
				return err
			}
			removed, err := s.Remove(cmd.Context(), e.imageNames(args...), time.Duration(grace), why)
			if errors.Is(err, store.ErrNotFound) {
				return usage(err)
			}
			if err != nil {
				return err
			}
			return e.printRemoved(removed, "removed", asJSON)
		},
	}
	cmd.Flags().Var(&grace, "grace", "`time` after its last use for which a version is kept, such as 12h or 3d")
	cmd.Flags().StringVar(&why, "why", "", "`reason` for the journals of the tags")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

// printRemoved prints what was removed, or would be.
func (e *env) printRemoved(r *store.Removed, verb string, asJSON bool) error {
	if asJSON {
		return e.json(r)
	}
	for _, tag := range r.Tags {
		fmt.Fprintf(e.stdout, "%s tag %s\n", verb, tag)
	}
	for _, v := range r.Versions {
		fmt.Fprintf(e.stdout, "%s %s\n", verb, v.Name())
	}
	if r.Note != "" {
		e.say("%s", r.Note)
	}
	if len(r.Tags) > 0 && len(r.Versions) == 0 && r.Blobs == 0 {
		return nil // a tag alone has no files
	}
	_, err := fmt.Fprintf(e.stdout, "%s %s, %s\n", verb, term.Count(r.Blobs, "file"), term.Size(r.Bytes))
	return err
}
