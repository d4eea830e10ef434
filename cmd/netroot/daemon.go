package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"netroot/internal/api"
	"netroot/internal/boot"
	"netroot/internal/config"
	"netroot/internal/handoff"
	"netroot/internal/privilege"
	"netroot/internal/serve"
	"netroot/internal/site"
	"netroot/internal/store"
	"netroot/internal/systemd"
	"netroot/internal/task"
)

// ownSocket stands for the socket whose name follows from the state directory.
const ownSocket = "auto"

// daemon is what "netroot serve" adds to a server.
type daemon struct {
	*serve.Server
	log     *slog.Logger
	manager systemd.Manager
	hangup  chan os.Signal
	say     func() // that it serves
}

// serve is a daemon until ctx ends.
func (e *env) serve(ctx context.Context, f serveFlags) error {
	d := &daemon{log: e.logger(slog.LevelInfo), hangup: make(chan os.Signal, 1)}
	d.manager.Log = d.log
	signal.Notify(d.hangup, syscall.SIGHUP) // before anything else: it must not end us while we start
	defer signal.Stop(d.hangup)
	cfg, err := e.config()
	if err != nil {
		return err
	}
	sc, err := f.config(cfg, d.log)
	if err != nil {
		return err
	}
	sc.Layers = e.layerFolder(cfg, d.log)
	again := &source{env: e, path: cfg.Path}
	sc.Load, sc.Watch = again.load, again.watched
	sc.Check = func(s *site.Site) []error { return checkLayers(s, sc.Layers) }
	if *f.roots[handoff.NFS] != "" {
		if sc.NFS.Key, err = serve.NFSKey(cfg.State); err != nil {
			// With a key that does not last, every file of a running machine is stale after a
			// restart.
			sc.Withheld = map[handoff.Transport]string{handoff.NFS: "the key of its file handles cannot be kept; the server's log says why"}
			d.log.Warn("the NFS server is not started: the key of its file handles cannot be kept", "why", err)
			*f.roots[handoff.NFS] = ""
		}
	}
	given, err := systemd.Take([]string{"http", "nvme", "nbd", "iscsi", "nfs", "portmap", "health", "api"})
	if err != nil {
		return usage(err)
	}
	defer given.Close()
	health, commands, err := f.listenForPeople(ctx, d.log, given, cfg.State)
	if err != nil {
		return err
	}
	for _, l := range []net.Listener{health, commands} {
		if l != nil {
			defer l.Close() // when the rest fails; it removes the socket's file
		}
	}
	l, err := f.listen(given) // the process ends after an error, and with it the listeners
	if err != nil {
		return err
	}
	if left := given.Names(); len(left) > 0 {
		return usage(fmt.Errorf("systemd: the sockets %v have no use with these flags", left))
	}
	sc.NFS.Portmap = l.portmap
	if d.Server, err = serve.New(sc, l.http, l.roots); err != nil {
		return err
	}
	if err := dropPrivileges(d.log, l); err != nil {
		return err
	}
	d.say = func() { e.say("serving %s: %s", sc.Store.Dir(), l) }
	more := []task.Task{{Name: "control", Run: d.control}}
	if health != nil {
		more = append(more, task.Task{Name: "health", Run: d.serveHealth(health)})
	}
	if commands != nil {
		more = append(more, task.Task{Name: "api", Run: d.serveAPI(commands, cfg.State)})
	}
	if err := d.Run(ctx, more...); err != nil {
		return err
	}
	return ctx.Err()
}

// listenForPeople opens the sockets that machines do not use. A daemon without its API socket
// serves all the same.
func (f serveFlags) listenForPeople(ctx context.Context, log *slog.Logger, given systemd.Sockets, state string) (health, commands net.Listener, err error) {
	if health = given.Stream("health"); health == nil && f.health != "" {
		if health, err = serve.Listen("--health", f.health); err != nil {
			return nil, nil, err
		}
	}
	if commands = given.Stream("api"); commands != nil || f.socket == "" {
		return health, commands, nil
	}
	path := f.socket
	if path == ownSocket {
		if path, err = api.OwnSocket(state); err != nil {
			log.Info("there is no socket for commands", "why", err)
			return health, nil, nil
		}
	}
	commands, err = api.Listen(ctx, path)
	if err != nil && f.socket == ownSocket {
		log.Warn("there is no socket for commands", "why", err)
		return health, nil, nil
	}
	return health, commands, err
}

