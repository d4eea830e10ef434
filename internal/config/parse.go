package config

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"netroot/internal/boot"
	"netroot/internal/handoff"
	"netroot/internal/nearest"
	"netroot/internal/pack"
	"netroot/internal/site"

	"github.com/goccy/go-yaml/ast"
)

// Parse reads src as the file at path would be read. What is wrong in it is reported as
// *Error, or as Errors.
func Parse(path string, src []byte) (*site.Site, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("configuration %s: %w", path, err)
	}
	c := site.Empty()
	c.Path, c.Revision = abs, site.RevisionOf(src)
	p := &reader{document: document{file: path}, site: c}
	root, err := p.read(src)
	if err != nil {
		return nil, err
	}
	if root == nil {
		return nil, &Error{File: path, Line: 1, Column: 1, Msg: "nothing is in it. The smallest configuration:\n\n" + minimal}
	}
	// The labels are read last: their trees lie in the state directory.
	var labels ast.Node
	err = p.mapping(root, "the configuration", fields{
		"state":    p.path(&c.State),
		"networks": func(n ast.Node) (err error) { c.Networks, err = p.networks(n); return err },
		"labels":   func(n ast.Node) error { labels = n; return nil },
	})
	if labels == nil && err != nil {
		return nil, inOrder(err)
	}
	if labels == nil {
		return nil, &Error{File: path, Line: 1, Column: 1, Msg: "no labels are in it. The smallest configuration:\n\n" + minimal}
	}
	err = errors.Join(err, p.entries(labels, "labels", func(key, value ast.Node) error {
		l, err := p.label(key, value)
		if err == nil {
			c.Labels[l.Name] = l
		}
		return err
	}))
	if err != nil {
		return nil, inOrder(err)
	}
	return c, nil
}

// reader turns nodes into the parts of a Site.
type reader struct {
	document
	site *site.Site
}

func (p *reader) label(key, value ast.Node) (*site.Label, error) {
	name := key.GetToken().Value
	if err := site.CheckLabel(name); err != nil {
		return nil, p.errorf(key, "%s", err.Error())
	}
	l := p.site.NewLabel(name)
	if value == nil {
		return l, nil
	}
	var overlay, layers ast.Node
	err := p.mapping(value, "label "+name, fields{
		"recipe":    p.path(&l.Recipe),
		"tree":      func(n ast.Node) error { l.OwnTree = true; return p.path(&l.Tree)(n) },
		"transport": oneOf(p, &l.Transport, handoff.Transports()),
		"pack": func(n ast.Node) error {
			var method pack.Method
			err := oneOf(p, &method, pack.Methods())(n)
			l.Pack = string(method)
			return err
		},
		"initramfs": oneOf(p, &l.Initramfs, handoff.Flavours()),
		"servers":   func(n ast.Node) (err error) { l.Servers, err = p.hosts(n); return err },
		"rw":        p.flag(&l.RW),
		"debug":     p.flag(&l.Debug),
		"cmdline":   func(n ast.Node) (err error) { l.Cmdline, err = p.cmdline(n); return err },
		"qemu":      func(n ast.Node) (err error) { l.Qemu, err = p.qemu(n); return err },
		"overlay":   func(n ast.Node) (err error) { overlay = n; l.Overlay, err = p.overlay(n); return err },
		"layers":    func(n ast.Node) (err error) { layers = n; l.Layers, err = p.layers(n); return err },
		"kernel":    func(n ast.Node) (err error) { l.Kernel, err = p.scalar(n); return err },
		"build_args": func(n ast.Node) (err error) {
			l.BuildArgs, err = p.buildArgs(n)
			return err
		},
		"allow_secrets": func(n ast.Node) (err error) {
			l.AllowSecrets, err = p.texts(n)
			return err
		},
		"vm": func(n ast.Node) error { return p.vm(n, name, &l.VM) },
	})
	switch {
	case err != nil:
		return nil, err
	case l.RW && l.Transport != "" && l.Transport != handoff.NFS:
		return nil, p.errorf(key, "label %s: rw makes the tree itself a node's root, which requires NFS: remove transport: %s", name, l.Transport)
	case l.RW && overlay == nil:
		l.Overlay = handoff.Overlay{}
	case l.RW && l.Overlay.Enabled:
		return nil, p.errorf(overlay, "label %s: rw makes the root itself writable, and overlay hides it: remove one of them", name)
	}
	if len(l.Layers) > 0 && !l.Overlay.Enabled {
		return nil, p.errorf(layers, "label %s: layers need memory over the root, which overlay: true gives and rw does not", name)
	}
	return l, nil
}

