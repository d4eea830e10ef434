// Package site holds what the owner of a site has written, parsed, validated and typed: which
// labels there are, from which recipe each is built, how its machines boot, and who may mount what.
// One Site is one Revision, and a server acts on a whole one.
//
// It reads nothing: package config makes a Site out of netroot.yaml. It does not look whether the
// files that a Site names exist, and it holds nothing that the servers learn: that is state, not
// configuration.
package site

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"netroot/internal/boot"
	"netroot/internal/handoff"
	"netroot/internal/nearest"
)

// DefaultState is the directory of trees, images and logs when nothing names another.
const DefaultState = "/var/lib/netroot"

// Revision names one Site by what it was read from: "sha256:" and 64 hexadecimal digits. It is
// empty when there is no file.
type Revision handoff.Digest

// RevisionOf is the Revision of a Site that was read from these bytes.
func RevisionOf(src []byte) Revision {
	return Revision(handoff.DigestOf(src))
}

// Short is the beginning of a Revision, for people: 12 hexadecimal digits, or "none".
func (r Revision) Short() string {
	return cmp.Or(handoff.Digest(r).Short(), "none")
}

// Site is one configuration, as its owner wrote it.
type Site struct {
	Path     string   // absolute path of the file; empty when there is none
	Revision Revision // of what was read
	State    string   // absolute directory of trees, images and logs
	Labels   map[string]*Label

	// Networks are those whose machines may mount over NFS; none: those that the server is on.
	Networks []netip.Prefix
}

// Label is one kind of system: what it is built from and how it boots.
type Label struct {
	Name      string
	Recipe    string            // absolute path of the definition file
	Tree      string            // absolute directory of its root filesystem
	Transport handoff.Transport // empty: the best that the image's kernel and the server have
	Initramfs handoff.Flavour   // that is built and booted; empty: our own
	Servers   []string          // hosts that serve the same images, on the same ports as this one
	Pack      string            // how the root is packed, one of pack.Methods; empty: pack.Auto
	RW        bool              // the tree itself is the root of one node, which writes to it over NFS
	Debug     bool
	Cmdline   []string          // extra kernel arguments, one each, quotes kept
	Qemu      []string          // extra qemu arguments, one each
	Overlay   handoff.Overlay   // writable memory over the root
	Layers    []string          // configuration trees laid over the root; the first wins
	Kernel    string            // release; empty: the newest in the tree
	BuildArgs map[string]string // values of the recipe's {{ }} variables
	VM        VM

	AllowSecrets []string // paths in the tree of secrets that are meant to be in the image

	// OwnTree is set when the file names the tree's directory; it then does not lie below State.
	OwnTree bool
}

// VM is the machine that "netroot vm" makes for a label.
type VM struct {
	Memory   int64  // bytes
	SSHPort  uint16 // on 127.0.0.1, forwarded to the node's 22
	Firmware boot.Firmware
}

// Empty is the Site without a file: it has no labels.
func Empty() *Site {
	return &Site{State: DefaultState, Labels: map[string]*Label{}}
}

// Label returns the label of that name; the error suggests the nearest.
func (s *Site) Label(name string) (*Label, error) {
	if l, ok := s.Labels[name]; ok {
		return l, nil
	}
	if s.Path == "" {
		return nil, fmt.Errorf("unknown label %q: there is no netroot.yaml here or in /etc/netroot; --config names another file", name)
	}
	known := s.Names()
	if hint := nearest.Hint(name, known); hint != "" {
		return nil, fmt.Errorf("unknown label %q%s", name, hint)
	}
	return nil, fmt.Errorf("unknown label %q: %s has %s", name, s.Path, strings.Join(known, ", "))
}

// Names are the names of all labels, in order.
func (s *Site) Names() []string { return slices.Sorted(maps.Keys(s.Labels)) }

// ForRecipe returns the label for the recipe at an absolute path. It is called as the file is,
// without its suffix, and has every default unless the configuration has that label for that file.
func (s *Site) ForRecipe(path string) (*Label, error) {
	base := filepath.Base(path)
	name := strings.ToLower(strings.TrimSuffix(base, filepath.Ext(base)))
	if err := CheckLabel(name); err != nil {
		return nil, fmt.Errorf("recipe %s names its image: %w", path, err)
	}
	if l, ok := s.Labels[name]; ok {
		if l.Recipe != path {
			return nil, fmt.Errorf("recipe %s names its image %s, which is a label with another recipe, %s: rename the file, or make it the recipe of a label", path, name, l.Recipe)
		}
		return l, nil
	}
	l := s.NewLabel(name)
	l.Recipe = path
	return l, nil
}

// SetState moves trees, images and logs to another absolute directory. Trees that the file places
// itself stay.
func (s *Site) SetState(dir string) {
	s.State = dir
	for _, l := range s.Labels {
		if !l.OwnTree {
			l.Tree = s.tree(l.Name)
		}
	}
}

// Images is the directory of the image store.
func (s *Site) Images() string { return filepath.Join(s.State, "images") }

// Logs is the directory of the logs of builds.
func (s *Site) Logs() string { return filepath.Join(s.State, "logs") }

// Tree is the directory of a label's tree, also of a label that the file does not name.
func (s *Site) Tree(label string) string {
	if l, ok := s.Labels[label]; ok {
		return l.Tree
	}
	return s.tree(label)
}

// Layers is the folder of the layers that the server has: beside the file, empty when there is
// none.
func (s *Site) Layers() string {
	if s.Path == "" {
		return ""
	}
	return filepath.Join(filepath.Dir(s.Path), "layers")
}

func (s *Site) tree(label string) string { return filepath.Join(s.State, "trees", label) }

// DefaultOverlay is what lies over the root of a label that does not mention it.
func DefaultOverlay() handoff.Overlay { return handoff.Overlay{Enabled: true} }

// NewLabel is a label with every default.
func (s *Site) NewLabel(name string) *Label {
	return &Label{
		Name:    name,
		Recipe:  filepath.Join(filepath.Dir(s.Path), "recipes", name+".def"),
		Tree:    s.tree(name),
		Overlay: DefaultOverlay(),
		VM:      VM{Memory: 2 << 30, SSHPort: 2222, Firmware: boot.BIOS},
	}
}

// CheckLabel refuses a text that cannot be a label.
func CheckLabel(name string) error {
	if !handoff.ValidLabel(name) {
		return fmt.Errorf("%q cannot be a label: use lower-case letters and digits, with single dots, hyphens or underscores between them, 128 at most", name)
	}
	return nil
}
