package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"netroot/internal/config"
	"netroot/internal/handoff"
	"netroot/internal/nearest"
	"netroot/internal/pack"
	"netroot/internal/site"
	"netroot/internal/store"
)

// config loads the configuration. Without any file it is that of a machine
// where only recipes named on the command line are known.
func (e *env) config() (*site.Site, error) {
	path, err := config.Find(e.configFile)
	var cfg *site.Site
	switch {
	case err == nil:
		cfg, err = config.Load(path)
	case errors.Is(err, config.ErrNone) && e.configFile == "":
		cfg, err = site.Empty(), nil
	}
	if err != nil {
		return nil, usage(err)
	}
	return cfg, e.setState(cfg)
}

// setState has --state count.
func (e *env) setState(cfg *site.Site) error {
	if e.stateDir == "" {
		return nil
	}
	dir, err := filepath.Abs(e.stateDir)
	if err != nil {
		return fmt.Errorf("state directory %s: %w", e.stateDir, err)
	}
	cfg.SetState(dir)
	return nil
}

// label finds what a verb's argument names: a label of the configuration, or,
// where it is the path of a definition file, one with every default.
func label(cfg *site.Site, arg string) (*site.Label, error) {
	if strings.HasSuffix(arg, ".def") || strings.ContainsRune(arg, filepath.Separator) {
		path, err := filepath.Abs(arg)
		if err != nil {
			return nil, fmt.Errorf("recipe %s: %w", arg, err)
		}
		l, err := cfg.ForRecipe(path)
		return l, usage(err)
	}
	l, err := cfg.Label(arg)
	return l, usage(err)
}

// additions are what the flags say that verbs have in common; an empty text is the label's.
func additions(transport, initramfs string, layers layersFlag) (add site.Additions, err error) {
	if transport != "" {
		if add.Transport, err = transportOf(transport); err != nil {
			return add, err
		}
	}
	if add.Initramfs, err = flavourOf(initramfs); err != nil {
		return add, err
	}
	add.Layers, err = layers.given()
	return add, err
}

// noLayers says what to do where a machine cannot have layers.
func noLayers(err error) error {
	if errors.Is(err, site.ErrNoOverlay) {
		return usage(fmt.Errorf("%w: give --layers ''", err))
	}
	return err
}

// transportOf reads a transport's name.
func transportOf(name string) (handoff.Transport, error) {
	return oneOf("transport", name, handoff.Transports())
}

// packOf reads how a root is to be packed; nothing is whatever is usual.
func packOf(name string) (pack.Method, error) {
	if name == "" {
		return "", nil
	}
	return oneOf("pack", name, pack.Methods())
}

// oneOf reads a word that must be one of the known ones.
func oneOf[T ~string](what, name string, known []T) (T, error) {
	if slices.Contains(known, T(name)) {
		return T(name), nil
	}
	var words []string
	for _, k := range known {
		words = append(words, string(k))
	}
	return "", usage(fmt.Errorf("%s %q: there are %s%s", what, name, strings.Join(words, ", "), nearest.Hint(name, words)))
}

// flavourOf reads the name of a flavour of initramfs; an empty one is the label's.
func flavourOf(name string) (handoff.Flavour, error) {
	if name == "" {
		return "", nil
	}
	return oneOf("initramfs", name, handoff.Flavours())
}

// openImage finds an image of the store: "label", "label@id" or "id".
func openImage(cfg *site.Site, ref string) (*store.Store, *store.Image, error) {
	s, err := store.Open(cfg.Images())
	if err != nil {
		return nil, nil, err
	}
	im, err := s.Resolve(ref)
	if errors.Is(err, store.ErrNotFound) {
		if _, known := cfg.Labels[ref]; known {
			return nil, nil, fmt.Errorf("label %s has no image yet: run \"netroot build %s\" first", ref, ref)
		}
		return nil, nil, usage(err)
	}
	return s, im, err
}

// packedImage finds an image whose root is packed by the method: the newest of
// the label that ref names, or the one version that it names.
func packedImage(cfg *site.Site, ref string, method pack.Method) (*store.Store, *store.Image, error) {
	s, im, err := openImage(cfg, ref)
	if err != nil || method.Packed(im.Config.RootFormat, im.Config.Compressor) {
		return s, im, err
	}
	if im.Label != ref {
		return nil, nil, fmt.Errorf("image %s is packed as %s, %s, and not as %s", im.Name(), im.Config.RootFormat, im.Config.Compressor, method)
	}
	versions, err := s.Versions()
	if err != nil {
		return nil, nil, err
	}
	for _, other := range versions { // of each label the newest first
		if other.Label == im.Label && method.Packed(other.RootFormat, other.Compressor) {
			im, err := s.Resolve(other.Name())
			return s, im, err
		}
	}
	return nil, nil, fmt.Errorf("no image of %s is packed as %s: run \"netroot build %s --update --pack %s\" first", ref, method, ref, method)
}

// completeLabels completes the labels of the configuration.
func (e *env) completeLabels(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	cfg, err := e.config()
	if err != nil || len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return cfg.Names(), cobra.ShellCompDirectiveDefault
}

// oneArg is cobra's ExactArgs(1) with an error that says what is wanted.
func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usage(fmt.Errorf("%s requires one %s; see \"%s --help\"", cmd.CommandPath(), what, cmd.CommandPath()))
		}
		return nil
	}
}

// noArgs is cobra's NoArgs with the exit status of a wrong command line.
func noArgs(cmd *cobra.Command, args []string) error { return usage(cobra.NoArgs(cmd, args)) }

// logger writes an operator's log, one line an event of at least that level, to standard error.
func (e *env) logger(least slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(e.stderr, &slog.HandlerOptions{Level: least}))
}

// initPath finds the node's init beside our own program, or where packages put it.
func initPath() (string, error) {
	if p := os.Getenv("NETROOT_INIT"); p != "" {
		return p, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(self)
	tried := []string{filepath.Join(dir, "netroot-init"), filepath.Join(dir, "../lib/netroot/netroot-init")}
	for _, p := range tried {
		if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", fmt.Errorf("netroot-init, the node's init, is neither %s: \"make\" builds both programs (NETROOT_INIT names another place)", strings.Join(tried, " nor "))
}
