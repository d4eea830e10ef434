package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"netroot/internal/store"
	"netroot/internal/term"
)

func imageShowCmd(e *env) *cobra.Command {
	var asJSON, packages, wide bool
	cmd := &cobra.Command{
		Use:   "show IMAGE",
		Short: "Show what is known of an image",
		Long: `Show prints the facts that are recorded in an image, its tags and its parts with
their digests. --packages prints the installed packages instead, one a line, with
their versions.`,
		Example: `  netroot image show debian12
  netroot image show debian12@5daa415ee5cf --packages`,
		Args:              oneArg("image"),
		ValidArgsFunction: e.images(1),
		RunE: func(_ *cobra.Command, args []string) error {
			cfg, err := e.config()
			if err != nil {
				return err
			}
			s, im, err := openImage(cfg, args[0])
			if err != nil {
				return err
			}
			if packages {
				return e.printPackages(im, asJSON)
			}
			shown, err := describe(s, im)
			if err != nil {
				return err
			}
			if asJSON {
				return e.json(shown)
			}
			return e.printImage(shown, wide)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	cmd.Flags().BoolVar(&packages, "packages", false, "print the installed packages")
	wideFlag(cmd, &wide)
	return cmd
}

// shownImage is what is known of an image.
type shownImage struct {
	Name     string       `json:"name"`
	Label    string       `json:"label"`
	Digest   string       `json:"digest"`
	Tags     []string     `json:"tags"`
	Pin      string       `json:"pin,omitempty"`
	Size     int64        `json:"size"`
	Packages int          `json:"packages"`
	Config   store.Config `json:"config"`
	Parts    []shownPart  `json:"parts"`
}

type shownPart struct {
	Role   string `json:"role"`
	Digest string `json:"digest"`
	Size   int64  `json:"size"`
}

func describe(s *store.Store, im *store.Image) (*shownImage, error) {
	list, err := im.Packages()
	if err != nil {
		return nil, err
	}
	out := &shownImage{Name: im.Name(), Label: im.Label, Digest: im.Digest.String(), Tags: []string{}, Size: im.Size(), Packages: len(list), Config: im.Config}
	versions, _ := s.Versions() // damaged ones are not this one
	for _, v := range versions {
		if v.Digest == im.Digest && v.Label == im.Label {
			out.Tags, out.Pin = append(out.Tags, v.Tags...), v.Pin
		}
	}
	for _, l := range im.Manifest.Layers {
		out.Parts = append(out.Parts, shownPart{l.Annotations[store.AnnotationRole], l.Digest.String(), l.Size})
	}
	return out, nil
}

// printImage writes the facts, and below them the parts.
func (e *env) printImage(i *shownImage, wide bool) error {
	width := term.Columns(e.stdout)
	if wide {
		width = 0
	}
	facts := i.facts()
	for n, fact := range facts {
		if value := fact[1]; width > 0 && strings.HasPrefix(value, "sha256:") {
			facts[n][1] = term.Cut(value, width-factColumn)
		}
	}
	if err := term.Facts(e.stdout, facts, width); err != nil {
		return err
	}
	rows := [][]string{{"PART", "SIZE", "DIGEST"}}
	for _, p := range i.Parts {
		rows = append(rows, []string{p.Role, term.Size(p.Size), p.Digest})
	}
	if _, err := fmt.Fprintln(e.stdout); err != nil {
		return err
	}
	return e.table(rows, wide)
}

// factColumn is where the values of facts start.
const factColumn = 14

// notForBooting is printed for an image without a kernel.
const notForBooting = "none: no machine can boot this image"

func (i *shownImage) facts() [][2]string {
	c := i.Config
	var transports []string
	for _, t := range c.Transports {
		transports = append(transports, string(t))
	}
	var rows [][2]string
	for _, row := range [][2]string{
		{"image", i.Name},
		{"digest", i.Digest},
		{"tags", strings.Join(i.Tags, ", ")},
		{"pinned", i.Pin},
		{"built", c.Created.Local().Format(time.DateTime)},
		{"system", c.System},
		{"architecture", c.Architecture},
		{"kernel", cmp.Or(c.KernelRelease, notForBooting)},
		{"root", strings.TrimSpace(c.RootFormat + " " + c.Compressor)},
		{"transports", strings.Join(transports, ", ")},
		{"recipe", c.RecipeDigest},
		{"packages", fmt.Sprint(i.Packages)},
		{"tree", term.Size(c.TreeSize)},
		{"size", term.Size(i.Size)},
	} {
		if row[1] != "" {
			rows = append(rows, row)
		}
	}
	return rows
}

func (e *env) printPackages(im *store.Image, asJSON bool) error {
	list, err := im.Packages()
	if err != nil {
		return err
	}
	if asJSON {
		return e.json(append([]string{}, list...)) // never null
	}
	for _, p := range list {
		if _, err := fmt.Fprintln(e.stdout, p); err != nil {
			return err
		}
	}
	return nil
}
