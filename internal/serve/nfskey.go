package serve

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

// NFSKey returns the key of a state directory that seals file handles, and makes it at its first
// use. With another key, every file of every running machine would be stale.
func NFSKey(state string) (key [32]byte, err error) {
	path := filepath.Join(state, "nfs.key")
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		rand.Read(key[:]) // which cannot fail
		if err := os.MkdirAll(state, 0o755); err != nil {
			return key, err
		}
		return key, renameio.WriteFile(path, key[:], 0o600)
	case err != nil:
		return key, err
	case copy(key[:], text) != len(key) || len(text) != len(key):
		return key, fmt.Errorf("%s has %d bytes and should have %d: remove it, and restart the machines that have their root over NFS", path, len(text), len(key))
	}
	return key, nil
}
