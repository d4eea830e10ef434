package main

import (
	"github.com/spf13/cobra"

	"netroot/internal/store"
)

func imageCmd(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "List, tag, check and remove the images of the store",
		Long: `An image is a version of a label: a packed root, a kernel, an initramfs and facts
about them. It never changes. Verbs name it as follows:

  LABEL     the newest version of the label
  LABEL@ID  one version of the label
  TAG       the version that the tag points to
  TAG@ID    a version that the tag points to, or pointed to before
  ID        one version of any label

An ID is the beginning of the image's digest, four digits or more. The newest
version of a label is the one that the tag with the label's own name points to;
a build moves that tag. Other tags are moved by "netroot image tag", and each
move of a tag is written to its journal.

An image that is booted by a tag that is not a label of the configuration has the
settings of the label that the image belongs to.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(imageVerbs(e)...)
	cmd.AddCommand(imageListCmd(e), imageShowCmd(e), imageHistoryCmd(e))
	return cmd
}

// imageVerbs are the verbs that "netroot images", the old spelling, has as well.
func imageVerbs(e *env) []*cobra.Command {
	return []*cobra.Command{imageTagCmd(e), imagePinCmd(e), imageUnpinCmd(e), imageRemoveCmd(e), imageGCCmd(e), imageCheckCmd(e)}
}

// imagesCmd is the old spelling of "netroot image ls", and of the other verbs with "images".
func imagesCmd(e *env) *cobra.Command {
	cmd := imageListCmd(e)
	cmd.Use, cmd.Aliases, cmd.Hidden = "images", []string{"ls"}, true
	cmd.AddCommand(imageVerbs(e)...)
	return cmd
}

// openStore opens the store of the configuration.
func (e *env) openStore() (*store.Store, error) {
	cfg, err := e.config()
	if err != nil {
		return nil, err
	}
	return store.Open(cfg.Images())
}
