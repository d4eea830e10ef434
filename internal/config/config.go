// Package config reads netroot.yaml into a site.Site. It is strict: a slip in the file is an error
// with its place, not a machine that boots differently, and everything comes out of it in the type
// in which it is used.
//
// It decides nothing and does not look whether the files that netroot.yaml names exist.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"netroot/internal/site"
)

// ErrNone is matched by the error of Find when there is no configuration file.
var ErrNone = errors.New("no configuration")

// minimal is shown to those who have no file yet.
const minimal = `labels:
  debian12:
    recipe: recipes/debian.def
`

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

// Load reads the file. What is wrong in it is reported as *Error.
func Load(path string) (*site.Site, error) {
	src, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return Parse(path, src)
}

// maxSize bounds the bytes of a file, far above what any site writes.
const maxSize = 8 << 20

// read returns what a regular file has. It does not wait for the other end of a pipe, as a daemon
// that reads its configuration again would for ever.
func read(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	src, err := io.ReadAll(io.LimitReader(f, maxSize+1))
	if err == nil && len(src) > maxSize {
		err = fmt.Errorf("%s is larger than %d MiB", path, maxSize>>20)
	}
	return src, err
}
