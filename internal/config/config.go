// Package config reads netroot.yaml: which labels there are, from which recipe
// each is built and how it is booted. It is strict, so that a slip in the file
// is an error with its place and not a machine that boots differently, and
// everything comes out of it in the type it is used in.
//
// It does not look whether the files it names exist, and holds nothing that the
// servers learn: that is state, not configuration.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"netroot/internal/handoff"
	"netroot/internal/nearest"
	"netroot/internal/pack"
)

// DefaultState is where trees, images and logs go when nobody says otherwise.
const DefaultState = "/var/lib/netroot"

// ErrNone is matched by the error of Find when there is no configuration file.
var ErrNone = errors.New("no configuration")

// minimal is shown to those who have no file yet.
const minimal = `labels:
  debian12:
    recipe: recipes/debian12.def
`

// Config is one netroot.yaml.
type Config struct {
	Path   string // absolute; empty when there is no file
	State  string // absolute directory of trees, images and logs
	Labels map[string]*Label

	// Networks are those whose machines may mount by NFS; none: those that the server is on.
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
	Pack      pack.Method       // of the root; empty: pack.Auto
	RW        bool              // the tree itself is the root of one node, which writes to it; by NFS
	Debug     bool
	Cmdline   []string          // extra kernel arguments, one each, quotes kept
	Qemu      []string          // extra qemu arguments, one each
	Overlay   handoff.Overlay   // writable memory over the root
	Layers    []string          // configuration trees laid over the root; the first wins
	Kernel    string            // release; empty: the newest in the tree
	BuildArgs map[string]string // values of the recipe's {{ }} variables
	VM        VM

	AllowSecrets []string // paths in the tree of secrets that are meant to be in the image

	defaultTree bool
}

// VM is the machine that netroot vm makes for a label.
type VM struct {
	Memory   int64  // bytes
	SSHPort  uint16 // on 127.0.0.1, forwarded to the node's 22
	Firmware Firmware
}

// Firmware is what a machine starts with.
type Firmware string

// The firmwares there are.
const (
	BIOS Firmware = "bios"
	UEFI Firmware = "uefi"
)

// Default is the configuration without a file: no labels.
func Default() *Config {
	return &Config{State: DefaultState, Labels: map[string]*Label{}}
}

// Find returns the configuration file to use: explicit when it is not empty,
// else netroot.yaml here, else /etc/netroot/netroot.yaml. When there is none, the
// error matches ErrNone and shows how a file begins.
func Find(explicit string) (string, error) {
	return find(explicit, "netroot.yaml", "/etc/netroot/netroot.yaml")
}

func find(explicit string, usual ...string) (string, error) {
	if explicit != "" {
		if _, err := os.Stat(explicit); err != nil {
			return "", fmt.Errorf("configuration: %w", err)
		}
		return explicit, nil
	}
	for _, path := range usual {
		_, err := os.Stat(path)
		if err == nil {
			return path, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("configuration: %w", err)
		}
	}
	return "", fmt.Errorf("%w: neither %s is there. The smallest netroot.yaml:\n\n%s", ErrNone, strings.Join(usual, " nor "), minimal)
}

// Parse reads src as the file path would be read. What is wrong in it is
// reported as *Error.
func Parse(path string, src []byte) (*Config, error) { return parse(path, src) }

// Load reads the file. What is wrong in it is reported as *Error.
func Load(path string) (*Config, error) {
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	c, err := parse(path, src)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Label returns the label of that name; the error suggests the nearest.
func (c *Config) Label(name string) (*Label, error) {
	if l, ok := c.Labels[name]; ok {
		return l, nil
	}
	if c.Path == "" {
		return nil, fmt.Errorf("unknown label %q: there is no netroot.yaml that could name it", name)
	}
	known := c.Names()
	if hint := nearest.Hint(name, known); hint != "" {
		return nil, fmt.Errorf("unknown label %q%s", name, hint)
	}
	return nil, fmt.Errorf("unknown label %q: %s has %s", name, c.Path, strings.Join(known, ", "))
}

// Names are the names of all labels, in order.
func (c *Config) Names() []string { return slices.Sorted(maps.Keys(c.Labels)) }

// ForRecipe returns a label with every default for a recipe that no label
// names; it is called as the file is, without its suffix.
func (c *Config) ForRecipe(path string) (*Label, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("recipe %s: %w", path, err)
	}
	base := filepath.Base(abs)
	name := strings.ToLower(strings.TrimSuffix(base, filepath.Ext(base)))
	if err := checkName(name); err != nil {
		return nil, fmt.Errorf("recipe %s names its image: %w", path, err)
	}
	l := c.newLabel(name)
	l.Recipe = abs
	return l, nil
}

// SetState moves trees, images and logs to another directory. Trees that the
// file places itself stay.
func (c *Config) SetState(dir string) error {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return fmt.Errorf("state directory %s: %w", dir, err)
	}
	c.State = abs
	for _, l := range c.Labels {
		if l.defaultTree {
			l.Tree = c.tree(l.Name)
		}
	}
	return nil
}

// Images is the directory of the image store.
func (c *Config) Images() string { return filepath.Join(c.State, "images") }

// Logs is the directory of the logs of builds.
func (c *Config) Logs() string { return filepath.Join(c.State, "logs") }

// Tree is the directory of a label's tree, of one that the file does not name, too.
func (c *Config) Tree(label string) string {
	if l, ok := c.Labels[label]; ok {
		return l.Tree
	}
	return c.tree(label)
}

// Layers is the folder of the layers that the server has: beside the file, empty
// when there is none.
func (c *Config) Layers() string {
	if c.Path == "" {
		return ""
	}
	return filepath.Join(filepath.Dir(c.Path), "layers")
}

func (c *Config) tree(label string) string { return filepath.Join(c.State, "trees", label) }

// DefaultOverlay is what lies over the root of a label that says nothing of it.
func DefaultOverlay() handoff.Overlay { return handoff.Overlay{Enabled: true} }

// newLabel is a label with every default.
func (c *Config) newLabel(name string) *Label {
	return &Label{
		Name:        name,
		Recipe:      filepath.Join(filepath.Dir(c.Path), "recipes", name+".def"),
		Tree:        c.tree(name),
		Overlay:     DefaultOverlay(),
		VM:          VM{Memory: 2 << 30, SSHPort: 2222, Firmware: BIOS},
		defaultTree: true,
	}
}

// validName is what can be a tag in an OCI layout as well.
var validName = regexp.MustCompile(`^[a-z0-9]+(?:[._-][a-z0-9]+)*$`)

func checkName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("%q cannot be a label: use lower-case letters and digits, with single dots, hyphens or underscores between them", name)
	}
	return nil
}
