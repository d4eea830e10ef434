package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"netroot/internal/store"
)

func imageTagCmd(e *env) *cobra.Command {
	var asJSON bool
	var why string
	cmd := &cobra.Command{
		Use:   "tag IMAGE TAG",
		Short: "Point a tag to an image",
		Long: `Tag points a tag to an image and writes the move to the tag's journal. The tag is
made when there is none. A tag is then understood wherever an image is named, and
protects the image from "netroot image rm" and "netroot image gc".

The tag with the name of a label is the newest version of the label: to go back
to an earlier version, point it there. An image of another label becomes a version
of this one as well, and boots by this name with its settings.

Machines that boot by the tag get the new image at their next boot.`,
		Example: `  netroot image tag debian12@5daa415ee5cf prod --why "passed its tests"
  netroot vm prod
  netroot image tag debian12@77de4cea7e02 debian12 --why "back: no network"`,
		Args:              twoArgs("an image and a tag"),
		ValidArgsFunction: e.images(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := e.config()
			if err != nil {
				return err
			}
			args = []string{imageName(cfg, args[0]), args[1]}
			return e.changeImage(func(s *store.Store) (*store.Image, error) {
				set := s.Tag
				if _, isLabel := cfg.Labels[args[1]]; isLabel {
					set = s.Add
				}
				before, _ := s.Resolve(args[1]) // nil: a new tag
				im, err := set(cmd.Context(), args[0], args[1], why)
				if err == nil && why != "" && before != nil && before.Digest == im.Digest {
					e.say("%s pointed to %s before: the journal has no new move, and not this reason", args[1], im.Name())
				}
				return im, err
			}, asJSON, args[1]+" -> %s")
		},
	}
	cmd.Flags().StringVar(&why, "why", "", "`reason` for the journal")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func imagePinCmd(e *env) *cobra.Command {
	var asJSON bool
	var why string
	cmd := &cobra.Command{
		Use:   "pin IMAGE",
		Short: "Keep an image from being removed",
		Long: `Pin keeps one version from "netroot image rm" and "netroot image gc", whatever its
tags, until "netroot image unpin". With a tag, the version is pinned that the tag
points to now.`,
		Example:           `  netroot image pin debian12@5daa415ee5cf --why "before the new kernel"`,
		Args:              oneArg("image"),
		ValidArgsFunction: e.images(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.pin(cmd.Context(), args[0], cmp.Or(why, "pinned"), asJSON, "pinned %s")
		},
	}
	cmd.Flags().StringVar(&why, "why", "", "`reason`, which lists and refusals show")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func imageUnpinCmd(e *env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "unpin IMAGE",
		Short:             "Allow an image to be removed again",
		Long:              `Unpin takes the pin of a version away. It removes nothing.`,
		Args:              oneArg("image"),
		ValidArgsFunction: e.images(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.pin(cmd.Context(), args[0], "", asJSON, "unpinned %s")
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func (e *env) pin(ctx context.Context, ref, why string, asJSON bool, format string) error {
	ref = e.imageNames(ref)[0]
	return e.changeImage(func(s *store.Store) (*store.Image, error) { return s.Pin(ctx, ref, why) }, asJSON, format)
}

// changeImage makes a change of the store that concerns one image, and says which one.
func (e *env) changeImage(change func(*store.Store) (*store.Image, error), asJSON bool, format string) error {
	s, err := e.openStore()
	if err != nil {
		return err
	}
	im, err := change(s)
	switch {
	case errors.Is(err, store.ErrNotFound), errors.Is(err, store.ErrName):
		return usage(err)
	case err != nil:
		return err
	case !asJSON:
		_, err := fmt.Fprintf(e.stdout, format+"\n", im.Name())
		return err
	}
	shown, err := describe(s, im)
	if err != nil {
		return err
	}
	return e.json(shown)
}

// twoArgs is cobra's ExactArgs(2) with an error that names the arguments.
func twoArgs(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 2 {
			return usage(fmt.Errorf("%s expects %s; see \"%s --help\"", cmd.CommandPath(), what, cmd.CommandPath()))
		}
		return nil
	}
}
