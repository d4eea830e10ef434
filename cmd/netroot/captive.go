package main

import (
	"context"
	"errors"
	"net"

	"netroot/internal/captive"
	"netroot/internal/handoff"
	"netroot/internal/serve"
	"netroot/internal/store"
)

// captive leaves the choice of every address that was not given to the kernel.
func (f *serveFlags) captive(given func(flag string) bool) {
	const free = "127.0.0.1:0"
	if !given("http") {
		f.http = free
	}
	for t, address := range f.roots {
		if !given(string(t)) && (*address != "" || t != handoff.NFS) {
			*address = free
		}
	}
}

// serveCaptive serves one image for as long as a command runs.
func (e *env) serveCaptive(ctx context.Context, command string, sc serve.Config, im *store.Image, http net.Listener, roots map[handoff.Transport]net.Listener) error {
	if im == nil {
		return usage(errors.New("--run serves one image to its command: name the image with --image"))
	}
	sc.Default = im.Name()
	environ, err := captive.Addresses(serve.Facts(im), http, roots, sc.RequireTLS)
	if err != nil {
		return err
	}
	server, err := serve.New(sc, http, roots)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	served := make(chan error, 1)
	go func() {
		served <- server.Run(ctx)
		cancel() // the command requires the servers
	}()
	err = captive.Command{Line: command, Environ: environ, Stdin: e.stdin, Stdout: e.stdout, Stderr: e.stderr}.Run(ctx)
	cancel()
	if failed := <-served; failed != nil {
		return failed
	}
	if ended := (*captive.ExitError)(nil); errors.As(err, &ended) {
		return &exitError{code: ended.Status}
	}
	return err
}
