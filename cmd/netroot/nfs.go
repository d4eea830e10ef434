package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"netroot/internal/handoff"
	"netroot/internal/serve"
	"netroot/internal/site"
)

// nfsExports are the trees of labels whose machines have them for their root.
// A tree is not an image: it may hold what nobody has looked through yet, so no
// other label's is exported.
func nfsExports(cfg *site.Site) (serve.NFS, error) {
	trees := map[string]serve.Tree{}
	for name, l := range cfg.Labels {
		if l.RW || l.Transport == handoff.NFS {
			trees[name] = serve.Tree{Dir: l.Tree, RW: l.RW}
		}
	}
	key, err := nfsKey(cfg.State)
	return serve.NFS{Trees: trees, Networks: cfg.Networks, Key: key}, err
}

// nfsKey is what seals the handles of files, made when it is first wanted. With
// another one, every file of every running machine would be stale.
func nfsKey(state string) (key [32]byte, err error) {
	path := filepath.Join(state, "nfs.key")
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		rand.Read(key[:]) // which cannot fail
		return key, renameio.WriteFile(path, key[:], 0o600)
	case err != nil:
		return key, err
	case copy(key[:], text) != len(key) || len(text) != len(key):
		return key, fmt.Errorf("%s has %d bytes and is to have %d: remove it, and restart the machines that have their root by NFS", path, len(text), len(key))
	}
	return key, nil
}
