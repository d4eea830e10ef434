package serve

import (
	"context"
	"errors"
	"fmt"

	"netroot/internal/boot"
	"netroot/internal/proto/iscsi"
	"netroot/internal/store"
)

func (s *Server) iscsiServer() rootServer {
	return &iscsi.Server{Lookup: s.target, List: s.targets, Options: s.options("iscsi")}
}

// target is the packed root of the image that an IQN names.
func (s *Server) target(_ context.Context, iqn string) (*iscsi.Target, error) {
	id, ok := boot.ImageOf(iqn)
	if !ok {
		return nil, fmt.Errorf("%w: %q is not the name of an image", iscsi.ErrUnknown, iqn)
	}
	r, err := s.openRoot(id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", iscsi.ErrUnknown, err)
	}
	if err != nil {
		return nil, err
	}
	digest := r.digest()
	return &iscsi.Target{Name: iqn, Description: r.image.Name(), ID: [16]byte(digest[:16]), Backend: r.blob, Release: r.release}, nil
}

func (s *Server) targets(context.Context) ([]iscsi.Target, error) {
	images, err := s.images()
	var out []iscsi.Target
	for _, im := range images {
		out = append(out, iscsi.Target{Name: boot.IQN(im.Name())})
	}
	return out, err
}
