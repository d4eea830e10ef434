package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"netroot/internal/boot"
	"netroot/internal/build"
	"netroot/internal/export"
	"netroot/internal/handoff"
	"netroot/internal/pack"
	"netroot/internal/vm"
)

// completion is what cobra calls for the candidates of an argument or of a flag's value.
type completion = cobra.CompletionFunc

// nothing completes nothing, and no file names either.
const nothing = cobra.ShellCompDirectiveNoFileComp

// completeFlags gives every flag of the commands below root whose values are known its completion.
func (e *env) completeFlags(root *cobra.Command) {
	values := map[string]completion{
		"transport": words(handoff.Transports()),
		"initramfs": words(handoff.Flavours()),
		"firmware":  words(boot.Firmwares()),
		"accel":     words(vm.Accels()),
		"pack":      words(pack.Methods()),
		"loader":    words(export.Loaders()),
		"image":     e.completeImages,
		"layers":    e.completeLayers,
		"section":   completeSections,
		"arch":      words(boot.Archs()),
	}
	for _, cmd := range root.Commands() {
		for name, complete := range values {
			if cmd.Flags().Lookup(name) == nil {
				continue
			}
			if err := cmd.RegisterFlagCompletionFunc(name, complete); err != nil {
				panic(err) // the flag exists, and only this loop registers completions
			}
		}
		e.completeFlags(cmd)
	}
}

// words completes the values of a flag that takes one of a few.
func words[T ~string](known []T) completion {
	var list []string
	for _, k := range known {
		list = append(list, string(k))
	}
	return cobra.FixedCompletions(list, nothing)
}

// completeLabels completes the labels of the configuration, and the paths of recipes.
func (e *env) completeLabels(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	cfg, err := e.config()
	if err != nil || len(args) > 0 {
		return nil, nothing
	}
	return cfg.Names(), cobra.ShellCompDirectiveDefault
}

// completeImages completes tags, and after an "@" the versions of a label.
func (e *env) completeImages(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	s, err := e.openStore()
	if err != nil {
		return nil, nothing
	}
	versions, _ := s.Versions() // as many as can be read
	var names []string
	for _, v := range versions {
		if strings.Contains(typed, "@") {
			names = append(names, v.Name())
		} else {
			names = append(names, v.Tags...)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nothing
}

// images completes that many images, and then nothing.
func (e *env) images(n int) completion {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= n {
			return nil, nothing
		}
		return e.completeImages(cmd, args, typed)
	}
}

// completeLayers completes the last of a list of layers from those beside the configuration.
func (e *env) completeLayers(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	cfg, err := e.config()
	if err != nil {
		return nil, nothing
	}
	entries, _ := os.ReadDir(cfg.Layers())
	before := typed[:strings.LastIndex(typed, ",")+1]
	var names []string
	for _, entry := range entries {
		if info, err := os.Stat(filepath.Join(cfg.Layers(), entry.Name())); err == nil && info.IsDir() {
			names = append(names, before+entry.Name())
		}
	}
	return names, nothing
}

// completeSections completes the last of a list of sections.
func completeSections(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	before := typed[:strings.LastIndex(typed, ",")+1]
	var names []string
	for _, name := range append(build.SectionNames(), "all", "none") {
		names = append(names, before+name)
	}
	return names, nothing
}

// completeSnapshots completes the keys of the cache, with what each snapshot is.
func (e *env) completeSnapshots(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	cfg, err := e.config()
	if err != nil {
		return nil, nothing
	}
	entries, _ := openCache(cfg).List()
	var keys []string
	for _, s := range entries {
		keys = append(keys, cobra.CompletionWithDesc(s.Key.ID(), s.What))
	}
	return keys, nothing
}
