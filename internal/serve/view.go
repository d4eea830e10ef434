package serve

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"netroot/internal/layer/folder"
	"netroot/internal/site"
	"netroot/internal/store"
	"netroot/internal/watch"
)

// View is one configuration as the server acts on it, with the layers as they are served. It is
// never changed: another one takes its place, as a whole.
type View struct {
	Site   *site.Site
	Since  time.Time // when this Site was first acted on
	Layers *folder.Snapshot
}

// Failure is why the configuration could not be read again. What was in force before still is.
type Failure struct {
	Time time.Time `json:"time"` // when that was first seen
	Text string    `json:"error"`
}

// View returns the configuration that the server acts on at this moment.
func (s *Server) View() *View { return s.view.Load() }

// LastFailure returns why the configuration is not the one in the file; nil: it is.
func (s *Server) LastFailure() *Failure { return s.failure.Load() }

// Reload reads the configuration again, and acts on it from now on. When it cannot be read, the one
// that is in force stays, which the log and LastFailure say, and Reload returns why.
func (s *Server) Reload() error { return s.reload(true) }

// reload is Reload. Unless somebody has asked for it, the log says nothing about a file that is as
// it was the last time.
func (s *Server) reload(asked bool) error {
	s.renewing.Lock()
	defer s.renewing.Unlock()
	defer func() {
		select {
		case s.reloaded <- struct{}{}:
		default: // one that nobody has received yet says the same
		}
	}()
	old := s.view.Load()
	if s.cfg.Load == nil {
		return nil
	}
	next, err := s.cfg.Load()
	if err != nil {
		was := s.failure.Load()
		same := was != nil && was.Text == err.Error()
		if !same {
			s.failure.Store(&Failure{time.Now(), err.Error()})
		}
		if asked || !same {
			s.cfg.Log.Error("configuration: not read again", "why", oneLine(err.Error()), "in force", inForce(old))
		}
		return fmt.Errorf("%w; %s stays in force", err, inForce(old))
	}
	if failed := s.failure.Swap(nil); failed != nil {
		s.cfg.Log.Info("configuration: can be read again", "revision", next.Revision.Short())
	}
	if next.State != old.Site.State {
		if next.Revision != old.Site.Revision {
			s.cfg.Log.Warn("configuration: another state directory needs a restart", "in force", old.Site.State, "configured", next.State)
		}
		next.SetState(old.Site.State)
	}
	changes := next.ChangesSince(old.Site)
	if next.Revision == old.Site.Revision && changes.Empty() {
		if asked {
			s.cfg.Log.Info("configuration: read again, and it is the same", "revision", next.Revision.Short())
		}
		s.renderInto(old)
		return nil
	}
	s.cfg.Layers.Move(next.Layers())
	s.view.Store(&View{Site: next, Since: time.Now(), Layers: s.cfg.Layers.Render(s.layerNames(next))})
	s.cfg.Log.Info("configuration: read again", "revision", next.Revision.Short(), "before", old.Site.Revision.Short(), "changes", changes)
	s.warn(next)
	return nil
}

// inForce names a View for people.
func inForce(v *View) string {
	return fmt.Sprintf("revision %s of %s", v.Site.Revision.Short(), v.Since.Format(time.RFC3339))
}

// oneLine is the first line of a text: the others show the place in the file.
func oneLine(text string) string {
	text, _, _ = strings.Cut(text, "\n")
	return text
}

// Reloaded receives a value after each Reload, whoever called it and however it ended. Calls that
// follow each other quickly may be one value.
func (s *Server) Reloaded() <-chan struct{} { return s.reloaded }

// layerNames are the layers that machines may be told of.
func (s *Server) layerNames(of *site.Site) []string {
	var names []string
	if s.cfg.Add.Layers != nil {
		names = slices.Clone(*s.cfg.Add.Layers)
	}
	for _, l := range of.Labels {
		names = append(names, l.Layers...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// renderLayers brings the layers of the View up to date.
func (s *Server) renderLayers() {
	s.renewing.Lock()
	defer s.renewing.Unlock()
	s.renderInto(s.view.Load())
}

func (s *Server) renderInto(old *View) {
	now := s.cfg.Layers.Render(s.layerNames(old.Site))
	if now.Equal(old.Layers) {
		return
	}
	next := &View{Site: old.Site, Since: old.Since, Layers: now}
	s.view.Store(next)
	was := s.refused(old)
	for _, r := range s.refused(next) {
		if !slices.Contains(was, r) {
			s.cfg.Log.Warn("not served", "what", r)
		}
	}
}

// refused says which layers machines do not get because of secrets in them, by label.
func (s *Server) refused(v *View) []string {
	var all []string
	for _, name := range v.Site.Names() {
		l := v.Site.Labels[name]
		names := l.Layers
		if s.cfg.Add.Layers != nil {
			names = *s.cfg.Add.Layers
		}
		for _, layer := range names {
			if !v.Layers.Has(layer) {
				continue
			}
			if why := v.Layers.Refused(layer, l.AllowSecrets); why != "" {
				all = append(all, fmt.Sprintf("label %s: %s", name, why))
			}
		}
	}
	return all
}

// watchConfiguration reads the configuration again when its file has changed.
func (s *Server) watchConfiguration(ctx context.Context, ready func()) error {
	s.warn(s.view.Load().Site)
	w := watch.Watcher{
		Name: "configuration", Log: s.cfg.Log, Dirs: s.cfg.Watch,
		Changed: func(context.Context) { _ = s.reload(false) }, // which has logged the error, and keeps it
	}
	return w.Run(ctx, ready)
}

// watchLayers renders layers when something in their directories has changed.
func (s *Server) watchLayers(ctx context.Context, ready func()) error {
	w := watch.Watcher{
		Name: "layers", Log: s.cfg.Log,
		Dirs:    func() []string { return s.cfg.Layers.Watched(s.layerNames(s.view.Load().Site)) },
		Changed: func(context.Context) { s.renderLayers() },
	}
	return w.Run(ctx, ready)
}

// Problems returns what the configuration names and the server does not serve, each with the
// reason.
func (s *Server) Problems() []string {
	v := s.view.Load()
	all := []string{}
	for t, why := range s.cfg.Withheld {
		all = append(all, fmt.Sprintf("%s: %s", t, why))
	}
	layers := v.Layers.Problems()
	for _, name := range slices.Sorted(maps.Keys(layers)) {
		all = append(all, layers[name].Error())
	}
	all = append(all, s.refused(v)...)
	if s.cfg.Default != "" {
		if _, err := s.catalog.resolve(s.cfg.Default); err != nil {
			all = append(all, "--image: "+oneLine(err.Error()))
		}
	}
	for _, name := range v.Site.Names() {
		_, err := s.catalog.resolve(name)
		switch {
		case errors.Is(err, store.ErrNotFound):
			all = append(all, fmt.Sprintf("label %s has no image yet: run \"netroot build %[1]s\"", name))
		case err != nil:
			all = append(all, fmt.Sprintf("label %s has no image that can be served: %s", name, oneLine(err.Error())))
		}
	}
	all = append(all, s.catalog.parts.Damaged()...)
	if len(v.Site.Labels) == 0 {
		all = append(all, "the configuration has no labels")
	}
	return all
}

// warn logs the results of Config.Check and Problems for a configuration that has come into force.
func (s *Server) warn(of *site.Site) {
	if s.cfg.Check != nil {
		for _, err := range s.cfg.Check(of) {
			s.cfg.Log.Warn("configuration", "why", err)
		}
	}
	for _, p := range s.Problems() {
		s.cfg.Log.Warn("not served", "what", p)
	}
}
