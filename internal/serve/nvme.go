package serve

import (
	"context"
	"errors"
	"fmt"

	"netroot/internal/boot"
	"netroot/internal/proto/nvmetcp"
	"netroot/internal/store"
)

func (s *Server) nvmeServer() rootServer {
	return &nvmetcp.Server{Lookup: s.subsystem, List: s.subsystems, Options: s.options("nvme")}
}

// subsystem is the packed root of the image that an NQN names. Its identity follows from the root's
// bytes, so that two servers of one image are two paths to one disk.
func (s *Server) subsystem(_ context.Context, nqn string) (*nvmetcp.Subsystem, error) {
	id, ok := boot.ImageOf(nqn)
	if !ok {
		return nil, fmt.Errorf("%w: %q is not the name of an image", nvmetcp.ErrUnknown, nqn)
	}
	r, err := s.openRoot(id)
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("%w: %w", nvmetcp.ErrUnknown, err)
	}
	if err != nil {
		return nil, err
	}
	sub := nvmetcp.NewSubsystem(r.digest(), "netroot "+r.image.Label, r.blob)
	sub.NQN, sub.Release = nqn, r.release
	return sub, nil
}

func (s *Server) subsystems(context.Context) ([]nvmetcp.Subsystem, error) {
	images, err := s.images()
	var out []nvmetcp.Subsystem
	for _, im := range images {
		out = append(out, nvmetcp.Subsystem{NQN: boot.NQN(im.Name())})
	}
	return out, err
}
