package serve

import (
	"context"
	"errors"
	"fmt"

	"netroot/internal/proto/nbd"
	"netroot/internal/store"
)

func (s *Server) nbdServer() rootServer {
	return &nbd.Server{
		Lookup: s.nbdExport, List: s.nbdExports, Options: s.options("nbd"),
		TLS: s.cfg.TLS, RequireTLS: s.cfg.RequireTLS,
	}
}

// nbdExport is the packed root of the image that a client names: "label@id", "label" for its newest
// image at this moment, or "" for the default image where there is one. A client stays with the
// bytes it got however often the label is built anew, and so does a machine that comes back,
// because a plan names the version.
func (s *Server) nbdExport(_ context.Context, name string) (*nbd.Export, error) {
	ref := name
	if ref == "" {
		ref = s.cfg.Default
	}
	if ref == "" {
		return nil, fmt.Errorf("%w: there is no default export here; name an image", nbd.ErrUnknown)
	}
	r, err := s.openRoot(ref)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", nbd.ErrUnknown, err)
	}
	if err != nil {
		return nil, err
	}
	backend, err := nbd.NewFile(r.blob.File())
	if err != nil {
		r.release()
		return nil, err
	}
	return &nbd.Export{Name: r.image.Name(), Description: r.image.Config.System, Backend: backend, Release: r.release}, nil
}

// nbdExports names what there is for nbd-client -l and its like: each label, and each of its
// versions.
func (s *Server) nbdExports(context.Context) ([]nbd.Export, error) {
	versions, err := s.images()
	var out []nbd.Export
	for _, v := range versions {
		if v.Newest {
			out = append(out, nbd.Export{Name: v.Label, Description: v.System})
		}
		out = append(out, nbd.Export{Name: v.Name(), Description: v.System})
	}
	return out, err
}
