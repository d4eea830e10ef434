package main

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/spf13/pflag"

	"netroot/internal/layer/stack"
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

// tellLayers says which layers of a machine are missing: an error for those of --layers, and a warning
// for those of the configuration. With a warning the machine boots, and says the same.
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
		fmt.Fprintln(e.stderr, "netroot: "+err.Error())
	}
	return nil
}

// renderLayers renders the layers of all labels, and logs what is wrong with them before a machine boots.
func renderLayers(cfg *site.Site, folder stack.Folder, log *slog.Logger) {
	for _, name := range cfg.Names() {
		r := site.Request{Label: name, Layers: folder}
		names, err := cfg.Stack(r)
		if err == nil {
			_, err = cfg.Settings(r)
			err = errors.Join(stack.Missing(cfg.Labels[name], names, folder), err)
		}
		if err != nil {
			log.Warn("layers", "label", name, "why", err)
		}
	}
}
