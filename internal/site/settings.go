package site

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"netroot/internal/boot"
	"netroot/internal/handoff"
)

// Layers are the layers that a server has, beside those that lie in trees.
//
// Both methods are asked for every machine that boots: an implementation answers from memory.
type Layers interface {
	// Has reports whether there is a layer of that name. One that exists and is damaged counts:
	// Digest says what is wrong with it.
	Has(name string) bool
	// Digest is the digest of the layer's archive, which nodes can fetch from now on. A layer with
	// a secret that allow, a list of paths on the node, does not name has none.
	Digest(name string, allow []string) (handoff.Digest, error)
}

// Request asks how one machine boots one image.
type Request struct {
	Machine  boot.Machine
	Image    boot.Image
	Label    string                       // whose configuration counts; empty: the label in the image's name
	Listen   boot.Ports                   // where the servers listen
	Withheld map[handoff.Transport]string // see boot.Settings
	Layers   Layers                       // nil: the server has none
	Add      Additions
}

// Additions are what a verb or its flags say beside the configuration. The zero value adds nothing.
type Additions struct {
	Transport handoff.Transport // in place of the label's; empty: the label's
	Initramfs handoff.Flavour   // in place of the label's; empty: the label's
	Layers    *[]string         // in place of the label's, the first wins; nil: the label's
	RW        bool              // as rw: true, in place of the label's overlay
	ReadOnly  bool              // a label with rw: true boots read-only, with the default overlay
	Debug     bool              // as debug: true
	Console   []string          // values of console=; the last is /dev/console
	Cmdline   []string          // kernel arguments before the label's, which win
	Alone     bool              // the label's other servers do not count
	Elsewhere boot.Elsewhere

	// TopLayer is the digest of an archive that is applied last, over all layers. RunLayer is the
	// digest of one that has files below run/ only: a machine without an overlay gets it instead.
	TopLayer, RunLayer handoff.Digest
}

// Plan decides what a machine is told: boot.Decide on its Settings.
func (s *Site) Plan(r Request) (boot.Plan, error) {
	set, err := s.Settings(r)
	if err != nil {
		return boot.Plan{}, err
	}
	return boot.Decide(r.Machine, r.Image, set)
}

// Settings are what the configuration and the additions say about a machine's boot. Every way to a
// machine uses them: the server, "netroot plan", "netroot vm" and the exports. A label that the
// configuration does not have boots with every default.
func (s *Site) Settings(r Request) (boot.Settings, error) {
	l, add := s.labelOf(r), r.Add
	set := boot.Settings{
		Transport: cmp.Or(add.Transport, l.Transport),
		Initramfs: cmp.Or(add.Initramfs, l.Initramfs),
		Ports:     r.Listen,
		Withheld:  r.Withheld,
		Elsewhere: add.Elsewhere,
		Servers:   l.Servers,
		Overlay:   l.Overlay,
		RW:        l.RW,
		Debug:     l.Debug || add.Debug,
		Console:   add.Console,
		Cmdline:   slices.Concat(add.Cmdline, l.Cmdline),
	}
	if add.Alone {
		set.Servers = nil
	}
	switch {
	case add.RW:
		set.RW, set.Overlay = true, handoff.Overlay{}
	case add.ReadOnly && l.RW:
		set.RW, set.Overlay = false, DefaultOverlay()
	}
	stack, err := s.Stack(r)
	if err != nil {
		return boot.Settings{}, err
	}
	if err := stack.addTo(&set, r, l.AllowSecrets); err != nil {
		return boot.Settings{}, fmt.Errorf("label %s: %w", l.Name, err)
	}
	return set, nil
}

// labelOf is the label that a request is about, with every default if the configuration lacks it.
func (s *Site) labelOf(r Request) *Label {
	name := r.Label
	if name == "" {
		name, _, _ = strings.Cut(r.Image.Name, "@")
	}
	if l, ok := s.Labels[name]; ok {
		return l
	}
	return s.NewLabel(name)
}

// Stack is which layers a machine gets, of each kind the first that wins first. All of Tree are
// under all of Server.
type Stack struct {
	Names  []string // all of them, in the order in which they were named
	Server []string // the server has these
	Tree   []string // the others: the root has them, or nothing has
}

// Stack sorts the layers of a request by where they are.
func (s *Site) Stack(r Request) (Stack, error) {
	stack := Stack{Names: s.labelOf(r).Layers}
	if r.Add.Layers != nil {
		stack.Names = *r.Add.Layers
	}
	if err := CheckLayers(stack.Names); err != nil {
		return Stack{}, err
	}
	for _, name := range stack.Names {
		if r.Layers != nil && r.Layers.Has(name) {
			stack.Server = append(stack.Server, name)
		} else {
			stack.Tree = append(stack.Tree, name)
		}
	}
	return stack, nil
}

// CheckLayers refuses a list of layers with a name that cannot be one, or with one name twice.
func CheckLayers(names []string) error {
	for i, name := range names {
		if err := handoff.CheckLayerName(name); err != nil {
			return err
		}
		if slices.Contains(names[:i], name) {
			return fmt.Errorf("layer %s is named twice", name)
		}
	}
	return nil
}

// ErrNoOverlay is why a machine cannot have layers: they are applied to the overlay.
var ErrNoOverlay = errors.New("layers need memory over the root, and this machine has none (overlay: false, or rw)")

// addTo names the layers in a machine's settings. Layers are named there in the order of
// application, so the one that wins is the last.
func (k Stack) addTo(set *boot.Settings, r Request, allow []string) error {
	if len(k.Names) > 0 && !set.Overlay.Enabled {
		return ErrNoOverlay
	}
	set.TreeLayers = k.Tree
	for _, name := range slices.Backward(k.Server) {
		digest, err := r.Layers.Digest(name, allow)
		if err != nil {
			return err
		}
		set.Layers = append(set.Layers, digest)
	}
	switch {
	case set.Overlay.Enabled && r.Add.TopLayer != "":
		set.Layers = append(set.Layers, r.Add.TopLayer)
	case !set.Overlay.Enabled && r.Add.RunLayer != "":
		set.RunLayers = []handoff.Digest{r.Add.RunLayer}
	}
	return nil
}
