package main

import (
	"fmt"
	"log/slog"

	"github.com/spf13/pflag"

	"netroot/internal/layer/folder"
	"netroot/internal/layer/stack"
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
func (e *env) layerFolder(cfg *site.Site, log *slog.Logger) *folder.Folder {
	return folder.New(cfg.Layers(), cfg.State, log)
}

// tellLayers says which layers of a machine are missing: an error for those of --layers, and a
// warning for those of the configuration. With a warning the machine boots, and says the same.
func (e *env) tellLayers(cfg *site.Site, folder stack.Folder, r site.Request) error {
	names, err := cfg.Stack(r)
	if err != nil {
		return err
	}
	err = stack.Missing(cfg.Labels[r.Label], names, folder)
	if err != nil && r.Add.Layers != nil {
		return usage(err)
	}
	if err != nil {
		e.say("%v", err)
	}
	return nil
}

// checkLayers says which layers of any label are missing.
func checkLayers(cfg *site.Site, folder stack.Folder) (all []error) {
	for _, name := range cfg.Names() {
		names, err := cfg.Stack(site.Request{Label: name, Layers: folder})
		if err == nil {
			err = stack.Missing(cfg.Labels[name], names, folder)
		}
		if err != nil {
			all = append(all, err)
		}
	}
	return all
}
