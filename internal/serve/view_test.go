package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sync/errgroup"

	"netroot/internal/boot"
	"netroot/internal/handoff"
	"netroot/internal/layer/folder"
	"netroot/internal/site"
	"netroot/internal/store"
	"netroot/internal/task"
	"netroot/internal/testlog"
)

// reloading is a server of two labels whose configuration is what next says when it is read again.
func reloading(t *testing.T) (s *Server, next func(*site.Site, error), log *testlog.Buffer) {
	t.Helper()
	images, err := store.Create(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	commit(t, images, "debian", map[store.Role][]byte{store.RoleRoot: []byte("r"), store.RoleKernel: []byte("k"), store.RoleInitramfs: []byte("i")})
	web, err := Listen("--http", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { web.Close() })
	var mu sync.Mutex
	loaded := configured("quiet")
	var failed error
	log = new(testlog.Buffer)
	logger := slog.New(slog.NewTextHandler(log, nil))
	layers := folder.New(filepath.Join(t.TempDir(), "layers"), t.TempDir(), logger)
	t.Cleanup(func() { layers.Close() })
	s, err = New(Config{
		Store: images, Site: configured("quiet"), Log: logger, Layers: layers,
		Load: func() (*site.Site, error) {
			mu.Lock()
			defer mu.Unlock()
			return loaded, failed
		},
		Watch: func() []string { return nil },
	}, web, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s, func(of *site.Site, err error) {
		mu.Lock()
		defer mu.Unlock()
		loaded, failed = of, err
	}, log
}

// configured is a Site whose label debian has these kernel arguments.
func configured(cmdline ...string) *site.Site {
	s := labels(site.Label{Name: "debian", Transport: handoff.HTTP, Overlay: site.DefaultOverlay(), Cmdline: cmdline})
	s.Revision = site.RevisionOf([]byte(strings.Join(cmdline, " ")))
	return s
}

func cmdlineOf(t *testing.T, s *Server) string {
	t.Helper()
	p, err := s.Plan(boot.Machine{Server: "10.0.0.1", Ref: "debian"})
	if err != nil {
		t.Fatal(err)
	}
	preview, v, err := s.Preview(boot.Machine{Server: "10.0.0.1", Ref: "debian"})
	if err != nil || strings.Join(preview.Cmdline, " ") != strings.Join(p.Cmdline, " ") || v != s.View() {
		t.Errorf("the preview is %v, %v", preview.Cmdline, err)
	}
	return strings.Join(p.Cmdline, " ")
}

func TestReload(t *testing.T) {
	s, next, log := reloading(t)
	if got := cmdlineOf(t, s); !strings.HasSuffix(got, " quiet") {
		t.Errorf("at first: %s", got)
	}
	next(configured("loud"), nil)
	if err := s.Reload(); err != nil {
		t.Fatal(err)
	}
	if got := cmdlineOf(t, s); !strings.HasSuffix(got, " loud") {
		t.Errorf("read again: %s", got)
	}
	second := s.View()
	next(nil, errors.New("/n.yaml:3:1: wrong\n    line\n    ^"))
	for asked := range 3 {
		err := s.reload(asked > 0)
		if err == nil || !strings.Contains(err.Error(), "/n.yaml:3:1: wrong") || !strings.Contains(err.Error(), "revision "+second.Site.Revision.Short()) {
			t.Errorf("a broken file: %v", err)
		}
	}
	if s.View() != second || s.LastFailure() == nil || !strings.HasSuffix(s.LastFailure().Text, "^") {
		t.Errorf("after a broken file: %+v, %+v", s.View(), s.LastFailure())
	}
	if n := strings.Count(log.String(), `why="/n.yaml:3:1: wrong" "in force"="revision `+second.Site.Revision.Short()); n != 3 {
		t.Errorf("logged %d times:\n%s", n, log)
	}
	first := s.LastFailure()
	s.reload(false)
	if n := strings.Count(log.String(), "not read again"); n != 3 || s.LastFailure() != first {
		t.Errorf("looked at again, and logged %d times; first seen %v, %v:\n%s", n, first.Time, s.LastFailure().Time, log)
	}
	next(configured("loud"), nil) // as it was before
	err := s.Reload()
	if err != nil || s.LastFailure() != nil || s.View() != second {
		t.Errorf("mended: %v, %+v", err, s.LastFailure())
	}
	s.reload(false)
	if n := strings.Count(log.String(), "it is the same"); n != 1 {
		t.Errorf("said %d times to who asked that nothing has changed:\n%s", n, log)
	}
	for range 2 {
		moved := configured("louder")
		moved.SetState("/elsewhere")
		next(moved, nil)
		err = s.Reload()
	}
	if err != nil || s.View().Site.State != second.Site.State || strings.Count(log.String(), "needs a restart") != 1 {
		t.Errorf("another state directory: %v, %s", err, s.View().Site.State)
	}
}

// Whoever asks while the configuration changes gets one of the two, whole.
func TestScriptsWhileReloading(t *testing.T) {
	s, next, _ := reloading(t)
	h := s.handler()
	var g errgroup.Group
	for range 8 {
		g.Go(func() error {
			for range 50 {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest("GET", "/boot/debian.ipxe", nil))
				script := w.Body.String()
				if a, b := strings.Count(script, " a1 a2 "), strings.Count(script, " b1 b2 "); w.Code != 200 || a+b > 1 || a+b == 0 && !strings.Contains(script, " quiet ") {
					return errors.New(script)
				}
			}
			return nil
		})
	}
	g.Go(func() error {
		for i := range 50 {
			of := []*site.Site{configured("a1", "a2"), configured("b1", "b2")}[i%2]
			next(of, nil)
			if err := s.Reload(); err != nil {
				return err
			}
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

func TestHealth(t *testing.T) {
	f := start(t)
	if err := f.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	f.ServeHealth(w, nil)
	var h Health
	if err := json.Unmarshal(w.Body.Bytes(), &h); err != nil || w.Code != 200 || !h.Ready || len(h.Tasks) != 3 || h.Tasks[1].Name != "nbd" || h.Failure != nil || h.Store != f.store.Dir() {
		t.Errorf("%d %s, %v", w.Code, w.Body, err)
	}
	if n, ok := h.Servers[handoff.NBD]; !ok || n.Errors != 0 {
		t.Errorf("servers %+v", h.Servers)
	}
	s, next, _ := reloading(t) // does not run
	next(nil, errors.New("broken"))
	s.Reload()
	w = httptest.NewRecorder()
	s.ServeHealth(w, nil)
	if err := json.Unmarshal(w.Body.Bytes(), &h); err != nil || w.Code != 503 || h.Ready || h.Failure == nil || h.Failure.Text != "broken" {
		t.Errorf("%d %s, %v", w.Code, w.Body, err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Ready(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("ready: %v", err)
	}
}

// A listener that fails ends the server, and the error says whose it was.
func TestFailedTaskIsNamed(t *testing.T) {
	s, _, _ := reloading(t)
	s.http.Close()
	if err := s.Run(t.Context()); err == nil || !strings.HasPrefix(err.Error(), "http: 127.0.0.1:") {
		t.Errorf("error %v", err)
	}
}

// A portmapper is ready when both of its sockets are served.
func TestBoth(t *testing.T) {
	n := 0
	a, b := both(func() { n++ })
	a()
	a()
	if n != 0 {
		t.Error("ready by one alone")
	}
	b()
	b()
	if n != 1 {
		t.Errorf("ready %d times", n)
	}
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u.Close()
	called := false
	if _, _, err := task.Receiving(u, func() { called = true }).ReadFrom(nil); err == nil || !called {
		t.Errorf("%v, %v", called, err)
	}
}

// TestBrokenLayerStatus: a layer that cannot be rendered is the server's failure, not the client's.
func TestBrokenLayerStatus(t *testing.T) {
	for status, err := range map[int]error{
		http.StatusInternalServerError: fmt.Errorf("layer rack7 %w", folder.ErrNotRendered),
		http.StatusBadRequest:          site.ErrNoOverlay,
		http.StatusNotFound:            store.ErrNotFound,
	} {
		if got := public("x", err); got.status != status {
			t.Errorf("%v: status %d, want %d", err, got.status, status)
		}
	}
}

func TestPlansOfStrangers(t *testing.T) {
	for want, err := range map[string]error{
		"no such image: x": store.ErrNotFound,
		"image x cannot be given out now; the server's log says why": private{&os.PathError{Op: "open", Path: "/secret/path", Err: os.ErrPermission}},
		"one machine at a time": errors.New("one machine at a time"),
	} {
		if got := public("x", err).Error(); got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	}
}
