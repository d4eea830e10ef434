package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"netroot/internal/store"
	"netroot/internal/term"
)

func imageListCmd(e *env) *cobra.Command {
	var asJSON, wide bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the images",
		Long: `Ls lists every version of every label. Of each label, the newest version comes
first, marked with *, and then the versions in the order in which they ceased to
be the newest, the last one first. TAGS are the other tags that point to a version.

The list comes from the index of the store; "netroot image check" reads the images
themselves. A terminal that is too narrow gets the first columns; --wide, or a
pipe, gets all of them.`,
		Args: noArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := e.config()
			if err != nil {
				return err
			}
			// A store that is not there yet has no images.
			versions, err := store.At(cfg.Images()).Versions()
			if versions == nil && err != nil {
				return err
			}
			if asJSON {
				return errors.Join(e.json(versionRows(versions)), err)
			}
			if len(versions) == 0 && err == nil {
				fmt.Fprintln(e.stderr, "no images yet: \"netroot build LABEL\" makes one")
				return nil
			}
			return errors.Join(e.table(imageTable(versions), wide), err)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	wideFlag(cmd, &wide)
	return cmd
}

// imageTable has the columns that matter least last.
func imageTable(versions []store.Version) [][]string {
	rows := [][]string{{"", "IMAGE", "BUILT", "SIZE", "KERNEL", "TAGS", "ROOT", "SYSTEM"}}
	for _, v := range versions {
		mark := ""
		if v.Newest {
			mark = "*"
		}
		rows = append(rows, []string{mark, v.Name(), v.Created.Local().Format("2006-01-02 15:04"), term.Size(v.Size), cmp.Or(v.Kernel, "none"),
			strings.Join(otherTags(v), ","), strings.TrimSpace(v.RootFormat + " " + v.Compressor), v.System})
	}
	return rows
}

// otherTags are the tags but the label's own, and "(pinned)".
func otherTags(v store.Version) []string {
	tags := slices.DeleteFunc(slices.Clone(v.Tags), func(tag string) bool { return tag == v.Label })
	if v.Pin != "" {
		tags = append(tags, "(pinned)")
	}
	return tags
}

// versionRow is a version in JSON. Config has the facts that the index knows, under the names of
// an image's configuration.
type versionRow struct {
	Name string `json:"name"`
	store.Version
	Config versionFacts `json:"config"`
}

type versionFacts struct {
	Label         string    `json:"label"`
	Created       time.Time `json:"created"`
	Architecture  string    `json:"architecture,omitempty"`
	System        string    `json:"system,omitempty"`
	KernelRelease string    `json:"kernelRelease,omitempty"`
	RootFormat    string    `json:"rootFormat,omitempty"`
	Compressor    string    `json:"compressor,omitempty"`
}

func versionRows(versions []store.Version) []versionRow {
	rows := []versionRow{} // never null
	for _, v := range versions {
		rows = append(rows, versionRow{v.Name(), v, versionFacts{v.Label, v.Created, v.Architecture, v.System, v.Kernel, v.RootFormat, v.Compressor}})
	}
	return rows
}
