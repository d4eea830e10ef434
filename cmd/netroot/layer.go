package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"netroot/internal/imagediff"
	"netroot/internal/layer"
	"netroot/internal/serve"
	"netroot/internal/site"
	"netroot/internal/term"
)

func layerCmd(e *env) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "layer",
		Short: "Show what layers make of a label's tree",
		Long: `A layer is a directory of files that is laid over a machine's root when it boots:
layers/NAME beside netroot.yaml, or /etc/rootovl/NAME in the tree. A label's layers
are named in netroot.yaml ("layers: [rack7, site]"), the first wins.

These commands do what a machine does, on the label's tree instead of its root,
and write nothing. An image has the layers that its tree had when it was packed.
docs/layers.md says how to make one.`,
		Args: cobra.NoArgs, // else a mistyped verb would pass for a wish for help
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(layerListCmd(e), layerShowCmd(e), layerDiffCmd(e))
	return cmd
}

// layerView is a label's tree and the layers that go over it.
type layerView struct {
	site.Stack
	label  *site.Label
	folder *serve.Layers
	root   *os.Root
}

// layerVerb makes a command that looks at a label's layers.
func layerVerb(e *env, cmd *cobra.Command, do func(v *layerView, asJSON bool) error) *cobra.Command {
	var layers layersFlag
	var asJSON bool
	cmd.Args = oneArg("label")
	cmd.ValidArgsFunction = e.completeLabels
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		cfg, err := e.config()
		if err != nil {
			return err
		}
		v, err := e.openLayers(cfg, args[0], layers)
		if err == nil {
			defer v.root.Close()
			err = do(v, asJSON)
		}
		return err
	}
	layers.register(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON")
	return cmd
}

func (e *env) openLayers(cfg *site.Site, arg string, layers layersFlag) (*layerView, error) {
	l, err := label(cfg, arg)
	if err != nil {
		return nil, err
	}
	given, err := layers.given()
	if err != nil {
		return nil, err
	}
	v := &layerView{label: l, folder: e.layerFolder(cfg, slog.New(slog.DiscardHandler))}
	if v.Stack, err = cfg.Stack(site.Request{Label: l.Name, Layers: v.folder, Add: site.Additions{Layers: given}}); err != nil {
		return nil, err
	}
	if v.root, err = os.OpenRoot(l.Tree); errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("label %s has no tree yet: run \"netroot build %s\" first", l.Name, l.Name)
	}
	return v, err
}

// look applies the layers to a sketch of the tree.
func (v *layerView) look() (*layer.Preview, error) {
	var dirs []layer.Dir
	for _, name := range v.Server {
		d, err := v.folder.Dir(name)
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, d)
	}
	p, err := layer.Look(v.root, v.Tree, dirs)
	return p, forRoot(err)
}

// forRoot says what to do about files that only root can read.
func forRoot(err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("%w: the tree has files for root alone; run it with sudo", err)
	}
	return err
}

// layerReport is what a machine would say on its console.
type layerReport struct {
	Layer string `json:"layer"`
	Text  string `json:"text"`
}

// reports are what the machine says, better where a name is in neither place.
func (v *layerView) reports(p *layer.Preview) []layerReport {
	out := []layerReport{}
	for _, r := range p.Reports {
		text := r.Err.Error()
		if slices.Contains(v.Tree, r.Layer) {
			if err := missingIn(v.root, v.folder, r.Layer); err != nil {
				text = err.Error()
			}
		}
		out = append(out, layerReport{r.Layer, text})
	}
	return out
}

// tellReports says them, and ends with exit status 1 if there are any.
func (e *env) tellReports(reports []layerReport) error {
	for _, r := range reports {
		fmt.Fprintf(e.stderr, "netroot: layer %s: %s\n", r.Layer, r.Text)
	}
	if len(reports) > 0 {
		return &exitError{code: exitFailed}
	}
	return nil
}

func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// layerEntry is a layer in the list.
type layerEntry struct {
	Name    string `json:"name"`
	Order   int    `json:"order"` // 1: the one that wins; 0: the machine does not get it
	Where   string `json:"where"` // "server", "tree" or "missing"
	Dir     string `json:"dir,omitempty"`
	Files   int    `json:"files"` // all but directories
	Size    int64  `json:"size"`  // bytes of files
	Deletes int    `json:"deletes"`
	Digest  string `json:"digest,omitempty"` // of the archive, as the kernel command line names it
	Problem string `json:"problem,omitempty"`
}

func layerListCmd(e *env) *cobra.Command {
	return layerVerb(e, &cobra.Command{
		Use:   "ls LABEL",
		Short: "List a label's layers, the one that wins first, and what others there are",
		Long: `Ls lists the layers that the label's machines get, the one that wins first, and
behind them, without a number, the others that there are.

Exit status: 1 when a layer is missing, or is none.`,
		Example: `  netroot layer ls debian12
  netroot layer ls debian12 --json`,
	}, func(v *layerView, asJSON bool) error {
		entries, err := v.list()
		if err != nil {
			return err
		}
		if asJSON {
			err = writeJSON(e.stdout, entries)
		} else {
			err = printLayers(e, entries)
		}
		for _, entry := range entries {
			if err == nil && entry.Problem != "" {
				err = &exitError{code: exitFailed}
			}
		}
		return err
	})
}

