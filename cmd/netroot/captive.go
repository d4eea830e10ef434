package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"netroot/internal/boot"
	"netroot/internal/handoff"
	"netroot/internal/serve"
	"netroot/internal/store"
)

// killAfter is how long a command has to end that was told to.
const killAfter = 5 * time.Second

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
		return usage(errors.New("--run serves one image to its command: name it with --image"))
	}
	sc.Default = im.Name()
	environ, err := addresses(serve.Facts(im), http, roots, sc.RequireTLS)
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
		cancel() // without servers the command has nothing to go on for
	}()
	err = e.runCommand(ctx, command, environ)
	cancel()
	if failed := <-served; failed != nil {
		return failed
	}
	return err
}

// addresses are the variables that name the packed root to foreign clients.
func addresses(im boot.Image, http net.Listener, roots map[handoff.Transport]net.Listener, secure bool) ([]string, error) {
	if im.Root.Digest == "" {
		return nil, fmt.Errorf("image %s has no packed root that a client could read", im.Name)
	}
	environ := []string{"NETROOT_HTTP=http://" + reachable(http) + boot.BlobPath + im.Root.Digest}
	for t, l := range roots {
		at := reachable(l)
		switch t {
		case handoff.NBD:
			scheme := "nbd"
			if secure {
				scheme = "nbds"
			}
			environ = append(environ, "NETROOT_NBD="+scheme+"://"+at+"/"+im.Name)
		case handoff.ISCSI:
			environ = append(environ, "NETROOT_ISCSI=iscsi://"+at+"/"+boot.IQN(im.Name)+"/0")
		case handoff.NFS:
			host, port, err := net.SplitHostPort(at)
			if err != nil {
				return nil, err
			}
			file := boot.ImagesPath + strings.TrimPrefix(im.Root.Digest, "sha256:")
			environ = append(environ, fmt.Sprintf("NETROOT_NFS=nfs://%s%s?version=3&nfsport=%s&mountport=%s", host, file, port, port))
		case handoff.NVMe:
			host, port, err := net.SplitHostPort(at)
			if err != nil {
				return nil, err
			}
			environ = append(environ, fmt.Sprintf("NETROOT_NVME=-t tcp -a %s -s %s -n %s", host, port, boot.NQN(im.Name)))
		}
	}
	return environ, nil
}

// reachable is an address at which a client on this host reaches a listener.
func reachable(l net.Listener) string {
	a := *l.Addr().(*net.TCPAddr)
	if a.IP.IsUnspecified() {
		a.IP = net.IPv4(127, 0, 0, 1)
	}
	return a.String()
}

// runCommand has a shell run the command, and returns its exit status as an error of our own. Whatever ends us ends it.
func (e *env) runCommand(ctx context.Context, command string, environ []string) error {
	// The kernel sends Pdeathsig when the thread ends that started the child, so that thread has to stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_, terminal := foreground(e.stdin)
	if terminal { // then its keys' signals are the command's
		restore := keepTerminal(e.stdin)
		defer restore()
		var stop func()
		ctx, stop = leaveKeysToCommand(ctx)
		defer stop()
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.Env = append(cmd.Environ(), environ...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = e.stdin, e.stdout, e.stderr
	// Elsewhere it gets a process group of its own, to be ended with all it started.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: !terminal}
	cmd.Cancel = func() error {
		if terminal {
			return cmd.Process.Signal(syscall.SIGTERM)
		}
		return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
	}
	cmd.WaitDelay = killAfter
	err := cmd.Run()
	ended := (*exec.ExitError)(nil)
	switch {
	case err != nil && ctx.Err() != nil:
		return ctx.Err()
	case !errors.As(err, &ended):
		return err
	}
	if status := ended.Sys().(syscall.WaitStatus); status.Signaled() {
		return &exitError{code: 128 + int(status.Signal())}
	}
	return &exitError{code: ended.ExitCode()}
}
