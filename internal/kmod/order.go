package kmod

import (
	"fmt"
	"slices"
	"strings"
)

// LoadOrder returns what must be loaded for the module to work, in order: first everything that it
// requires or prefers, last the module itself. Built-in modules are left out, because they need not
// be loaded; for a built-in name the list is empty.
//
// If the index lacks the module or a dependency, the error wraps ErrNotFound. A cycle of
// dependencies is an error that names the cycle. Softdeps never cause an error: LoadOrder leaves
// out a softdep that is unknown or that could only be loaded after the module itself.
func (x *Index) LoadOrder(name string) ([]Module, error) {
	w := walk{x: x, done: map[string]bool{}, failed: map[string]bool{}}
	if err := w.visit(normal(name)); err != nil {
		return nil, fmt.Errorf("module %s: %w", normal(name), err)
	}
	needed := map[string]bool{}
	x.closure(normal(name), needed)
	for i := range w.order {
		w.order[i].Soft = !needed[w.order[i].Name]
	}
	return w.order, nil
}

// closure adds the module and everything that it requires.
func (x *Index) closure(name string, into map[string]bool) {
	e := x.modules[name]
	if e == nil || into[name] {
		return
	}
	into[name] = true
	for _, d := range e.deps {
		x.closure(Name(d), into)
	}
}

// walk is one depth-first search through the dependencies.
type walk struct {
	x     *Index
	order []Module
	done  map[string]bool // modules already in order
	// failed has the modules that cannot be loaded. Trying them again as softdeps would take
	// exponential time.
	failed map[string]bool
	chain  []string // from the requested module to the current one
}

func (w *walk) visit(name string) error {
	if w.done[name] || w.x.Builtin(name) {
		return nil
	}
	e := w.x.modules[name]
	if e == nil {
		if len(w.chain) > 0 {
			return fmt.Errorf("%s requires %s: %w", w.chain[len(w.chain)-1], name, ErrNotFound)
		}
		return ErrNotFound
	}
	if i := slices.Index(w.chain, name); i >= 0 {
		return fmt.Errorf("dependencies form a cycle: %s -> %s", strings.Join(w.chain[i:], " -> "), name)
	}
	w.chain = append(w.chain, name)
	defer func() { w.chain = w.chain[:len(w.chain)-1] }()

	for _, d := range slices.Backward(e.deps) {
		if err := w.visit(Name(d)); err != nil {
			return err
		}
	}
	for _, word := range e.pre {
		for _, soft := range w.x.Resolve(word) {
			w.visitSoft(soft)
		}
	}
	w.done[name] = true
	w.order = append(w.order, e.Module)
	return nil
}

// visitSoft visits a softdep. It undoes everything if the module cannot be loaded.
func (w *walk) visitSoft(name string) {
	if w.failed[name] {
		return
	}
	before := len(w.order)
	if w.visit(name) == nil {
		return
	}
	w.failed[name] = true
	for _, m := range w.order[before:] {
		delete(w.done, m.Name)
	}
	w.order = w.order[:before]
}
