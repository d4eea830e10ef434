package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.uber.org/goleak"

	"netroot/internal/boot"
	"netroot/internal/site"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var full = boot.Machine{
	Ref: "debian12@0123", Server: "10.0.0.1:8010", Arch: "amd64", Firmware: boot.UEFI, MAC: "52:54:00:12:34:56", Virtio: true,
	UUID: "01234567-89ab-cdef-0123-456789abcdef", Serial: "a/b&c", Asset: "x y",
	Address: netip.MustParseAddr("10.0.0.7"),
}

// A daemon answers what its functions say, and a client gets the same.
func TestAsk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "deep", "socket")
	if _, err := Dial(t.Context(), path); !errors.Is(err, ErrNone) {
		t.Errorf("without a daemon: %v", err)
	}
	l, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", fi.Mode(), err)
	}
	rev := Revision{Revision: site.RevisionOf([]byte("x")), Path: "/n.yaml", State: "/var/lib/netroot"}
	s := &Server{
		Log: slog.New(slog.DiscardHandler), Revision: func() Revision { return rev },
		Health: func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "well") },
		Plan: func(m boot.Machine) (Plan, error) {
			if m.Ref == "none" {
				return Plan{}, fmt.Errorf("no such image: %w", ErrNotFound)
			}
			return Plan{Revision: rev, Plan: boot.Plan{Machine: m, Image: "debian12@0123"}}, nil
		},
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l, func() {}) }()
	c, err := Dial(t.Context(), path+"-other", path)
	if err != nil || c.Socket != path {
		t.Fatal(c, err)
	}
	if got, err := c.Revision(t.Context()); err != nil || got != rev {
		t.Errorf("%+v, %v", got, err)
	}
	p, err := c.Plan(t.Context(), full)
	if err != nil || p.Plan.Machine != full || p.Revision != rev {
		t.Errorf("%+v, %v", p, err)
	}
	for _, test := range []struct {
		ref, want string
	}{{"none", "no such image: not found"}, {"", "no image is named"}} {
		if _, err := c.Plan(t.Context(), boot.Machine{Ref: test.ref}); err == nil || !strings.Contains(err.Error(), test.want) || errors.Is(err, ErrNotFound) != (test.ref != "") {
			t.Errorf("%q: %v", test.ref, err)
		}
	}
	if err := c.get(t.Context(), HealthPath, nil, new(string)); err == nil || !strings.Contains(err.Error(), "the daemon's answer") {
		t.Errorf("an answer that is not JSON: %v", err)
	}
	if err := c.get(t.Context(), "/v2", nil, nil); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("an unknown path: %v", err)
	}
	if _, err := Listen(t.Context(), path); err == nil || !strings.Contains(err.Error(), "another daemon listens there") {
		t.Errorf("a second daemon: %v", err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestMachineRoundTrip(t *testing.T) {
	got, err := machineOf(query(full))
	if diff := cmp.Diff(full, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	if got, err := machineOf(query(boot.Machine{})); got != (boot.Machine{}) || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := machineOf(map[string][]string{"address": {"x"}}); err == nil {
		t.Error("no error for an address that is not one")
	}
}

// What a killed daemon has left is replaced, and what is not a socket is not.
func TestListenAfterKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	again, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, path + "/below"} {
		if l, err := Listen(t.Context(), p); err == nil {
			l.Close()
			t.Errorf("listens on %s", p)
		}
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

func TestSockets(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Setenv("XDG_RUNTIME_DIR", "")
		if _, err := OwnSocket("/x"); err == nil {
			t.Error("a socket without a place")
		}
		return
	}
	t.Setenv(RunDirVariable, "/run/test")
	if own, err := OwnSocket(site.DefaultState); err != nil || own != "/run/test/netroot.sock" {
		t.Error(own, err)
	}
	t.Setenv(RunDirVariable, "")
	usual, err := OwnSocket(site.DefaultState)
	if err != nil || usual != "/run/netroot/netroot.sock" {
		t.Error(usual, err)
	}
	other, err := OwnSocket("/srv/a")
	if another, _ := OwnSocket("/srv/b"); err != nil || other == another || other == usual {
		t.Error(other, another, err)
	}
}
