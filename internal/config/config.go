// Package config reads netroot.yaml into a site.Site. It is strict: a slip in the file is an error
// with its place, not a machine that boots differently, and everything comes out of it in the type
// in which it is used.
//
// It decides nothing and does not look whether the files that netroot.yaml names exist.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"netroot/internal/site"
)

// ErrNone is matched by the error of Find when there is no configuration file.
var ErrNone = errors.New("no configuration")

// minimal is shown to those who have no file yet.
const minimal = `labels:
  debian12:
    recipe: recipes/debian12.def
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
	src, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return Parse(path, src)
}
