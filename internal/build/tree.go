package build

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"netroot/internal/layer"
	"netroot/internal/sandbox"
)

// Tree is a finished tree. While it is open, no other netroot builds it or works in it.
type Tree struct {
	dir  string
	lock *lock
}

// OpenTree opens the tree of a label for the verb that will work in it.
func OpenTree(dir, label, verb string) (*Tree, error) {
	if fi, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, &NoTreeError{Label: label}
	} else if err != nil {
		return nil, err
	} else if !fi.IsDir() {
		return nil, fmt.Errorf("the tree of %s, %s, is not a directory", label, dir)
	}
	l, err := lockTree(dir, label, verb)
	if err != nil {
		return nil, err
	}
	return &Tree{dir, l}, nil
}

// NoTreeError is the error for a label whose tree was not built yet. Arg is what the caller gives to
// "netroot build", if that is not the label.
type NoTreeError struct{ Label, Arg string }

func (e *NoTreeError) Error() string {
	return fmt.Sprintf("label %s has no tree yet: run \"netroot build %s\" first", e.Label, cmp.Or(e.Arg, e.Label))
}

// RecipeOf returns the absolute path of the recipe from which a tree was built. It is empty if there
// is no tree, or if its build left no record of the recipe.
func RecipeOf(dir string) string {
	if _, err := os.Stat(dir); err != nil {
		return ""
	}
	r, err := loadRecord(recordFile(dir))
	if err != nil {
		return ""
	}
	return r.file
}

// Close releases the tree for other processes.
func (t *Tree) Close() error { return t.lock.close() }

// Sandbox returns a sandbox that runs commands in the tree as %post is run.
func (t *Tree) Sandbox() sandbox.Sandbox {
	return sandbox.Sandbox{Root: t.dir, Env: sandbox.Environ(os.Environ(), nil), Through: throughEnv(t.dir)}
}

// Shell returns the path of an interactive shell in the tree.
func (t *Tree) Shell() (string, error) {
	root, err := os.OpenRoot(t.dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	for _, shell := range []string{"/bin/bash", "/bin/sh"} {
		if _, err := layer.Resolve(root, shell); err == nil {
			return shell, nil
		}
	}
	return "", fmt.Errorf("the tree %s has neither /bin/bash nor /bin/sh: install a shell in the recipe", t.dir)
}

// Changes are the changed paths of a tree, each beginning with a slash, sorted.
type Changes struct{ Added, Removed, Changed []string }

// None reports whether nothing has changed.
func (c Changes) None() bool { return len(c.Added)+len(c.Removed)+len(c.Changed) == 0 }

// String returns the number of changes and names the first ones.
func (c Changes) String() string {
	const named = 5
	var counts, paths []string
	for _, part := range []struct {
		what  string
		paths []string
	}{{"changed", c.Changed}, {"added", c.Added}, {"removed", c.Removed}} {
		if n := len(part.paths); n > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", n, part.what))
			paths = append(paths, part.paths...)
		}
	}
	more := ""
	if len(paths) > named {
		paths, more = paths[:named], ", ..."
	}
	return strings.Join(counts, ", ") + ": " + strings.Join(paths, ", ") + more
}

// Imaged reports whether an image was made of the tree. It is true if the build left no record.
func (t *Tree) Imaged() bool {
	r, err := loadRecord(recordFile(t.dir))
	return err != nil || r.image != noImage
}

// Changes compares the tree with the files that its build left, of which its image was made. It reads only metadata:
// 10,000 files take a tenth of a second. known is false if the build left no record.
func (t *Tree) Changes() (c Changes, known bool, err error) {
	old, err := loadRecord(recordFile(t.dir))
	if errors.Is(err, fs.ErrNotExist) {
		return Changes{}, false, nil
	}
	if err != nil {
		return Changes{}, false, err
	}
	now, err := listFiles(t.dir)
	if err != nil {
		return Changes{}, false, err
	}
	return compare(old.files, now), true, nil
}
