package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
)

// Find returns the one daemon that listens on any of these sockets and has its configuration
// from that file. The error says why there is none that can be asked.
func Find(ctx context.Context, file string, sockets ...string) (*Client, error) {
	var found []*Client
	why := ErrNone
	for _, socket := range sockets {
		c, err := Dial(ctx, socket)
		var now Revision
		if err == nil {
			now, err = c.Revision(ctx)
		}
		switch {
		case err == nil && now.Path == file:
			found = append(found, c)
		case err == nil:
			why = fmt.Errorf("the running daemon has another configuration, %s", cmp.Or(now.Path, "none"))
		case errors.Is(why, ErrNone):
			why = err
		}
	}
	switch len(found) {
	case 0:
		return nil, why
	case 1:
		return found[0], nil
	}
	return nil, fmt.Errorf("%d daemons have this configuration: choose one with --state", len(found))
}
