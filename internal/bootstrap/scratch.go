package bootstrap

import "context"

// scratch leaves the Tree empty. For adds the base directories; %setup and %files add the rest.
func scratch(ctx context.Context, _ Job) error { return ctx.Err() }
