// Package stack shows the layers that a label's machines get, before any machine boots: where each
// of them is, what they make of the label's tree together, and which are missing.
//
// It does on the tree what a machine does on its root, with the same code (package layer), and
// writes nothing. Which layers a machine gets is decided by package site; a server renders them.
package stack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"netroot/internal/handoff"
	"netroot/internal/imagediff"
	"netroot/internal/layer"
	"netroot/internal/nearest"
	"netroot/internal/site"
)

// Folder has the layers beside the configuration.
type Folder interface {
	site.Layers
	Dir(name string) (layer.Dir, error)
	Names() ([]string, error)
	// Place is the directory in which a layer of that name would be; empty: there is no folder.
	Place(name string) string
}

// View is a label's tree and the layers that go over it.
type View struct {
	site.Stack
	Label  *site.Label
	folder Folder
	root   *os.Root
}

// Open opens the tree of a label. The layers are those that the label names, or the given ones. The
// caller closes the View.
func Open(s *site.Site, l *site.Label, given *[]string, folder Folder) (*View, error) {
	names, err := s.Stack(site.Request{Label: l.Name, Layers: folder, Add: site.Additions{Layers: given}})
	if err != nil {
		return nil, err
	}
	for _, name := range inCmdline(l.Cmdline) {
		if !slices.Contains(names.Tree, name) {
			names.Tree = append(slices.Clone(names.Tree), name)
			names.Names = append(slices.Clone(names.Names), name)
		}
	}
	root, err := os.OpenRoot(l.Tree)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("label %s has no tree yet: run \"netroot build %s\" first", l.Name, l.Name)
	}
	if err != nil {
		return nil, err
	}
	return &View{Stack: names, Label: l, folder: folder, root: root}, nil
}

