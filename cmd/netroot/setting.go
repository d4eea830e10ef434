package main

import (
	"cmp"
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
	return "", usage(fmt.Errorf("unknown %s %q%s", what, name, nearest.Choice(name, words)))
}

// flavourOf reads the name of a flavour of initramfs; an empty one is the label's.
func flavourOf(name string) (handoff.Flavour, error) {
	if name == "" {
		return "", nil
	}
	return oneOf("initramfs", name, handoff.Flavours())
}

// packedImage finds an image whose root is packed by the method: the newest of
// the label that ref names, or the one version that it names.
func packedImage(cfg *site.Site, ref string, method pack.Method) (*store.Store, *store.Image, error) {
	s, im, err := openImage(cfg, ref)
	if err != nil || method.Packed(im.Config.RootFormat, im.Config.Compressor) {
		return s, im, err
	}
	ref = imageName(cfg, ref)
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

// oneArg is cobra's ExactArgs(1) with an error that says what is wanted.
func oneArg(what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usage(fmt.Errorf("%s requires one %s; see \"%s --help\"", cmd.CommandPath(), what, cmd.CommandPath()))
		}
		return nil
	}
}

// noArgs refuses arguments. Of a command that has verbs, an argument is a mistyped verb.
func noArgs(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case cmd.HasAvailableSubCommands():
		return unknownVerb(cmd, args[0])
	}
	return usage(fmt.Errorf("%s has no arguments, but %q was given; see \"%[1]s --help\"", cmd.CommandPath(), args[0]))
}

// unknownVerb says that a command has no such verb, and suggests the nearest.
func unknownVerb(cmd *cobra.Command, verb string) error {
	var verbs []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			verbs = append(verbs, c.Name())
		}
	}
	hint := cmp.Or(nearest.Hint(verb, verbs), fmt.Sprintf("; \"%s --help\" lists them", cmd.CommandPath()))
	of := ""
	if cmd.HasParent() {
		of = fmt.Sprintf(" for %q", cmd.CommandPath())
	}
	return usage(fmt.Errorf("unknown command %q%s%s", verb, of, hint))
}

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
