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
	"netroot/internal/handoff"
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

// layerStack is which layers a machine gets, of both kinds the first that wins first.
type layerStack struct {
	folder *serve.Layers
	label  *site.Label // nil: the configuration does not know it
	given  bool        // by --layers
	names  []string    // all of them, as they were named
	server []string    // those that lie in the folder beside the configuration
	tree   []string    // the others: the root has them, or it does not
}

// stack finds out which layers a machine of that label gets.
func (f layersFlag) stack(folder *serve.Layers, cfg *site.Site, label string) (layerStack, error) {
	s := layerStack{folder: folder, label: cfg.Labels[label]}
	if s.given = f.set != nil && f.set.Changed("layers"); s.given {
		s.names = f.names
	} else if s.label != nil {
		s.names = s.label.Layers
	}
	for i, name := range s.names {
		if err := handoff.CheckLayerName(name); err != nil {
			return s, usage(fmt.Errorf("--layers: %w", err))
		}
		switch {
		case slices.Contains(s.names[:i], name):
			return s, usage(fmt.Errorf("--layers: %s is there twice", name))
		case folder.Has(name):
			s.server = append(s.server, name)
		default:
			s.tree = append(s.tree, name)
		}
	}
	return s, nil
}

// addTo has a machine's settings name the layers; those of the folder are
// rendered, if they have not been as they are now.
func (s layerStack) addTo(set *boot.Settings) error {
	if len(s.names) > 0 && !set.Overlay.Enabled {
		return usage(errors.New("layers need memory over the root, and here is none (overlay: false, or rw): give --layers ''"))
	}
	set.TreeLayers = s.tree
	for _, name := range slices.Backward(s.server) {
		digest, err := s.folder.Digest(name)
		if err != nil {
			return err
		}
		set.Layers = append(set.Layers, digest)
	}
	return nil
}

// missing tells of layers that are nowhere, as far as the label's tree is at hand.
func (s layerStack) missing() error {
	if s.label == nil || len(s.tree) == 0 {
		return nil
	}
	tree, err := os.OpenRoot(s.label.Tree)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer tree.Close()
	var all []error
	for _, name := range s.tree {
		if err := s.missingIn(tree, name); err != nil {
			all = append(all, fmt.Errorf("label %s: layer %s: %w", s.label.Name, name, err))
		}
	}
	return errors.Join(all...)
}

// missingIn says that one is neither in the tree nor in the folder, and what may
// have been meant.
func (s layerStack) missingIn(tree *os.Root, name string) error {
	_, err := layer.FindTree(tree, name)
	if err == nil {
		return nil
	}
	known, _ := layer.TreeLayers(tree) // a hint, no more
	here, _ := s.folder.Names()
	return fmt.Errorf("%w%s%s", err, s.folder.Nor(name), nearest.Hint(name, slices.Concat(here, known)))
}

// tell says what is missing: an error where the user has just named it, and else
// a warning, for machines boot all the same, and say so too.
func (s layerStack) tell(e *env) error {
	err := s.missing()
	if err != nil && s.given {
		return usage(err)
	}
	if err != nil {
		fmt.Fprintln(e.stderr, "netroot: "+err.Error())
	}
	return nil
}

// layerFolder has the layers that lie beside the configuration.
func (e *env) layerFolder(cfg *site.Site, log *slog.Logger) *serve.Layers {
	return serve.NewLayers(cfg.Layers(), log)
}

// settingsWithLayers are a label's settings with its layers.
func settingsWithLayers(cfg *site.Site, folder *serve.Layers, name string) (boot.Settings, error) {
	set, err := settings(cfg, name)
	if err != nil {
		return set, err
	}
	stack, err := layersFlag{}.stack(folder, cfg, name)
	if err == nil {
		err = stack.addTo(&set)
	}
	return set, err
}

// renderLayers renders the layers of all labels, and says what is wrong with
// any before a machine is told.
func renderLayers(cfg *site.Site, folder *serve.Layers, log *slog.Logger) {
	for _, name := range cfg.Names() {
		stack, err := layersFlag{}.stack(folder, cfg, name)
		if err == nil {
			err = errors.Join(stack.missing(), stack.addTo(&boot.Settings{Overlay: handoff.Overlay{Enabled: true}}))
		}
		if err != nil {
			log.Warn("layers", "label", name, "why", err)
		}
	}
}