func (p *reader) vm(n ast.Node, label string, vm *site.VM) error {
	return p.mapping(n, "vm of label "+label, fields{
		"memory": func(n ast.Node) (err error) { vm.Memory, err = p.bytes(n); return err },
		"ssh_port": func(n ast.Node) error {
			s, err := p.scalar(n)
			if err != nil {
				return err
			}
			port, err := strconv.ParseUint(s, 10, 16)
			if err != nil || port == 0 {
				return p.errorf(n, "ssh_port: expected a port number from 1 to 65535, not %s", s)
			}
			vm.SSHPort = uint16(port)
			return nil
		},
		"firmware": oneOf(p, &vm.Firmware, boot.Firmwares()),
	})
}

// path reads a path; a relative one starts at the directory of the file.
func (p *reader) path(to *string) func(ast.Node) error {
	return func(n ast.Node) error {
		s, err := p.text(n)
		if err != nil {
			return err
		}
		if !filepath.IsAbs(s) {
			s = filepath.Join(filepath.Dir(p.site.Path), s)
		}
		*to = filepath.Clean(s)
		return nil
	}
}

func (p *reader) flag(to *bool) func(ast.Node) error {
	return func(n ast.Node) (err error) {
		*to, err = p.boolean(n)
		return err
	}
}

// oneOf reads a word that must be one of the known ones.
func oneOf[T ~string](p *reader, to *T, known []T) func(ast.Node) error {
	return func(n ast.Node) error {
		s, err := p.text(n)
		if err != nil {
			return err
		}
		if slices.Contains(known, T(s)) {
			*to = T(s)
			return nil
		}
		var names []string
		for _, k := range known {
			names = append(names, string(k))
		}
		return p.errorf(n, "unknown value %q%s", s, nearest.Choice(s, names))
	}
}

// cmdline reads kernel arguments: one string, or a list of them.
func (p *reader) cmdline(n ast.Node) ([]string, error) {
	items, isList, err := p.list(n)
	if err != nil {
		return nil, err
	}
	if !isList {
		items = []ast.Node{n}
	}
	var args []string
	for _, item := range items {
		s, err := p.scalar(item)
		if err != nil {
			return nil, err
		}
		more, whole := handoff.SplitArguments(s)
		if !whole {
			return nil, p.errorf(item, "cmdline: a double quote is not closed")
		}
		args = append(args, more...)
	}
	return args, nil
}

// qemu reads arguments: a string, split as a shell does, or a list of them as
// they are.
func (p *reader) qemu(n ast.Node) ([]string, error) {
	items, isList, err := p.list(n)
	if err != nil {
		return nil, err
	}
	if !isList {
		s, err := p.scalar(n)
		if err != nil {
			return nil, err
		}
		args, err := splitShell(s)
		if err != nil {
			return nil, p.errorf(n, "qemu: %s", err.Error())
		}
		return args, nil
	}
	var args []string
	for _, item := range items {
		s, err := p.scalar(item)
		if err != nil {
			return nil, err
		}
		args = append(args, s)
	}
	return args, nil
}

// networks reads a list of addresses with prefix lengths.
func (p *reader) networks(n ast.Node) ([]netip.Prefix, error) {
	items, isList, err := p.list(n)
	if err != nil {
		return nil, err
	}
	if !isList {
		items = []ast.Node{n}
	}
	var out []netip.Prefix
	for _, item := range items {
		s, err := p.text(item)
		if err != nil {
			return nil, err
		}
		network, err := netip.ParsePrefix(s)
		if err != nil || network != network.Masked() {
			return nil, p.errorf(item, "networks: expected an address and the length of its prefix, with no bit set behind it, such as 10.1.0.0/16, not %s", s)
		}
		out = append(out, network)
	}
	return out, nil
}

