package build

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"netroot/internal/layer"
	"netroot/internal/sandbox"
)

// packages lists what is installed in a tree, "name version", sorted: dpkg's
// status file is read, an RPM database is asked with the tree's own rpm. A tree
// of neither kind has none.
func packages(ctx context.Context, tree string) ([]string, error) {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	status, err := readIn(root, "/var/lib/dpkg/status")
	if err == nil {
		return dpkgPackages(bytes.NewReader(status))
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if _, err := layer.Resolve(root, "/usr/bin/rpm"); err != nil {
		return nil, nil
	}
	return rpmPackages(ctx, tree)
}

// dpkgPackages reads dpkg's status file: paragraphs of "Key: value" lines
// (deb822(5)), of which only what is installed counts.
func dpkgPackages(r io.Reader) ([]string, error) {
	var out []string
	var name, version string
	installed := false
	flush := func() {
		if installed && name != "" {
			out = append(out, name+" "+version)
		}
		name, version, installed = "", "", false
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "":
			flush()
		case "Package":
			name = value
		case "Version":
			version = value
		case "Status":
			installed = strings.HasSuffix(value, " installed")
		}
	}
	flush()
	slices.Sort(out)
	return out, lines.Err()
}

func rpmPackages(ctx context.Context, tree string) ([]string, error) {
	var out, said bytes.Buffer
	s := sandbox.Sandbox{Root: tree, Stdout: &out, Stderr: &said}
	if err := s.Run(ctx, []string{"rpm", "-qa", "--qf", `%{NAME} %{EVR}.%{ARCH}\n`}); err != nil {
		return nil, fmt.Errorf("list the tree's packages: %w: %s", err, strings.TrimSpace(said.String()))
	}
	list := strings.Split(strings.TrimSpace(out.String()), "\n")
	slices.Sort(list)
	return list, nil
}

// readIn reads a file of a tree, following links as the tree's own system would.
func readIn(root *os.Root, name string) ([]byte, error) {
	place, err := layer.Resolve(root, name)
	if err != nil {
		return nil, err
	}
	return root.ReadFile(place)
}

// systemName is PRETTY_NAME of the tree's os-release(5), or "".
func systemName(tree string) string {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return ""
	}
	defer root.Close()
	text, err := readIn(root, "/etc/os-release")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			return strings.Trim(value, `"'`)
		}
	}
	return ""
}
