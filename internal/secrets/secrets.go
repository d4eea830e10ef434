// Package secrets looks for what must not be in an image, because every machine that boots it, and whoever can reach
// the server, can read it: private keys, password hashes, tokens. It finds them by name, where a file has a usual
// place, and by a look into small text files otherwise, for keys and tokens that say themselves what they are.
//
// It is a net with meshes and no proof: a password in a shell script goes through, and so does a key in a container
// file or an archive. It changes nothing, follows no link, and never repeats what a secret is.
package secrets

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Finding is one file, or one line of a file, that holds a secret.
type Finding struct {
	Path string `json:"path"` // as the node sees it: "/etc/shadow"
	Kind Kind   `json:"kind"`
	Line int    `json:"line,omitempty"` // 0: the file as a whole
}

// String is the finding and why it is one: "/etc/shadow:3: password hash (it can be ...)".
func (f Finding) String() string {
	place := f.Path
	if f.Line > 0 {
		place += fmt.Sprintf(":%d", f.Line)
	}
	return fmt.Sprintf("%s: %s: %s", place, f.Kind.Name(), f.Kind.Why())
}

// unpacked are the folders whose contents never get into an image (package pack).
var unpacked = []string{"proc", "sys", "dev", "run", "tmp"}

// maxFile is how much of a file is looked at. Files of keys are smaller: the largest are bundles and kubeconfigs.
const maxFile = 256 << 10

// Scan looks through a tree and returns what it found, in the order of paths and lines. The contents of /proc, /sys,
// /dev, /run and /tmp do not count, as packing leaves them out.
func Scan(ctx context.Context, tree string) ([]Finding, error) {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return nil, fmt.Errorf("look for secrets: %w", err)
	}
	defer root.Close()
	g, ctx := errgroup.WithContext(ctx)
	files := make(chan string, 64)
	g.Go(func() error {
		defer close(files)
		return list(ctx, root, files)
	})
	found := make([][]Finding, runtime.GOMAXPROCS(0))
	for i := range found {
		g.Go(func() error {
			buf := make([]byte, maxFile)
			for name := range files {
				list, err := inspect(root, name, buf)
				if err != nil {
					return err
				}
				found[i] = append(found[i], list...)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("look for secrets in %s: %w", tree, err)
	}
	all := slices.Concat(found...)
	slices.SortFunc(all, func(a, b Finding) int {
		if c := strings.Compare(a.Path, b.Path); c != 0 {
			return c
		}
		return a.Line - b.Line
	})
	return all, nil
}

// list sends the names of the regular files that may hold a secret.
func list(ctx context.Context, root *os.Root, files chan<- string) error {
	return fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		if d.IsDir() && slices.Contains(unpacked, name) {
			return fs.SkipDir
		}
		if !d.Type().IsRegular() || harmless(name) {
			return nil
		}
		select {
		case files <- name:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
}

// inspect looks at one file. buf is room for its beginning.
func inspect(root *os.Root, name string, buf []byte) ([]Finding, error) {
	rules := rulesFor(name)
	// Nothing is waited for: a pipe that took the file's place has no writer.
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() == 0 || len(rules) == 0 && fi.Size() > maxFile {
		return nil, nil
	}
	n, err := readStart(f, buf)
	if err != nil {
		return nil, err
	}
	text := buf[:n]
	for _, r := range rules {
		if lines := r.check(text); len(lines) > 0 {
			return findings(name, r.kind, lines), nil
		}
	}
	if kind, lines := anyKey(text); len(lines) > 0 {
		return findings(name, kind, lines), nil
	}
	return findings(name, Token, anyToken(text)), nil
}

// readStart reads a file, or as much of it as buf holds. Most files are programs: those are left after 4 KiB.
func readStart(f io.Reader, buf []byte) (int, error) {
	const page = 4096
	n, err := io.ReadFull(f, buf[:page])
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return n, nil
	}
	if err != nil || binary(buf[:n]) {
		return n, err
	}
	more, err := io.ReadFull(f, buf[page:])
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil
	}
	return n + more, err
}

func findings(name string, kind Kind, lines []int) []Finding {
	var out []Finding
	for _, line := range lines {
		out = append(out, Finding{Path: "/" + filepath.ToSlash(name), Kind: kind, Line: line})
	}
	return out
}

// harmless reports files that packages and languages bring with keys that the whole world knows: examples, and material
// for tests.
func harmless(name string) bool {
	if !strings.HasPrefix(name, "usr/") && !strings.HasPrefix(name, "opt/") {
		return false
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		switch path.Base(dir) {
		case "test", "tests", "testing", "testdata", "test-data", "doc", "docs", "examples", "man":
			return true
		}
	}
	return false
}
