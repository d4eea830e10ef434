// Package accept is what the servers of all protocols have in common. Loop takes a server's connections: so many at
// once, through the errors that pass, with peers that vanished found out, and to an orderly end. They wait in the way
// that costs least for what they do just then. Replies writes what a server answers on one of them.
//
// It knows no protocol, and a panic in a connection's life is for the protocol to survive, which knows what else there
// is to let go of.
package accept

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// Stall is how long data may wait for its peer to take it: here by the kernel, in the servers as the deadline
	// of each write. A machine that was frozen for longer must connect again.
	Stall = time.Minute
	// Grace is how long replies under way have to leave when the loop ends.
	Grace = time.Second
	// Spare is how many connections above Max are told that they are too many, where a protocol can say it.
	Spare = 64

	silence    = 30 * time.Second // until the kernel asks whether the peer is there
	askAgain   = 10 * time.Second // until it asks again
	asks       = 3                // without an answer: the peer is gone
	retryPause = time.Second      // after an error that passes
)

// Loop accepts connections for one server. Its fields are set before Run and left alone after.
type Loop struct {
	// Protocol stands in front of errors and log lines.
	Protocol string
	// Log gets a line for each connection that is refused for being one too many. It is not nil.
	Log *slog.Logger
	// Max bounds the connections, of all listeners together.
	Max int
	// Serve is the life of one connection, in a goroutine of its own. When ctx ends it gets no further bytes (its
	// reads meet a deadline) and has Grace to come to an end; then nc is closed, as it is when Serve returns. Of TCP it
	// has CloseWrite, like net's own.
	Serve func(ctx context.Context, nc net.Conn)
	// Surplus, when set, is the life of a connection above Max, of which there are at most Spare: it tells the
	// peer in the protocol's words, and logs it. Without it they are logged and closed at once.
	Surplus func(ctx context.Context, nc net.Conn)

	open atomic.Int64
}

// Open returns how many connections there are now.
func (l *Loop) Open() int { return int(l.open.Load()) }

// Run accepts connections until ctx ends, then closes ln and waits for every connection's end, and returns nil. When
// ln fails it does the same and returns the error. It may run for several listeners at once.
func (l *Loop) Run(ctx context.Context, ln net.Listener) error {
	defer ln.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	var lives sync.WaitGroup
	err := l.accept(ctx, ln, &lives)
	cancel()
	lives.Wait()
	return err
}

func (l *Loop) accept(ctx context.Context, ln net.Listener, lives *sync.WaitGroup) error {
	for {
		nc, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				nc.Close()
			}
			return nil
		case transient(err):
			l.Log.Error(l.Protocol+": cannot accept, trying again", "why", err)
			select {
			case <-ctx.Done():
			case <-time.After(retryPause):
			}
		case err != nil:
			return fmt.Errorf("%s: accept on %s: %w", l.Protocol, ln.Addr(), err)
		default:
			if serve := l.admit(nc); serve != nil {
				lives.Go(func() {
					defer l.open.Add(-1)
					live(ctx, nc, serve)
				})
			}
		}
	}
}

// transient errors of accept(2) pass: a client that left before it was accepted, or a full table.
func transient(err error) bool {
	for _, e := range []error{unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// admit counts a connection and says what its life is; nil when it was refused.
func (l *Loop) admit(nc net.Conn) func(context.Context, net.Conn) {
	n := int(l.open.Add(1))
	switch {
	case n <= l.Max:
		return l.Serve
	case l.Surplus != nil && n <= l.Max+Spare:
		return l.Surplus
	}
	l.Log.Warn(l.Protocol+": refused", "peer", nc.RemoteAddr().String(), "why", l.TooMany())
	nc.Close()
	l.open.Add(-1)
	return nil
}

// TooMany is why a connection above Max is refused.
func (l *Loop) TooMany() error { return fmt.Errorf("more than %d connections", l.Max) }

// live leads one connection to its end: its own, or Grace after that of ctx.
func live(ctx context.Context, nc net.Conn, serve func(context.Context, net.Conn)) {
	Tune(nc)
	if tc, ok := nc.(*net.TCPConn); ok {
		nc = newConn(tc)
	}
	left := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		nc.SetReadDeadline(time.Now())
		select {
		case <-left:
		case <-time.After(Grace):
			nc.Close()
		}
	})
	defer stop()
	defer close(left)
	defer nc.Close()
	serve(ctx, nc)
}

// Tune makes the kernel notice a peer that vanished: when idle by keepalive, with data under way by
// TCP_USER_TIMEOUT (tcp(7)), without which retransmission goes on for a quarter of an hour. Failures are
// of no consequence. Nagle's algorithm is off by Go's default.
func Tune(nc net.Conn) {
	tc, ok := nc.(*net.TCPConn)
	if !ok {
		return
	}
	tc.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: silence, Interval: askAgain, Count: asks})
	if raw, err := tc.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(Stall.Milliseconds()))
		})
	}
}
