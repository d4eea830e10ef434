// Package api is how commands on this machine ask a running daemon: requests over HTTP on a Unix
// socket, their answers in JSON, and the client of both.
//
// It knows no configuration and no images: it asks the functions that its server was made with.
// Machines that boot never come here; package serve has what they ask for.
package api

import (
	"errors"
	"net/netip"
	"net/url"
	"time"

	"netroot/internal/boot"
	"netroot/internal/site"
)

// Paths of requests, all of them GET.
const (
	RevisionPath = "/v1/revision" // a Revision
	PlanPath     = "/v1/plan"     // a Plan, for the machine that the query describes
	HealthPath   = "/healthz"     // the daemon's health
)

// Revision says which configuration a daemon acts on.
type Revision struct {
	Revision site.Revision `json:"revision"` // empty: there is no file
	Path     string        `json:"path,omitempty"`
	State    string        `json:"state"` // directory of images
	Since    time.Time     `json:"since"` // when this revision came into force
	// Failure says why the file as it is now is not in force; empty: it is, or has not been looked
	// at.
	Failure string `json:"failure,omitempty"`
}

// Plan is what a machine is told, by which configuration.
type Plan struct {
	Revision Revision  `json:"revision"`
	Plan     boot.Plan `json:"plan"`
}

// ErrNotFound is what Server.Plan and Client.Plan return for an image that does not exist.
var ErrNotFound = errors.New("not found")

// NotFound has an error match ErrNotFound. Its text stays as it is.
func NotFound(err error) error { return notFound{err} }

type notFound struct{ error }

func (n notFound) Is(target error) bool { return target == ErrNotFound }
func (n notFound) Unwrap() error        { return n.error }

// failure is the answer to a request that failed.
type failure struct {
	Error string `json:"error"`
}

// query describes a machine; machineOf reads it.
func query(m boot.Machine) url.Values {
	q := url.Values{}
	set := func(key, value string) {
		if value != "" {
			q.Set(key, value)
		}
	}
	set("ref", m.Ref)
	set("server", m.Server)
	set("arch", m.Arch)
	set("firmware", string(m.Firmware))
	set("mac", m.MAC)
	set("uuid", m.UUID)
	set("serial", m.Serial)
	set("asset", m.Asset)
	if m.Virtio {
		q.Set("virtio", "1")
	}
	if m.Address.IsValid() {
		q.Set("address", m.Address.String())
	}
	return q
}

func machineOf(q url.Values) (boot.Machine, error) {
	m := boot.Machine{
		Ref: q.Get("ref"), Server: q.Get("server"), Arch: q.Get("arch"), Firmware: boot.Firmware(q.Get("firmware")),
		MAC: q.Get("mac"), UUID: q.Get("uuid"), Serial: q.Get("serial"), Asset: q.Get("asset"), Virtio: q.Get("virtio") == "1",
	}
	var err error
	if text := q.Get("address"); text != "" {
		m.Address, err = netip.ParseAddr(text)
	}
	return m, err
}
