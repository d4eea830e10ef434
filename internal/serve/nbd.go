package serve

import (
	"context"
	"errors"
	"fmt"

	"netroot/internal/proto/nbd"
	"netroot/internal/store"
)

// lookup opens the packed root of the image that an NBD client names: "label@id", "label" for its newest image at this
// moment, or "" for the default image where there is one. A client stays with the bytes it got however often the label
// is built anew, and so does a machine that comes back, because a plan names the version.
func (s *Server) lookup(_ context.Context, name string) (*nbd.Export, error) {
	ref := name
	if ref == "" {
		ref = s.cfg.Default
	}
	if ref == "" {
		return nil, fmt.Errorf("%w: there is no default export here; name an image", nbd.ErrUnknown)
	}
	im, err := s.catalog.resolve(ref)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", nbd.ErrUnknown, err)
	}
	if err != nil {
		return nil, err
	}
	blob, release, ok, err := s.catalog.acquire(im)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%w: image %s has no packed root", nbd.ErrUnknown, im.Name())
	}
	return &nbd.Export{Name: im.Name(), Description: im.Config.System, Backend: blob, Release: release}, nil
}

// list names what there is for nbd-client -l and its like: each label, and each of its versions.
func (s *Server) list(context.Context) ([]nbd.Export, error) {
	images, err := s.cfg.Store.List()
	if images == nil && err != nil {
		return nil, err
	}
	var out []nbd.Export
	for _, im := range images {
		if im.Newest {
			out = append(out, nbd.Export{Name: im.Label, Description: im.Config.System})
		}
		out = append(out, nbd.Export{Name: im.Name(), Description: im.Config.System})
	}
	return out, nil
}
