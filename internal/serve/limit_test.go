package serve

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"netroot/internal/proto/accept"
	"netroot/internal/testlog"
)

// from is a connection from an address.
type from struct {
	net.Conn
	addr   net.TCPAddr
	said   strings.Builder
	closed bool
}

func (f *from) RemoteAddr() net.Addr        { return &f.addr }
func (f *from) Write(p []byte) (int, error) { return f.said.Write(p) }
func (f *from) Close() error                { f.closed = true; return nil }
func newFrom(address string, port int) *from {
	return &from{addr: net.TCPAddr{IP: net.ParseIP(address), Port: port}}
}
func (f *from) refused() bool { return f.closed && strings.HasPrefix(f.said.String(), "HTTP/1.1 503 ") }

// TestShareOfOneAddress: one address has a quarter of the connections, and the others the rest.
func TestShareOfOneAddress(t *testing.T) {
	var why []string
	c := newConnections(100, func(_ string, err error) { why = append(why, err.Error()) })
	var bad []*from
	for i := range 100 {
		bad = append(bad, newFrom("10.0.0.1", i+1))
		c.state(bad[i], http.StateNew)
		if refused := i >= 25; bad[i].refused() != refused {
			t.Fatalf("connection %d of one address: refused %v", i, !refused)
		}
	}
	for _, f := range bad[25:] {
		c.state(f, http.StateClosed)
	}
	for i := range 75 {
		good := newFrom(fmt.Sprintf("10.0.1.%d", i), 1)
		if c.state(good, http.StateNew); good.refused() {
			t.Fatalf("another address was refused after %d", i)
		}
	}
	last := newFrom("fe80::1", 1)
	if c.state(last, http.StateNew); !last.refused() {
		t.Error("more than all")
	}
	c.state(last, http.StateClosed)
	c.state(bad[0], http.StateClosed)
	again := newFrom("10.0.0.1", 200)
	if c.state(again, http.StateNew); again.refused() {
		t.Error("no room after one has left")
	}
	if len(why) != 76 || why[0] != "more than 25 connections from one address" || why[75] != "more than 100 connections" {
		t.Errorf("%d refusals, %q, %q", len(why), why[0], why[len(why)-1])
	}
}

// TestRefusalsDoNotFillTheLog: many requests that are refused are few lines.
func TestRefusalsDoNotFillTheLog(t *testing.T) {
	s, _, _ := reloading(t)
	log := new(testlog.Buffer)
	s.cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	s.refusals = accept.NewRefusals(s.cfg.Log, "http")
	h, begin := s.handler(), time.Now()
	for i := range 1000 {
		r := httptest.NewRequest("GET", fmt.Sprintf("/nothing/%d", i), nil)
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	s.refusals.Flush()
	warned := strings.Count(log.String(), "level=WARN")
	if most := 12 * (2 + int(time.Since(begin)/time.Second)); warned > most || !strings.Contains(log.String(), "not logged one by one") {
		t.Errorf("%d lines in %s:\n%s", warned, time.Since(begin), log)
	}
}