// list describes the label's layers in their order, then the others.
func (v *layerView) list() ([]layerEntry, error) {
	here, err := v.folder.Names()
	if err != nil {
		return nil, err
	}
	inTree, err := layer.TreeLayers(v.root)
	if err != nil {
		return nil, err
	}
	all := slices.Clone(v.Tree) // which is applied first, so it comes last
	all = append(slices.Clone(v.Server), all...)
	used := len(all)
	others := append(here, inTree...)
	slices.Sort(others)
	for _, name := range slices.Compact(others) {
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	entries := []layerEntry{}
	for i, name := range all {
		entry := v.describe(name)
		if i < used {
			entry.Order = i + 1
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

// describe finds out what there is to know of a layer.
func (v *layerView) describe(name string) layerEntry {
	entry := layerEntry{Name: name, Where: "server"}
	var err error
	if v.folder.Has(name) {
		var d layer.Dir
		if d, err = v.folder.Dir(name); err == nil {
			entry.Dir = d.Path
			entry.Digest, err = v.folder.Digest(name)
		}
	} else if err = missingIn(v.root, v.folder, name); err != nil {
		entry.Where = "missing"
	} else {
		entry.Where = "tree"
		var place string
		if place, err = layer.FindTree(v.root, name); err == nil {
			entry.Dir = v.root.Name() + "/" + place
		}
	}
	if err == nil {
		entry.Files, entry.Size, entry.Deletes, err = layer.Measure(entry.Dir)
	}
	if err != nil {
		entry.Problem = err.Error()
	}
	return entry
}

func printLayers(e *env, entries []layerEntry) error {
	if len(entries) == 0 {
		fmt.Fprintln(e.stderr, "no layers: the label names none, and there are none")
		return nil
	}
	rows := [][]string{{"#", "LAYER", "FILES", "SIZE", "DELETES", "DIGEST", "DIRECTORY"}}
	for _, l := range entries {
		order, digest := strconv.Itoa(l.Order), strings.TrimPrefix(l.Digest, "sha256:")
		if l.Order == 0 {
			order = "-"
		}
		if l.Problem != "" {
			fmt.Fprintf(e.stderr, "netroot: layer %s: %s\n", l.Name, l.Problem)
			rows = append(rows, []string{order, l.Name, "-", "-", "-", "-", l.Where})
			continue
		}
		rows = append(rows, []string{order, l.Name, strconv.Itoa(l.Files), term.Size(l.Size), strconv.Itoa(l.Deletes), digest[:min(12, len(digest))], l.Dir})
	}
	return term.Table(e.stdout, rows)
}

// layerFile is a line of "layer show".
type layerFile struct {
	Path    string `json:"path"`
	Layer   string `json:"layer"`
	Deleted bool   `json:"deleted,omitempty"`
	*imagediff.Stat
}

func layerShowCmd(e *env) *cobra.Command {
	return layerVerb(e, &cobra.Command{
		Use:   "show LABEL",
		Short: "Show the files that layers bring, and those that they delete",
		Long: `Show lists what the layers bring to a machine, as it will find it: path, type, mode,
owner, size, and the layer it comes from, where several bring it the one that wins.
Then what they delete. What a machine would say on its console about a layer - a
file that does not fit, a line that is refused - is said here.

Exit status: 1 when there was something to say.`,
		Example: `  netroot layer show debian12
  netroot layer show debian12 --layers rack7,site --json`,
	}, func(v *layerView, asJSON bool) error {
		p, err := v.look()
		if err != nil {
			return err
		}
		files := []layerFile{}
		for _, c := range p.Changes {
			f := layerFile{Path: c.Path, Layer: c.Layer, Deleted: c.New == nil, Stat: imagediff.StatOf(c.New)}
			if f.Deleted {
				f.Stat = imagediff.StatOf(c.Old)
			}
			files = append(files, f)
		}
		reports := v.reports(p)
		if asJSON {
			return errors.Join(writeJSON(e.stdout, struct {
				Label   string        `json:"label"`
				Layers  []string      `json:"layers"`
				Files   []layerFile   `json:"files"`
				Reports []layerReport `json:"reports"`
			}{v.label.Name, append([]string{}, v.Names...), files, reports}), e.tellReports(reports))
		}
		if len(files) == 0 {
			fmt.Fprintln(e.stderr, "the tree as it is: no layer brings or deletes anything")
		}
		return errors.Join(printLayerFiles(e.stdout, files), e.tellReports(reports))
	})
}

func printLayerFiles(w io.Writer, files []layerFile) error {
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
		if err := term.Table(w, rows); err != nil {
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
~ changed, with the layer that did it. Small texts are compared line by line. What
a layer brings as the tree has it is left out; times do not count.

Exit status, as with diff(1): 0 the same, 1 different, 2 trouble.`,
		Example: `  netroot layer diff debian12
  netroot layer diff debian12 --layers site`,
	}, func(v *layerView, asJSON bool) error {
		p, err := v.look()
		if err != nil {
			return err
		}
		files, err := imagediff.Layers(v.root, p)
		if err != nil {
			return forRoot(err)
		}
		reports := v.reports(p)
		if asJSON {
			err = writeJSON(e.stdout, struct {
				Label   string                `json:"label"`
				Layers  []string              `json:"layers"`
				Files   []imagediff.LayerFile `json:"files"`
				Reports []layerReport         `json:"reports"`
			}{v.label.Name, append([]string{}, v.Names...), files, reports})
		} else {
			err = imagediff.PrintLayers(e.stdout, files)
		}
		if err != nil {
			return err
		}
		e.tellReports(reports)
		if len(files) > 0 {
			return &exitError{code: exitFailed}
		}
		return nil
	})
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		err := run(cmd, args)
		if status := (*exitError)(nil); err == nil || errors.As(err, &status) {
			return err
		}
		return usage(err) // 2: a script must not take trouble for a difference
	}
	return cmd
}
