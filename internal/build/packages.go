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
	"path"
	"slices"
	"strings"

	"netroot/internal/layer"
	"netroot/internal/sandbox"
)

// packages lists the packages that are installed in a tree as "name version", sorted. It reads
// dpkg's status file and pacman's package descriptions, and queries an RPM database with the tree's
// own rpm. A tree without any of these has no packages.
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
	local, err := layer.Resolve(root, pacmanLocal)
	if err == nil {
		if list, err := pacmanPackages(root, local); list != nil || err != nil {
			// pacman may be installed with an empty database on another distribution.
			return list, err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if _, err := layer.Resolve(root, "/usr/bin/rpm"); err != nil {
		return nil, nil
	}
	return rpmPackages(ctx, tree)
}

// dpkgPackages parses dpkg's status file, which consists of paragraphs of "Key: value" lines
// (deb822(5)). Only installed packages count.
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

// pacmanLocal holds a directory for each installed package, NAME-VERSION-RELEASE, with the
// package's description (alpm, libalpm/be_local.c).
const pacmanLocal = "/var/lib/pacman/local"

// pacmanPackages reads the descriptions below local. It skips an entry that is not a directory or
// has no description, such as the file with the version of the database.
func pacmanPackages(root *os.Root, local string) ([]string, error) {
	entries, err := fs.ReadDir(root.FS(), local)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		text, err := readIn(root, path.Join("/", local, e.Name(), "desc"))
		if errors.Is(err, fs.ErrNotExist) || !e.IsDir() {
			continue
		}
		if err != nil {
			return nil, err
		}
		if p := pacmanPackage(string(text)); p != "" {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out, nil
}

// pacmanPackage parses a description: paragraphs of lines, each below a line "%KEY%".
func pacmanPackage(desc string) string {
	values := map[string]string{}
	key := ""
	for line := range strings.Lines(desc) {
		line = strings.TrimSpace(line)
		if len(line) > 2 && line[0] == '%' && line[len(line)-1] == '%' {
			key = line
		} else if values[key] == "" { // the first of several values
			values[key] = line
		}
	}
	name, version := values["%NAME%"], values["%VERSION%"]
	if name == "" || version == "" {
		return ""
	}
	return name + " " + version
}

func rpmPackages(ctx context.Context, tree string) ([]string, error) {
	var out, said bytes.Buffer
	s := sandbox.Sandbox{Root: tree, Stdout: &out, Stderr: &said}
	if err := s.Run(ctx, []string{"rpm", "-qa", "--qf", `%{NAME} %{EVR}.%{ARCH}\n`}); err != nil {
		return nil, fmt.Errorf("list the packages of the tree: %w: %s", err, strings.TrimSpace(said.String()))
	}
	list := strings.Split(strings.TrimSpace(out.String()), "\n")
	slices.Sort(list)
	return list, nil
}

// readIn reads a file of a tree and resolves links as the tree's own system would.
func readIn(root *os.Root, name string) ([]byte, error) {
	place, err := layer.Resolve(root, name)
	if err != nil {
		return nil, err
	}
	return root.ReadFile(place)
}

// systemName returns PRETTY_NAME from the tree's os-release(5), or "".
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
