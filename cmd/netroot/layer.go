package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"netroot/internal/imagediff"
	"netroot/internal/layer/stack"
	"netroot/internal/term"
)

func layerCmd(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "layer",
		Short: "Show what layers change in a label's tree",
		Long: `A layer is a directory of files that is laid over the root of a machine when it
boots. It is layers/NAME beside netroot.yaml, or /etc/rootovl/NAME in the tree. A
label's layers are named in netroot.yaml ("layers: [rack7, site]"); the first wins.

These commands apply the layers to the label's tree as a machine applies them to
its root, and write nothing. An image has the layers that its tree had when it was
packed. docs/layers.md says how to make a layer.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(layerListCmd(e), layerShowCmd(e), layerDiffCmd(e))
	return cmd
}

// layerVerb makes a command that looks at a label's layers.
func layerVerb(e *env, cmd *cobra.Command, do func(v *stack.View, how printed) error) *cobra.Command {
	var layers layersFlag
	var how printed
	cmd.Args = oneArg("label")
	cmd.ValidArgsFunction = e.completeLabels
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		cfg, err := e.config()
		if err != nil {
			return err
		}
		l, err := label(cfg, args[0])
		if err != nil {
			return err
		}
		given, err := layers.given()
		if err != nil {
			return err
		}
		v, err := stack.Open(cfg, l, given, e.layerFolder(cfg, slog.New(slog.DiscardHandler)))
		if err != nil {
			return err
		}
		defer v.Close()
		return do(v, how)
	}
	layers.register(cmd.Flags())
	cmd.Flags().BoolVar(&how.json, "json", false, "as JSON")
	if cmd.Name() != "diff" { // which prints no table
		wideFlag(cmd, &how.wide)
	}
	return cmd
}

// printed is how a command shows what it has found.
type printed struct{ json, wide bool }

// tellReports prints the reports, and ends with exit status 1 if there are any.
func (e *env) tellReports(reports []stack.Report) error {
	for _, r := range reports {
		e.say("layer %s: %s", r.Layer, r.Text)
	}
	if len(reports) > 0 {
		return &exitError{code: exitFailed}
	}
	return nil
}

func layerListCmd(e *env) *cobra.Command {
	return layerVerb(e, &cobra.Command{
		Use:   "ls LABEL",
		Short: "List a label's layers, the one that wins first, and the others",
		Long: `Ls lists the layers that the label's machines get, the one that wins first. Behind
them, without a number, it lists the other layers that exist.

Exit status: 0 all layers exist, 1 a layer is missing or damaged, 2 usage.`,
		Example: `  netroot layer ls debian12
  netroot layer ls debian12 --json`,
	}, func(v *stack.View, how printed) error {
		layers, err := v.List()
		if err != nil {
			return err
		}
		if how.json {
			err = e.json(layers)
		} else {
			err = printLayers(e, layers, how.wide)
		}
		for _, l := range layers {
			if err == nil && l.Problem != "" {
				err = &exitError{code: exitFailed}
			}
		}
		return err
	})
}

func printLayers(e *env, layers []stack.Layer, wide bool) error {
	if len(layers) == 0 {
		fmt.Fprintln(e.stderr, "no layers: the label names none, and none exist")
		return nil
	}
	rows := [][]string{{"#", "LAYER", "FILES", "SIZE", "DELETES", "DIGEST", "DIRECTORY"}}
	for _, l := range layers {
		order := strconv.Itoa(l.Order)
		if l.Order == 0 {
			order = "-"
		}
		if l.Problem != "" {
			e.say("layer %s: %s", l.Name, l.Problem)
			rows = append(rows, []string{order, l.Name, "-", "-", "-", "-", l.Where})
			continue
		}
		rows = append(rows, []string{order, l.Name, strconv.Itoa(l.Files), term.Size(l.Size), strconv.Itoa(l.Deletes), l.Digest.Short(), l.Dir})
	}
	return e.table(rows, wide)
}

func layerShowCmd(e *env) *cobra.Command {
	return layerVerb(e, &cobra.Command{
		Use:   "show LABEL",
		Short: "Show the files that layers bring, and those that they delete",
		Long: `Show lists what the layers bring to a machine: path, type, mode, owner, size, and the
layer it comes from. Where several layers bring a path, that is the one that wins.
Behind them are the paths that the layers delete. What a machine would print on its
console about a layer, such as a file that does not fit, is printed here.

Exit status: 0 done, 1 there is something wrong with a layer, 2 usage.`,
		Example: `  netroot layer show debian12
  netroot layer show debian12 --layers rack7,site --json`,
	}, func(v *stack.View, how printed) error {
		files, reports, err := v.Files()
		switch {
		case err != nil:
			return err
		case how.json:
			err = e.layerJSON(v, files, reports)
		default:
			if len(files) == 0 {
				fmt.Fprintln(e.stderr, "the layers change nothing in the tree")
			}
			err = e.printLayerFiles(files, how.wide)
		}
		return errors.Join(err, e.tellReports(reports))
	})
}

// layerJSON writes the files of "layer show" and "layer diff".
func (e *env) layerJSON(v *stack.View, files any, reports []stack.Report) error {
	return e.json(struct {
		Label   string         `json:"label"`
		Layers  []string       `json:"layers"`
		Files   any            `json:"files"`
		Reports []stack.Report `json:"reports"`
	}{v.Label.Name, append([]string{}, v.Names...), files, reports})
}

func (e *env) printLayerFiles(files []stack.File, wide bool) error {
	brought := [][]string{{"LAYER", "TYPE", "MODE", "OWNER", "SIZE", "PATH"}}
	deleted := [][]string{{"LAYER", "TYPE", "MODE", "OWNER", "SIZE", "DELETED PATH"}}
	for i := 0; i < len(files); i++ {
		f := files[i]
		size, name := "", imagediff.Name(f.Path, f.Stat)
		switch {
		case f.Type == "file":
			size = term.Size(f.Size)
		case f.Type == "link":
			name += " -> " + imagediff.Name(f.Target, f.Stat)
		}
		if f.Link != "" {
			name += ", another name of " + imagediff.Name(f.Link, f.Stat)
		}
		below := 0
		for ; f.Deleted && i+1 < len(files) && files[i+1].Deleted && strings.HasPrefix(files[i+1].Path, f.Path+"/"); i++ {
			below++
		}
		if below > 0 {
			name += fmt.Sprintf(" and %d below", below)
		}
		row := []string{f.Layer, f.Type, f.Mode, fmt.Sprintf("%d:%d", f.UID, f.GID), size, name}
		if f.Deleted {
			deleted = append(deleted, row)
		} else {
			brought = append(brought, row)
		}
	}
	for _, rows := range [][][]string{brought, deleted} {
		if len(rows) == 1 {
			continue
		}
		if err := e.table(rows, wide); err != nil {
			return err
		}
	}
	return nil
}

func layerDiffCmd(e *env) *cobra.Command {
	cmd := layerVerb(e, &cobra.Command{
		Use:   "diff LABEL",
		Short: "Show what layers change in a label's tree",
		Long: `Diff compares the root that a machine will have with the tree: + is added, - deleted,
~ changed, with the layer that did it. Small texts are compared line by line. A file
that a layer brings as the tree has it is left out. Times do not count.

Exit status, as with diff(1): 0 no difference, 1 differences, 2 an error.`,
		Example: `  netroot layer diff debian12
  netroot layer diff debian12 --layers site`,
	}, func(v *stack.View, how printed) error {
		files, reports, err := v.Diff()
		switch {
		case err != nil:
			return err
		case how.json:
			err = e.layerJSON(v, files, reports)
		default:
			err = e.wrapped(func(w io.Writer) error { return imagediff.PrintLayers(w, files) })
		}
		if err != nil {
			return err
		}
		err = e.tellReports(reports)
		switch {
		case len(files) > 0:
			return &exitError{code: exitFailed}
		case err != nil:
			return &exitError{code: exitUsage} // a script must not take a missing layer for no difference
		}
		return nil
	})
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := run(cmd, args)
		if status := (*exitError)(nil); err == nil || errors.As(err, &status) {
			return err
		}
		return usage(err) // 2: a script must not take an error for a difference
	}
	return cmd
}