// dropPrivileges leaves a process of root the capabilities that its tasks need. The help of
// "netroot serve" lists them. The NFS server's are kept for trees that machines write to, too: a
// label may become one at any time.
func dropPrivileges(log *slog.Logger, l listeners) error {
	if os.Geteuid() != 0 {
		return nil
	}
	keep := []privilege.Capability{privilege.DACReadSearch} // layers and images belong to whoever made them
	var latent []privilege.Capability
	if l.roots[handoff.NFS] != nil {
		latent = append(latent, privilege.SysAdmin) // package nfs3 makes it effective while it opens a tree
		keep = append(keep, privilege.Chown, privilege.DACOverride, privilege.FOwner, privilege.FSetID,
			privilege.MkNod, privilege.SetGID, privilege.SetUID)
	}
	err := privilege.Keep(keep, latent)
	if errors.Is(err, privilege.ErrThreads) {
		log.Warn("privileges are kept", "why", err)
		return nil
	}
	return err
}

// control tells the service manager what the daemon does, and reads the configuration again on
// SIGHUP.
func (d *daemon) control(ctx context.Context, ready func()) error {
	ready()
	defer d.manager.Stopping()
	if d.Ready(ctx) != nil {
		return nil
	}
	d.say()
	status := d.status()
	d.manager.Ready(status)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-d.hangup:
			d.manager.Reloading()
			d.log.Info("SIGHUP: reading the configuration again")
			_ = d.Reload() // which has logged the error, and keeps it
			status = d.status()
			d.manager.Ready(status)
		case <-d.Reloaded(): // also when the file has changed
			if now := d.status(); now != status {
				status = now
				d.manager.Status(status)
			}
		}
	}
}

// status is what systemctl shows.
func (d *daemon) status() string {
	v := d.View()
	text := fmt.Sprintf("revision %s of %s, labels: %d", v.Site.Revision.Short(), v.Since.Format(time.RFC3339), len(v.Site.Labels))
	if failed := d.LastFailure(); failed != nil {
		text += "; the file as it is now is not in force: " + failed.Text
	}
	return text
}

func (d *daemon) serveHealth(l net.Listener) func(context.Context, func()) error {
	return func(ctx context.Context, ready func()) error {
		mux := http.NewServeMux()
		mux.HandleFunc("GET "+serve.HealthPath, d.ServeHealth)
		return api.Serve(ctx, l, mux, d.log, ready)
	}
}

func (d *daemon) serveAPI(l net.Listener, state string) func(context.Context, func()) error {
	server := api.Server{
		Revision: func() api.Revision { return d.revision(d.View(), state) },
		Plan: func(m boot.Machine) (api.Plan, error) {
			p, v, err := d.Preview(m)
			if errors.Is(err, store.ErrNotFound) {
				err = api.NotFound(err)
			}
			return api.Plan{Revision: d.revision(v, state), Plan: p}, err
		},
		Health: d.ServeHealth,
		Log:    d.log,
	}
	return func(ctx context.Context, ready func()) error { return server.Serve(ctx, l, ready) }
}

func (d *daemon) revision(v *serve.View, state string) api.Revision {
	r := api.Revision{Revision: v.Site.Revision, Path: v.Site.Path, State: state, Since: v.Since}
	if failed := d.LastFailure(); failed != nil {
		r.Failure = failed.Text
	}
	return r
}

// source reads the configuration again: from the file that it was read from, once there is one.
type source struct {
	env  *env
	path string // empty: there is none
}

func (s *source) load() (*site.Site, error) {
	if s.path == "" {
		cfg, err := s.env.config()
		if err == nil {
			s.path = cfg.Path
		}
		return cfg, err
	}
	cfg, err := config.Load(s.path)
	if err != nil {
		return nil, err
	}
	return cfg, s.env.setState(cfg)
}

// watched are the directories in which the file changes, or appears.
func (s *source) watched() []string {
	if s.path == "" {
		return []string{".", "/etc", "/etc/netroot"}
	}
	dir := filepath.Dir(s.path)
	dirs := []string{dir, filepath.Dir(dir)} // dir may be a symbolic link, or another may take its place
	if target, err := filepath.EvalSymlinks(s.path); err == nil {
		dirs = append(dirs, filepath.Dir(target))
	}
	return slices.Compact(dirs)
}
