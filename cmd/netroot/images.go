package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"netroot/internal/store"
	"netroot/internal/term"
)

func imagesCmd(e *env) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "images",
		Aliases: []string{"ls"},
		Short:   "List the images of the store",
		Long: `Images lists every version of every label, the newest first. The one marked
with * is what the label's name means, to "netroot vm" and to machines that boot.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := e.config()
			if err != nil {
				return err
			}
			var images []*store.Image
			s, err := store.Open(cfg.Images())
			if err == nil {
				images, err = s.List()
			}
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			if asJSON {
				return printImagesJSON(e, images)
			}
			if len(images) == 0 {
				fmt.Fprintln(e.stderr, "no images yet: \"netroot build LABEL\" makes one")
				return nil
			}
			rows := [][]string{{"", "IMAGE", "BUILT", "SIZE", "ROOT", "KERNEL", "SYSTEM"}}
			for _, im := range images {
				mark := ""
				if im.Newest {
					mark = "*"
				}
				rows = append(rows, []string{mark, im.Name(), im.Config.Created.Local().Format(time.DateTime),
					term.Size(im.Size()), strings.TrimSpace(im.Config.RootFormat + " " + im.Config.Compressor), im.Config.KernelRelease, im.Config.System})
			}
			return term.Table(e.stdout, rows)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON, with every fact that is recorded but the packages")
	return cmd
}

func printImagesJSON(e *env, images []*store.Image) error {
	type row struct {
		Name   string       `json:"name"`
		Digest string       `json:"digest"`
		Size   int64        `json:"size"`
		Newest bool         `json:"newest"`
		Config store.Config `json:"config"`
	}
	rows := []row{}
	for _, im := range images {
		c := im.Config
		c.Packages = nil
		rows = append(rows, row{im.Name(), im.Digest.String(), im.Size(), im.Newest, c})
	}
	enc := json.NewEncoder(e.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(rows)
}
