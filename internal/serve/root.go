package serve

import (
	"encoding/hex"
	"fmt"

	"netroot/internal/store"
)

// openedRoot is the packed root of an image in use by one client. All clients of an image share one
// file.
type openedRoot struct {
	image   *store.Image
	blob    *store.Blob
	release func()
}

// openRoot opens the packed root of an image; an image without one is store.ErrNotFound.
func (s *Server) openRoot(ref string) (*openedRoot, error) {
	im, err := s.catalog.resolve(ref)
	if err != nil {
		return nil, err
	}
	blob, release, ok, err := s.catalog.acquire(im)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%w: image %s has no packed root", store.ErrNotFound, im.Name())
	}
	return &openedRoot{im, blob, release}, nil
}

// digest is the digest of the root's bytes.
func (r *openedRoot) digest() (sum [32]byte) {
	hex.Decode(sum[:], []byte(r.blob.Digest.Encoded())) // the store checked its form
	return sum
}

// images lists the versions of the store; damaged images are left out.
func (s *Server) images() ([]store.Version, error) {
	versions, err := s.cfg.Store.Versions()
	if versions == nil {
		return nil, err
	}
	return versions, nil
}
