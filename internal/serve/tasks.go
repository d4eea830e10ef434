package serve

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"netroot/internal/handoff"
	"netroot/internal/serve/whole"
	"netroot/internal/task"
)

// bootOrder are the servers of roots in the order of their tasks.
var bootOrder = []handoff.Transport{handoff.NFS, handoff.NBD, handoff.NVMe, handoff.ISCSI}

// stages returns the tasks of the server. Boot scripts are served after the roots that they name,
// and end before them. The configuration is watched for as long as anything is served.
func (s *Server) stages() []task.Stage {
	var view, roots task.Stage
	if s.cfg.Load != nil {
		view = append(view, task.Task{Name: "configuration", Run: s.watchConfiguration})
	}
	if s.cfg.Load != nil || s.cfg.Layers.Place("") != "" {
		view = append(view, task.Task{Name: "layers", Run: s.watchLayers})
	}
	for _, t := range bootOrder {
		if l := s.roots[t]; l != nil {
			roots = append(roots, task.Task{Name: string(t), Run: func(ctx context.Context, ready func()) error {
				return s.servers[t].Serve(ctx, task.Accepting(l, ready))
			}})
		}
	}
	if s.cfg.NFS.Portmap != nil && s.roots[handoff.NFS] != nil {
		roots = append(roots, task.Task{Name: "portmap", Run: s.runPortmap})
	}
	view = append(view, task.Task{Name: "images", Run: s.checkImages})
	return []task.Stage{view, roots, {{Name: "http", Run: s.runHTTP}}}
}

// checkImages reads what machines boot from, where it is not known to be whole: first the newest
// version of each label.
func (s *Server) checkImages(ctx context.Context, ready func()) error {
	ready()
	for _, name := range s.view.Load().Site.Names() {
		if im, err := s.catalog.resolve(name); err == nil && ctx.Err() == nil {
			_ = s.catalog.parts.Check(im, whole.BootRoles()...) // which is logged, and in Problems
		}
	}
	s.catalog.parts.Run(ctx)
	return nil
}

// Run runs the server's tasks, and more as the last stage, until ctx ends or a task fails.
// Transfers that are under way get a second to finish. It returns nil when ctx has ended it. A
// Server runs once.
func (s *Server) Run(ctx context.Context, more ...task.Task) error {
	group := task.NewGroup(append(s.stages(), more)...)
	s.group.Store(group)
	close(s.started)
	defer s.cfg.Layers.Close()
	defer s.exports.Close()
	return group.Run(ctx)
}

// Ready returns when all tasks are ready, or ctx ends.
func (s *Server) Ready(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.started:
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.group.Load().Ready():
		return nil
	}
}

// both returns two functions, and calls ready when both have been called.
func both(ready func()) (one, other func()) {
	var left atomic.Int32
	left.Store(2)
	called := func() {
		if left.Add(-1) == 0 {
			ready()
		}
	}
	return sync.OnceFunc(called), sync.OnceFunc(called)
}

// checkListeners refuses listeners to which machines cannot be sent.
func checkListeners(roots map[handoff.Transport]net.Listener) error {
	for t, l := range roots {
		if _, ok := l.Addr().(*net.TCPAddr); !ok || serverOf[t] == nil {
			return fmt.Errorf("%s listener %s: machines need a TCP port, and a transport that is served over one", t, l.Addr())
		}
	}
	return nil
}
