package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
)

// signaled is why a command ends before its work is done.
type signaled struct{ syscall.Signal }

func (s signaled) Error() string {
	if s.Signal == syscall.SIGTERM {
		return "terminated"
	}
	return "interrupted"
}

// code is the exit status that shells use for a process that a signal has ended.
func (s signaled) code() int { return exitSignal + int(s.Signal) }

// untilSignal returns a context that ends with the first SIGINT or SIGTERM, and what stops waiting
// for them.
func untilSignal(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	arrived := make(chan os.Signal, 1)
	signal.Notify(arrived, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case s := <-arrived:
			cancel(signaled{s.(syscall.Signal)})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(arrived)
		cancel(nil)
	}
}

// endOf is which signal has ended a context; one that ended otherwise counts as interrupted.
func endOf(ctx context.Context) signaled {
	if s := (signaled{}); errors.As(context.Cause(ctx), &s) {
		return s
	}
	return signaled{syscall.SIGINT}
}
