package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"netroot/internal/boot"
	"netroot/internal/task"
)

// Server answers requests. Its fields are set before Serve.
type Server struct {
	Revision func() Revision
	// Plan decides what a machine would be told. Its error is for the user of the command; it
	// matches ErrNotFound when there is no such image.
	Plan func(boot.Machine) (Plan, error)
	// Health answers with the daemon's health.
	Health http.HandlerFunc
	Log    *slog.Logger
}

const (
	headerTimeout = 10 * time.Second
	writeTimeout  = time.Minute
)

// Serve answers on l until ctx ends, as a task.
func (s *Server) Serve(ctx context.Context, l net.Listener, ready func()) error {
	return Serve(ctx, l, s.handler(), s.Log, ready)
}

// Serve has a handler answer requests that have no bodies on l until ctx ends, as a task.
func Serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger, ready func()) error {
	server := http.Server{
		Handler: h, ReadTimeout: headerTimeout, WriteTimeout: writeTimeout, IdleTimeout: headerTimeout,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	return task.HTTP(ctx, &server, l, ready)
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+HealthPath, s.Health)
	mux.HandleFunc("GET "+RevisionPath, func(w http.ResponseWriter, _ *http.Request) {
		write(w, http.StatusOK, s.Revision())
	})
	mux.HandleFunc("GET "+PlanPath, func(w http.ResponseWriter, r *http.Request) {
		p, err := s.plan(r)
		switch {
		case errors.Is(err, ErrNotFound):
			write(w, http.StatusNotFound, failure{err.Error()})
		case err != nil:
			write(w, http.StatusBadRequest, failure{err.Error()})
		default:
			write(w, http.StatusOK, p)
		}
	})
	return mux
}

func (s *Server) plan(r *http.Request) (Plan, error) {
	m, err := machineOf(r.URL.Query())
	if err != nil {
		return Plan{}, err
	}
	if m.Ref == "" {
		return Plan{}, errors.New("no image is named: ref is LABEL or LABEL@ID")
	}
	return s.Plan(m)
}

func write(w http.ResponseWriter, status int, what any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(what) // to a client that has gone it cannot be told
}