// texts reads a list of texts.
func (p *reader) texts(n ast.Node) ([]string, error) {
	items, isList, err := p.list(n)
	if err != nil {
		return nil, err
	}
	if !isList {
		return nil, p.errorf(n, "expected a list, such as [/etc/one, /etc/two]")
	}
	var out []string
	for _, item := range items {
		s, err := p.text(item)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// hosts reads a list of names and addresses, each once.
func (p *reader) hosts(n ast.Node) ([]string, error) {
	return p.words(n, "servers", "[boot1, boot2]", func(s string) error {
		if err := handoff.CheckHost(s); err != nil {
			return fmt.Errorf("%w; ports are the same on all servers and not named here", err)
		}
		return nil
	})
}

// layers reads a list of layers, each once.
func (p *reader) layers(n ast.Node) ([]string, error) {
	return p.words(n, "layers", "[rack7, site]", handoff.CheckLayerName)
}

// words reads a list of texts that check accepts, each once.
func (p *reader) words(n ast.Node, key, example string, check func(string) error) ([]string, error) {
	items, isList, err := p.list(n)
	if err != nil {
		return nil, err
	}
	if !isList {
		return nil, p.errorf(n, "%s: expected a list, such as %s", key, example)
	}
	var out []string
	for _, item := range items {
		s, err := p.text(item)
		if err != nil {
			return nil, err
		}
		if err := check(s); err != nil {
			return nil, p.errorf(item, "%s: %s", key, err.Error())
		}
		if slices.Contains(out, s) {
			return nil, p.errorf(item, "%s: %s is there twice", key, s)
		}
		out = append(out, s)
	}
	return out, nil
}

func (p *reader) buildArgs(n ast.Node) (map[string]string, error) {
	args := map[string]string{}
	err := p.entries(n, "build_args", func(key, value ast.Node) error {
		name := key.GetToken().Value
		if value == nil {
			args[name] = ""
			return nil
		}
		s, err := p.scalar(value)
		args[name] = s
		return err
	})
	return args, err
}

// overlay reads true, false or a size: bytes with a unit, or a share of the
// node's memory.
func (p *reader) overlay(n ast.Node) (handoff.Overlay, error) {
	s, err := p.scalar(n)
	if err != nil {
		return handoff.Overlay{}, err
	}
	switch s {
	case "true", "false":
		return handoff.Overlay{Enabled: s == "true"}, nil
	}
	if share, ok := strings.CutSuffix(s, "%"); ok {
		if percent, err := strconv.Atoi(share); err != nil || percent < 1 || percent > 100 {
			return handoff.Overlay{}, p.errorf(n, "overlay: %s of the memory: expected 1%% to 100%%", s)
		}
		return handoff.Overlay{Enabled: true, Size: s}, nil
	}
	if _, err := ParseSize(s); err != nil {
		return handoff.Overlay{}, p.errorf(n, "overlay: expected true, false, a size such as 2G or a share of the memory such as 50%%, not %q", s)
	}
	return handoff.Overlay{Enabled: true, Size: strings.TrimRight(s, "iB")}, nil
}

func (p *reader) bytes(n ast.Node) (int64, error) {
	s, err := p.scalar(n)
	if err != nil {
		return 0, err
	}
	size, err := ParseSize(s)
	if err != nil {
		return 0, p.errorf(n, "%s", err.Error())
	}
	return size, nil
}

var sizeForm = regexp.MustCompile(`^([0-9]+)([KMGT])(?:i?B)?$`)

// ParseSize reads "512M" or "2GiB": units are powers of 1024, and one must be
// there, because programs disagree about what a bare number counts.
func ParseSize(s string) (int64, error) {
	m := sizeForm.FindStringSubmatch(s)
	if m == nil {
		return 0, fmt.Errorf("%q is not a size: expected a whole number and a unit, such as 512M or 2G", s)
	}
	shift := 10 * (1 + strings.Index("KMGT", m[2]))
	count, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil || count < 1 || count > math.MaxInt64>>shift {
		return 0, fmt.Errorf("size %s is out of range", s)
	}
	return count << shift, nil
}
