package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"slices"

	"github.com/spf13/pflag"

	"netroot/internal/boot"
	"netroot/internal/layer"
	"netroot/internal/nearest"
	"netroot/internal/serve"
	"netroot/internal/site"
)

// layersFlag is --layers, for the verbs that boot or show a machine.
type layersFlag struct {
	names []string
	set   *pflag.FlagSet
}

func (f *layersFlag) register(fl *pflag.FlagSet) {
	f.set = fl
	fl.StringSliceVar(&f.names, "layers", nil, "lay these `layers` over the root, the first wins (default: the label's; '' is none)")
}

// given are the layers of --layers; nil: the flag is not there, and the label's count.
func (f layersFlag) given() (*[]string, error) {
	if f.set == nil || !f.set.Changed("layers") {
		return nil, nil
	}
	if err := site.CheckLayers(f.names); err != nil {
		return nil, usage(fmt.Errorf("--layers: %w", err))
	}
	return &f.names, nil
}

// layerFolder has the layers that lie beside the configuration.
func (e *env) layerFolder(cfg *site.Site, log *slog.Logger) *serve.Layers {
	return serve.NewLayers(cfg.Layers(), log)
}

// tellLayers says which layers of a machine are nowhere: an error where --layers has just named them,
// and else a warning, for the machine boots all the same, and says so too.
func (e *env) tellLayers(cfg *site.Site, folder *serve.Layers, r site.Request) error {
	stack, err := cfg.Stack(r)
	if err != nil {
		return err
	}
	err = missing(cfg.Labels[r.Label], stack, folder)
	if err != nil && r.Add.Layers != nil {
		return usage(err)
	}
	if err != nil {
		fmt.Fprintln(e.stderr, "netroot: "+err.Error())
	}
	return nil
}

// missing tells of layers that are nowhere, as far as the label's tree is at hand.
func missing(l *site.Label, stack site.Stack, folder *serve.Layers) error {
	if l == nil || len(stack.Tree) == 0 {
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
	for _, name := range stack.Tree {
		if err := missingIn(tree, folder, name); err != nil {
			all = append(all, fmt.Errorf("label %s: layer %s: %w", l.Name, name, err))
		}
	}
	return errors.Join(all...)
}

// missingIn says that a layer is neither in the tree nor in the folder, and what may have been meant.
func missingIn(tree *os.Root, folder *serve.Layers, name string) error {
	_, err := layer.FindTree(tree, name)
	if err == nil {
		return nil
	}
	known, _ := layer.TreeLayers(tree) // a hint, no more
	here, _ := folder.Names()
	return fmt.Errorf("%w%s%s", err, folder.Nor(name), nearest.Hint(name, slices.Concat(here, known)))
}

// renderLayers renders the layers of all labels, and says what is wrong with
// any before a machine is told.
func renderLayers(cfg *site.Site, folder *serve.Layers, log *slog.Logger) {
	for _, name := range cfg.Names() {
		r := site.Request{Label: name, Image: boot.Image{Name: name}, Layers: folder}
		stack, err := cfg.Stack(r)
		if err == nil {
			_, err = cfg.Settings(r)
			err = errors.Join(missing(cfg.Labels[name], stack, folder), err)
		}
		if err != nil {
			log.Warn("layers", "label", name, "why", err)
		}
	}
}
