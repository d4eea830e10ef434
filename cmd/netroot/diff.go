package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"netroot/internal/imagediff"
	"netroot/internal/store"
)

func diffCmd(e *env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff LABEL | diff IMAGE IMAGE",
		Short: "Show what differs between two images",
		Long: `Diff compares two images of the store, named by LABEL, LABEL@ID or ID; with one
label, its newest image with the one before it. It lists packages, files of the
root (type, mode, owner, content, link target, device, hard links, extended
attributes) and the other parts: + was added, - was removed, ~ changed. Times of
files and SELinux labels do not count.

The images are read where they lie: it needs no root, and mounts nothing. Files of
a root that is packed as EROFS are not looked into, which is said.

Exit status, as with diff(1): 0 the same, 1 different, 2 trouble.`,
		Example: `  netroot diff debian12
  netroot diff debian12@5daa415ee5cf debian12
  netroot diff rocky9 rocky9-test --json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 && len(args) != 2 {
				return usage(fmt.Errorf("netroot diff requires a label or two images; see \"netroot diff --help\""))
			}
			return nil
		},
		ValidArgsFunction: e.images(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := e.diff(cmd.Context(), args)
			if err == nil {
				err = printDiff(e, d, asJSON)
			}
			switch {
			case err != nil && cmd.Context().Err() != nil:
				return err
			case err != nil:
				return usage(err) // 2: a script must not take trouble for a difference
			case !d.Empty():
				return &exitError{code: exitFailed}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func (e *env) diff(ctx context.Context, args []string) (*imagediff.Diff, error) {
	cfg, err := e.config()
	if err != nil {
		return nil, err
	}
	s, from, err := openImage(cfg, args[0])
	if err != nil {
		return nil, err
	}
	to := from
	if len(args) == 2 {
		_, to, err = openImage(cfg, args[1])
	} else {
		from, err = before(s, to)
	}
	if err != nil {
		return nil, err
	}
	return imagediff.Images(ctx, from, to)
}

// before returns the version that was the newest of its label before im.
func before(s *store.Store, im *store.Image) (*store.Image, error) {
	versions, err := s.Versions()
	if err != nil {
		return nil, err
	}
	found := false
	for _, other := range versions { // of each label the newest first
		if other.Label != im.Label {
			continue
		}
		if found {
			return s.Resolve(other.Name())
		}
		found = other.Digest == im.Digest
	}
	return nil, fmt.Errorf("%s has no older version to compare it with: name two images; \"netroot image ls\" lists them", im.Name())
}

func printDiff(e *env, d *imagediff.Diff, asJSON bool) error {
	if !asJSON {
		return e.wrapped(d.Print)
	}
	return e.json(d)
}
