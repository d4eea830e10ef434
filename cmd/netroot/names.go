package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"netroot/internal/build"
	"netroot/internal/site"
	"netroot/internal/store"
)

// A name is understood in the same way by every verb: it is a label of the configuration; or the
// path of a definition file, for the label that is called as the file; or the name of a tree or an
// image that was built from such a file.

// label finds the label that a verb's argument names. A label that is not in the configuration has
// every default.
func label(cfg *site.Site, arg string) (*site.Label, error) {
	_, configured := cfg.Labels[arg]
	if !configured && !isRecipe(arg) && site.CheckLabel(arg) == nil {
		l := cfg.NewLabel(arg)
		if l.Recipe = recipeOf(l); l.Recipe != "" {
			return l, nil
		}
		if _, err := os.Stat(l.Tree); err == nil {
			return l, nil
		}
	}
	if configured || !isRecipe(arg) && !isFile(arg) {
		l, err := cfg.Label(arg)
		return l, usage(err)
	}
	path, err := filepath.Abs(arg)
	if err != nil {
		return nil, fmt.Errorf("recipe %s: %w", arg, err)
	}
	l, err := cfg.ForRecipe(path)
	return l, usage(err)
}

// recipeOf is the recipe of a label that the configuration lacks: the one from which its tree was
// built, or the definition file of that name in the working directory; empty if there is neither.
func recipeOf(l *site.Label) string {
	if path := build.RecipeOf(l.Tree); path != "" {
		return path
	}
	path, err := filepath.Abs(l.Name + ".def")
	if err != nil || !isFile(path) {
		return ""
	}
	return path
}

// isRecipe tells the path of a definition file from the name of a label.
func isRecipe(arg string) bool {
	return strings.HasSuffix(arg, ".def") || strings.ContainsRune(arg, filepath.Separator)
}

func isFile(name string) bool {
	fi, err := os.Stat(name)
	return err == nil && fi.Mode().IsRegular()
}

// imageName is what the store calls the image that a verb's argument names: the label of a
// definition file, and any other name as it is.
func imageName(cfg *site.Site, arg string) string {
	if isRecipe(arg) {
		if l, err := label(cfg, arg); err == nil {
			return l.Name
		}
	}
	return arg
}

// imageNames is imageName for all arguments. Without a configuration they stay as they are.
func (e *env) imageNames(args ...string) []string {
	cfg, err := e.config()
	if err != nil {
		return args
	}
	names := make([]string, len(args))
	for i, arg := range args {
		names[i] = imageName(cfg, arg)
	}
	return names
}

// openImage finds an image of the store: "label", "label@id", "id" or the path of the label's
// recipe. The error says what to do where the label has no image.
func openImage(cfg *site.Site, arg string) (*store.Store, *store.Image, error) {
	s, err := store.Open(cfg.Images())
	if err != nil {
		return nil, nil, err
	}
	im, err := s.Resolve(imageName(cfg, arg))
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil, noImage(cfg, s, arg, err)
	}
	return s, im, err
}

// noImage says more about a name that no image has, where more is known than err says.
func noImage(cfg *site.Site, s *store.Store, arg string, err error) error {
	l, labelErr := label(cfg, arg)
	switch {
	case labelErr != nil:
		return usage(err)
	case isRecipe(arg) && !isFile(arg):
		return usage(fmt.Errorf("there is no recipe %s, and no image %s", arg, l.Name))
	}
	versions, _ := s.Versions() // as many as can be read
	for _, v := range versions {
		if v.Label == l.Name {
			return fmt.Errorf("the label %s has images, but its tag was removed: run \"netroot image tag %s %[1]s\" first", l.Name, v.Name())
		}
	}
	if _, err := os.Stat(l.Tree); err == nil && build.RecipeOf(l.Tree) != "" {
		return fmt.Errorf("label %s has a tree, but no image yet: run \"netroot build --update %s\" first", l.Name, arg)
	}
	return fmt.Errorf("label %s has no image yet: run \"netroot build %s\" first", l.Name, arg)
}
