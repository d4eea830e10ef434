// Package secrets searches a tree for what must not be in an image: private keys, password hashes,
// tokens. Every machine that boots an image can read it, and so can everyone who can reach the
// server. The package finds secrets by their usual file names. In small text files of any other
// name, it finds keys and tokens whose format is distinctive.
//
// It does not find everything: it misses a password in a shell script, and a key in a container
// file or an archive. It changes nothing, follows no link, and never repeats a secret.
package secrets

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// Finding is a file, or a line of a file, that contains a secret.
type Finding struct {
	Path string `json:"path"` // path on the node: "/etc/shadow"
	Kind Kind   `json:"kind"`
	Line int    `json:"line,omitempty"` // 0: the whole file
	// Packaged says that a package of the distribution or of a language has brought the file as it
	// is, so that everyone can have it.
	Packaged bool `json:"packaged,omitempty"`
}

// String returns the finding and the reason: "/etc/shadow:3: password hash (everyone who ...)".
func (f Finding) String() string {
	place := f.Path
	if f.Line > 0 {
		place += fmt.Sprintf(":%d", f.Line)
	}
	return fmt.Sprintf("%s: %s: %s", place, f.Kind.Name(), f.Kind.Why())
}

// Fix returns, in one line, what to do about the finding.
func (f Finding) Fix() string { return strings.ReplaceAll(f.Kind.Fix(), "FILE", f.Path) }

// Packaged reports which of these files of a tree, named as in Finding.Path, are as a package
// brought them.
type Packaged func(ctx context.Context, files []string) (map[string]bool, error)

// unpacked are the directories whose contents never enter an image (package pack).
var unpacked = []string{"proc", "sys", "dev", "run", "tmp"}

// Scan searches a tree and returns its findings, sorted by path and line. It skips the contents of
// /proc, /sys, /dev, /run and /tmp, because packing leaves them out.
//
// packaged, which may be nil, is asked about the files with findings below /usr. Those that packages
// brought in directories of examples and tests are left out, and the others are marked.
func Scan(ctx context.Context, tree string, packaged Packaged) ([]Finding, error) {
	found, err := scan(ctx, tree, unpacked)
	if err != nil || packaged == nil {
		return found, err
	}
	var ask []string
	for _, f := range found {
		if ok, _ := ofDistribution(f.Path[1:]); ok {
			ask = append(ask, f.Path)
		}
	}
	if ask = slices.Compact(ask); ask == nil {
		return found, nil
	}
	public, err := packaged(ctx, ask)
	if err != nil {
		return nil, fmt.Errorf("search %s for secrets: %w", tree, err)
	}
	out := found[:0]
	for _, f := range found {
		ok, example := ofDistribution(f.Path[1:])
		f.Packaged = ok && public[f.Path]
		if !f.Packaged || !example {
			out = append(out, f)
		}
	}
	return out, nil
}

// ScanLayer is Scan for the directory of a layer, all of which reaches the machines.
func ScanLayer(ctx context.Context, dir string) ([]Finding, error) { return scan(ctx, dir, nil) }

func scan(ctx context.Context, tree string, skip []string) ([]Finding, error) {
	top, err := os.Open(tree)
	if err != nil {
		return nil, fmt.Errorf("search for secrets: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(walkers())
	w := walker{skip: skip, group: g}
	g.Go(func() error { return w.walk(ctx, top, "") })
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("search %s for secrets: %w", tree, err)
	}
	slices.SortFunc(w.found, func(a, b Finding) int {
		if c := strings.Compare(a.Path, b.Path); c != 0 {
			return c
		}
		return a.Line - b.Line
	})
	return w.found, nil
}

// inspect checks the text of one file, which must not be kept.
func inspect(name string, rules []*rule, text []byte) []Finding {
	kind, lines := look(rules, text)
	if len(lines) == 0 || ofLanguage(name) {
		return nil
	}
	return findings(name, kind, lines)
}

func look(rules []*rule, text []byte) (Kind, []int) {
	if len(text) == 0 {
		return "", nil
	}
	// A kind that only warns does not hide a secret beside it: net-snmp keeps the identity of its engine and its
	// users in one file.
	var warned Kind
	var at []int
	for _, r := range rules {
		lines := r.check.find(text)
		switch {
		case len(lines) == 0:
		case !r.kind.Warning():
			return r.kind, lines
		case at == nil:
			warned, at = r.kind, lines
		}
	}
	if binary(text[:min(len(text), firstRead)]) {
		return warned, at
	}
	if lines := credentials(text); lines != nil {
		return Password, lines
	}
	if kind, lines := distinctive(text); len(lines) > 0 && (at == nil || !kind.Warning()) {
		return kind, lines
	}
	return warned, at
}

func findings(name string, kind Kind, lines []int) []Finding {
	var out []Finding
	for _, line := range lines {
		out = append(out, Finding{Path: "/" + name, Kind: kind, Line: line})
	}
	return out
}
