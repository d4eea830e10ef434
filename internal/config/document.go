package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"netroot/internal/nearest"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Error is a mistake in a configuration file.
type Error struct {
	File         string
	Line, Column int    // from 1
	Text         string // the line
	Msg          string
}

// Error gives the place, what is wrong and the line with a mark under the place.
func (e *Error) Error() string {
	head := fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Msg)
	if e.Text == "" {
		return head
	}
	var indent strings.Builder
	for _, r := range []rune(e.Text)[:min(max(e.Column-1, 0), len([]rune(e.Text)))] {
		if r != '\t' {
			r = ' '
		}
		indent.WriteRune(r)
	}
	return fmt.Sprintf("%s\n    %s\n    %s^", head, e.Text, indent.String())
}

// document is a YAML file being read into types.
type document struct {
	file    string
	lines   []string
	anchors map[string]ast.Node
}

// fields says which keys a mapping may have and what reads each one's value.
type fields map[string]func(ast.Node) error

// read parses src and returns the root of its only document, nil if it is empty.
func (d *document) read(src []byte) (ast.Node, error) {
	d.lines = strings.Split(string(src), "\n")
	d.anchors = map[string]ast.Node{}
	file, err := parser.ParseBytes(src, 0)
	if yamlErr := yaml.Error(nil); errors.As(err, &yamlErr) && yamlErr.GetToken() != nil {
		return nil, d.at(yamlErr.GetToken(), yamlErr.GetMessage())
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.file, err)
	}
	var root ast.Node
	for _, doc := range file.Docs {
		switch {
		case doc.Body == nil, doc.Body.Type() == ast.DirectiveType:
			continue
		case root != nil:
			return nil, d.errorf(doc.Body, "a second document: put everything into one")
		}
		root = doc.Body
	}
	if root != nil {
		ast.Walk(d, root)
	}
	return root, nil
}

// Visit collects the anchors (&name), for ast.Walk.
func (d *document) Visit(n ast.Node) ast.Visitor {
	if a, ok := n.(*ast.AnchorNode); ok {
		d.anchors[a.Name.GetToken().Value] = a.Value
	}
	return d
}

// value is the node itself, or what its anchor or alias stands for.
func (d *document) value(n ast.Node) (ast.Node, error) {
	const depth = 8 // an alias of an alias ...: deeper ones go in a circle
	at := n
	for range depth {
		switch v := at.(type) {
		case *ast.AnchorNode:
			at = v.Value
		case *ast.AliasNode:
			name := v.Value.GetToken().Value
			if at = d.anchors[name]; at == nil {
				return nil, d.errorf(n, "alias *%s: there is no &%s before it", name, name)
			}
		default:
			return at, nil
		}
	}
	return nil, d.errorf(n, "alias leads to itself")
}

// entries calls do with each key and value of a mapping, and returns all errors. A key without a value
// has nil.
func (d *document) entries(n ast.Node, what string, do func(key, value ast.Node) error) error {
	n, err := d.value(n)
	if err != nil {
		return err
	}
	var pairs []*ast.MappingValueNode
	switch v := n.(type) {
	case *ast.MappingNode:
		pairs = v.Values
	case *ast.MappingValueNode:
		pairs = append(pairs, v)
	default:
		return d.errorf(n, "%s: expected keys with values, not %s", what, kind(n))
	}
	var all []error
	for _, p := range pairs {
		if p.Key.Type() == ast.MergeKeyType {
			return d.errorf(p.Key, "merge keys (<<) are not understood: write the keys out")
		}
		if p.Value == nil || p.Value.Type() == ast.NullType {
			p.Value = nil
		}
		all = append(all, do(p.Key, p.Value))
	}
	return errors.Join(all...)
}

// mapping reads a mapping with known keys.
func (d *document) mapping(n ast.Node, what string, known fields) error {
	return d.entries(n, what, func(key, value ast.Node) error {
		name := key.GetToken().Value
		read, ok := known[name]
		if !ok {
			names := slices.Sorted(maps.Keys(known))
			hint := nearest.Hint(name, names)
			if hint == "" {
				hint = ": the keys are " + strings.Join(names, ", ")
			}
			return d.errorf(key, "unknown key %q in %s%s", name, what, hint)
		}
		if value == nil {
			return nil
		}
		return read(value)
	})
}

// scalar is a single value as it is written, whatever YAML takes it for: 3.10
// stays "3.10".
func (d *document) scalar(n ast.Node) (string, error) {
	n, err := d.value(n)
	if err != nil {
		return "", err
	}
	switch v := n.(type) {
	case *ast.StringNode:
		return v.Value, nil
	case *ast.LiteralNode:
		return strings.TrimRight(v.Value.Value, "\n"), nil
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return n.GetToken().Value, nil
	}
	return "", d.errorf(n, "expected a single value, not %s", kind(n))
}

// text is a value that only makes sense as text.
func (d *document) text(n ast.Node) (string, error) {
	n, err := d.value(n)
	if err != nil {
		return "", err
	}
	if t := n.Type(); t != ast.StringType && t != ast.LiteralType {
		return "", d.errorf(n, "expected text, not %s", kind(n))
	}
	s, err := d.scalar(n)
	if err == nil && s == "" {
		err = d.errorf(n, "is empty: leave the key out for the default")
	}
	return s, err
}

func (d *document) boolean(n ast.Node) (bool, error) {
	n, err := d.value(n)
	if err != nil {
		return false, err
	}
	b, ok := n.(*ast.BoolNode)
	if !ok {
		return false, d.errorf(n, "expected true or false, not %s", kind(n))
	}
	return b.Value, nil
}

// list reads a sequence of single values; false when n is not a sequence.
func (d *document) list(n ast.Node) (items []ast.Node, isList bool, err error) {
	n, err = d.value(n)
	if err != nil {
		return nil, false, err
	}
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		return nil, false, nil
	}
	return seq.Values, true, nil
}

// kind names what a node is, for people.
func kind(n ast.Node) string {
	switch n := n.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "keys with values"
	case *ast.SequenceNode:
		return "a list"
	case *ast.NullNode:
		return "nothing"
	case *ast.StringNode:
		return fmt.Sprintf("%q", shortened(n.Value, 100))
	case *ast.TagNode:
		return "a tag (" + n.GetToken().Value + ")"
	default:
		return n.GetToken().Value
	}
}

func (d *document) errorf(n ast.Node, format string, args ...any) error {
	tk := n.GetToken()
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 {
		tk = m.Values[0].Key.GetToken() // its own token is the first colon
	}
	return d.at(tk, fmt.Sprintf(format, args...))
}

func (d *document) at(tk *token.Token, msg string) error {
	e := &Error{File: d.file, Line: 1, Column: 1, Msg: shortened(msg, maxMsg)}
	if tk != nil && tk.Position != nil {
		e.Line, e.Column = max(tk.Position.Line, 1), max(tk.Position.Column, 1)
	}
	if e.Line <= len(d.lines) {
		if text := strings.TrimRight(d.lines[e.Line-1], "\r"); len(text) <= maxText {
			e.Text = text
		}
	}
	return e
}

// Bounds of an Error, in bytes, for a file that is not one that a person wrote. A longer line is not
// shown.
const (
	maxMsg  = 2 << 10
	maxText = 500
)

// shortened returns the beginning of a text that is longer than max.
func shortened(text string, max int) string {
	if len(text) <= max {
		return text
	}
	return strings.ToValidUTF8(text[:max], "") + "..."
}
