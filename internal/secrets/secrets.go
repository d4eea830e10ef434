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

// Finding is a file, or a line of a file, that contains a secret.
type Finding struct {
	Path string `json:"path"` // path on the node: "/etc/shadow"
	Kind Kind   `json:"kind"`
	Line int    `json:"line,omitempty"` // 0: the whole file
}

// String returns the finding and the reason: "/etc/shadow:3: password hash (everyone who ...)".
func (f Finding) String() string {
	place := f.Path
	if f.Line > 0 {
		place += fmt.Sprintf(":%d", f.Line)
	}
	return fmt.Sprintf("%s: %s: %s", place, f.Kind.Name(), f.Kind.Why())
}

// unpacked are the directories whose contents never enter an image (package pack).
var unpacked = []string{"proc", "sys", "dev", "run", "tmp"}

// maxFile is the number of bytes of a file that are checked. Files with keys are smaller: the
// largest are bundles and kubeconfigs.
const maxFile = 256 << 10

// Scan searches a tree and returns its findings, sorted by path and line. It skips the contents of
// /proc, /sys, /dev, /run and /tmp, because packing leaves them out.
func Scan(ctx context.Context, tree string) ([]Finding, error) {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return nil, fmt.Errorf("search for secrets: %w", err)
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
		return nil, fmt.Errorf("search %s for secrets: %w", tree, err)
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

// list sends the names of the regular files that may contain a secret.
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

// inspect checks one file. buf receives the beginning of the file.
func inspect(root *os.Root, name string, buf []byte) ([]Finding, error) {
	rules := rulesFor(name)
	// Opening must not block: a pipe that has replaced the file has no writer.
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

// readStart reads a file, at most len(buf) bytes of it. Most files are programs, of which it reads
// only 4 KiB.
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

// harmless reports whether a file comes from a package or a language with keys that are public:
// examples, and material for tests.
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