// inCmdline are the layers of the tree that kernel arguments of a label name. They stand behind our
// own argument on the command line, so its layers win.
func inCmdline(args []string) (names []string) {
	for _, arg := range args {
		list, ok := strings.CutPrefix(arg, "rootovlcfg=")
		if !ok {
			continue
		}
		for name := range strings.SplitSeq(list, ",") {
			if site.CheckLayers([]string{name}) == nil && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// Close closes the tree.
func (v *View) Close() error { return v.root.Close() }

// Missing says which of a machine's layers are nowhere. Without a tree nobody can tell, and it says
// nothing; the label may also be nil.
func Missing(l *site.Label, names site.Stack, folder Folder) error {
	if l == nil || len(names.Tree) == 0 {
		return nil
	}
	tree, err := os.OpenRoot(l.Tree)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer tree.Close()
	var all []error
	for _, name := range names.Tree {
		if err := missingIn(tree, folder, name); err != nil {
			all = append(all, fmt.Errorf("label %s: layer %s: %w", l.Name, name, err))
		}
	}
	return errors.Join(all...)
}

// missingIn says that a layer is neither in the tree nor in the folder, and suggests the nearest
// name.
func missingIn(tree *os.Root, folder Folder, name string) error {
	_, err := layer.FindTree(tree, name)
	if err == nil {
		return nil
	}
	elsewhere := ""
	if place := folder.Place(name); place != "" {
		elsewhere = " and " + place + " does not exist"
	}
	known, _ := layer.TreeLayers(tree) // the names are for the suggestion only
	here, _ := folder.Names()
	return fmt.Errorf("%w%s%s", err, elsewhere, nearest.Hint(name, slices.Concat(here, known)))
}

// Layer is one layer of a list.
type Layer struct {
	Name    string         `json:"name"`
	Order   int            `json:"order"` // 1: the one that wins; 0: the machine does not get it
	Where   string         `json:"where"` // "server", "tree" or "missing"
	Dir     string         `json:"dir,omitempty"`
	Files   int            `json:"files"` // all but directories
	Size    int64          `json:"size"`  // bytes of files
	Deletes int            `json:"deletes"`
	Digest  handoff.Digest `json:"digest,omitempty"` // of the archive, as the kernel command line names it
	Problem string         `json:"problem,omitempty"`
}

// List describes the label's layers, the one that wins first, then the other layers that exist.
func (v *View) List() ([]Layer, error) {
	here, err := v.folder.Names()
	if err != nil {
		return nil, err
	}
	inTree, err := layer.TreeLayers(v.root)
	if err != nil {
		return nil, err
	}
	all := slices.Concat(v.Server, v.Tree) // a tree's layers are applied first, so they come last
	used := len(all)
	others := slices.Concat(here, inTree)
	slices.Sort(others)
	for _, name := range slices.Compact(others) {
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	list := []Layer{}
	for i, name := range all {
		allow := v.Label.AllowSecrets
		if i >= used {
			allow = []string{"/*"} // the label's machines do not get it
		}
		l := v.describe(name, allow)
		if i < used {
			l.Order = i + 1
		}
		list = append(list, l)
	}
	return list, nil
}

func (v *View) describe(name string, allow []string) Layer {
	l := Layer{Name: name, Where: "server"}
	var err error
	if v.folder.Has(name) {
		var d layer.Dir
		if d, err = v.folder.Dir(name); err == nil {
			l.Dir = d.Path
			l.Digest, err = v.folder.Digest(name, allow)
		}
	} else if err = missingIn(v.root, v.folder, name); err != nil {
		l.Where = "missing"
	} else {
		l.Where = "tree"
		var place string
		if place, err = layer.FindTree(v.root, name); err == nil {
			l.Dir = v.root.Name() + "/" + place
		}
	}
	if err == nil {
		l.Files, l.Size, l.Deletes, err = layer.Measure(l.Dir)
	}
	if err != nil {
		l.Problem = strings.TrimPrefix(err.Error(), "layer "+name+": ")
	}
	return l
}

// Report is what a machine would say about a layer on its console.
type Report struct {
	Layer string `json:"layer"`
	Text  string `json:"text"`
}

// File is one path that the layers bring or delete.
type File struct {
	Path    string `json:"path"`
	Layer   string `json:"layer"` // the one that wins, of those that bring it
	Deleted bool   `json:"deleted,omitempty"`
	*imagediff.Stat
}

// Files are what the layers bring to a machine and delete there, in the order of the paths.
func (v *View) Files() ([]File, []Report, error) {
	p, err := v.apply()
	if err != nil {
		return nil, nil, err
	}
	files := []File{}
	for _, c := range p.Changes {
		f := File{Path: c.Path, Layer: c.Layer, Deleted: c.New == nil, Stat: imagediff.StatOf(c.New)}
		if f.Deleted {
			f.Stat = imagediff.StatOf(c.Old)
		}
		files = append(files, f)
	}
	return files, append(v.reports(p), v.refused()...), nil
}

// refused are the layers that the server does not serve to the label's machines.
func (v *View) refused() []Report {
	var out []Report
	for _, name := range v.Server {
		if _, err := v.folder.Digest(name, v.Label.AllowSecrets); err != nil {
			out = append(out, Report{name, strings.TrimPrefix(err.Error(), "layer "+name+": ")})
		}
	}
	return out
}

// Diff compares the root that a machine will have with the tree.
func (v *View) Diff() ([]imagediff.LayerFile, []Report, error) {
	p, err := v.apply()
	if err != nil {
		return nil, nil, err
	}
	files, err := imagediff.Layers(v.root, p)
	return files, append(v.reports(p), v.refused()...), forRoot(err)
}

// apply applies the layers to a sketch of the tree.
func (v *View) apply() (*layer.Preview, error) {
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
		return fmt.Errorf("%w: the tree has files that only root can read; run this command with sudo", err)
	}
	return err
}

// reports are what the machine says. Of a layer that is missing they say more.
func (v *View) reports(p *layer.Preview) []Report {
	out := []Report{}
	for _, r := range p.Reports {
		text := r.Err.Error()
		if slices.Contains(v.Tree, r.Layer) {
			if err := missingIn(v.root, v.folder, r.Layer); err != nil {
				text = err.Error()
			}
		}
		out = append(out, Report{r.Layer, text})
	}
	return out
}
