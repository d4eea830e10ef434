// Package prototest has what the tests of protocol servers share: a server that runs for a test,
// its log, and connections to it. It is not for programs.
package prototest

import (
	"context"
	"io"
	"net"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"netroot/internal/testlog"
)

// Patience is how long a test waits for something that happens at once on an idle machine.
const Patience = 10 * time.Second

// Log collects a server's log as text, without what differs between runs: times, durations and the
// ports of peers.
type Log struct{ testlog.Buffer }

var (
	times = regexp.MustCompile(`time=\S+ | after=\S+`)
	ports = regexp.MustCompile(`((?:peer|from)=[0-9.]+):[0-9]+`)
)

func (l *Log) String() string {
	return ports.ReplaceAllString(times.ReplaceAllString(l.Buffer.String(), ""), "$1")
}

// Has returns whether the log has a text, as a fact for Until.
func (l *Log) Has(text string) func() bool {
	return func() bool { return strings.Contains(l.String(), text) }
}

// Feed is a connection whose peer sends what R has, then leaves. What it is sent is counted in
// Written and dropped.
type Feed struct {
	net.Conn // nil: everything used is below
	R        io.Reader
	Written  int
}

func (f *Feed) Read(p []byte) (int, error)       { return f.R.Read(p) }
func (f *Feed) Write(p []byte) (int, error)      { f.Written += len(p); return len(p), nil }
func (f *Feed) Close() error                     { return nil }
func (f *Feed) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IP{127, 0, 0, 1}, Port: 3260} }
func (f *Feed) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IP{127, 0, 0, 1}, Port: 1000} }
func (f *Feed) SetDeadline(time.Time) error      { return nil }
func (f *Feed) SetReadDeadline(time.Time) error  { return nil }
func (f *Feed) SetWriteDeadline(time.Time) error { return nil }

// Serve has a server listen on a port of 127.0.0.1. stop ends it, fails the test when it returns an
// error, and may be called twice; the end of the test calls it.
func Serve(t testing.TB, serve func(context.Context, net.Listener) error) (addr string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, l) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

// Dial connects to a server until the end of the test.
func Dial(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

// DialFrom is Dial from another address of loopback, as another machine would.
func DialFrom(t testing.TB, from, addr string) *net.TCPConn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

// Probe connects to a server that has logged nothing, and leaves without a word: in good order, and
// by a reset as many load balancers do. The server must not log it. open returns the number of its
// connections, accepted that of all that it had.
func Probe(t testing.TB, addr string, log func() string, counters func() (open int, accepted uint64)) {
	t.Helper()
	for i, linger := range []int{-1, 0} {
		conn := Dial(t, addr)
		conn.SetLinger(linger)
		conn.Close()
		Until(t, "the connection to end", func() bool {
			open, accepted := counters()
			return open == 0 && accepted == uint64(i)+1
		})
	}
	if text := log(); text != "" {
		t.Errorf("log:\n%s", text)
	}
}

// Until waits for a fact.
func Until(t testing.TB, what string, fact func() bool) {
	t.Helper()
	end := time.After(Patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !fact() {
		select {
		case <-end:
			t.Fatalf("waited %v for: %s", Patience, what)
		case <-tick.C:
		}
	}
}
