package serve

import (
	"encoding/json"
	"net/http"
	"time"

	"netroot/internal/handoff"
	"netroot/internal/site"
	"netroot/internal/task"
)

// Health is the state of a server.
type Health struct {
	Ready    bool          `json:"ready"`    // all tasks are
	Revision site.Revision `json:"revision"` // of the configuration in force; empty: there is no file
	Path     string        `json:"path,omitempty"`
	Since    time.Time     `json:"since"` // when that revision came into force
	// Failure says why what the file has now is not in force; null: it is.
	Failure *Failure `json:"failure"`
	Store   string   `json:"store"`
	// Problems say what of the configuration is not served, and why.
	Problems []string      `json:"problems"`
	Tasks    []task.Status `json:"tasks"`
	// Servers are the counters of the servers of roots, by transport.
	Servers map[handoff.Transport]Counters `json:"servers"`
}

// Counters are what one server of roots has done since its start, and what it does now.
type Counters struct {
	Accepted uint64 `json:"accepted"` // connections, with those refused
	Refused  uint64 `json:"refused"`
	Requests uint64 `json:"requests"`
	Errors   uint64 `json:"errors"` // requests that a root could not serve
	Received uint64 `json:"receivedBytes"`
	Sent     uint64 `json:"sentBytes"`
	Open     int    `json:"openConnections"` // now
	Attached int    `json:"attachedClients"` // now
	Memory   int64  `json:"memoryBytes"`     // of requests and replies, now
}

// Health returns the state of this moment.
func (s *Server) Health() Health {
	v := s.view.Load()
	h := Health{
		Revision: v.Site.Revision, Path: v.Site.Path, Since: v.Since, Failure: s.failure.Load(),
		Store: s.cfg.Store.Dir(), Problems: s.Problems(),
		Servers: make(map[handoff.Transport]Counters),
	}
	for t, server := range s.servers {
		n := server.Counters()
		h.Servers[t] = Counters{n.Accepted, n.Refused, n.Requests, n.Errors, n.In, n.Out, n.Open, n.Attached, n.Memory}
	}
	if g := s.group.Load(); g != nil {
		h.Ready, h.Tasks = g.IsReady(), g.Status()
	}
	return h
}

// ServeHealth answers with the Health as JSON, and with status 200 when the server is ready and 503
// when it is not.
func (s *Server) ServeHealth(w http.ResponseWriter, _ *http.Request) {
	h := s.Health()
	writeHealth(w, h.Ready, h)
}

// getHealth answers on the port for machines, with no more than whether this server is ready.
func (s *Server) getHealth(w http.ResponseWriter, _ *http.Request) error {
	g := s.group.Load()
	ready := g != nil && g.IsReady()
	writeHealth(w, ready, struct {
		Ready bool `json:"ready"`
	}{ready})
	return nil
}

func writeHealth(w http.ResponseWriter, ready bool, what any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.Encode(what) // to a client that has gone it cannot be told
}
