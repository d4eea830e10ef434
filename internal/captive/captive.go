// Package captive runs a command for which servers run: the command finds in its environment where
// the servers have an image, and everything that ends the caller ends the command too.
//
// It starts no servers and knows no protocol beyond the form of its addresses.
package captive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"netroot/internal/boot"
	"netroot/internal/handoff"
)

// Addresses are the variables that name the packed root of an image to foreign clients:
// NETROOT_HTTP, NETROOT_NBD, NETROOT_ISCSI, NETROOT_NFS and NETROOT_NVME, each for a listener of
// that kind. The listeners are TCP's. Secure says that the NBD server speaks TLS alone.
func Addresses(im boot.Image, http net.Listener, roots map[handoff.Transport]net.Listener, secure bool) ([]string, error) {
	if im.Root.Digest == "" {
		return nil, fmt.Errorf("image %s has no packed root that a client could read", im.Name)
	}
	environ := []string{"NETROOT_HTTP=http://" + reachable(http) + boot.BlobPath + string(im.Root.Digest)}
	for t, l := range roots {
		at := reachable(l)
		host, port, err := net.SplitHostPort(at)
		if err != nil {
			return nil, err
		}
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
			file := boot.ImagesPath + im.Root.Digest.Hex()
			if strings.Contains(host, ":") {
				host = "[" + host + "]"
			}
			environ = append(environ, fmt.Sprintf("NETROOT_NFS=nfs://%s%s?version=3&nfsport=%s&mountport=%s", host, file, port, port))
		case handoff.NVMe:
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

// ExitError is the status of a command that did not end with 0, or 128 and the number of the signal
// that ended it.
type ExitError struct{ Status int }

func (e *ExitError) Error() string { return fmt.Sprintf("exit status %d", e.Status) }

// Command is a command of the shell, with what it inherits.
type Command struct {
	Line           string   // as /bin/sh -c takes it
	Environ        []string // beside our own environment
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// killAfter is how long a command has to end after it was told to.
const killAfter = 5 * time.Second

// Run runs the command to its end, or ends it when ctx ends: it gets SIGTERM, and SIGKILL after
// five seconds. With a terminal of which we are the foreground the keys' signals are the command's;
// without one the command has a process group of its own, all of which ends. It ends with us even
// if we are killed. The error is an *ExitError, that of ctx, or why the command could not be run.
func (c Command) Run(ctx context.Context) error {
	// The kernel sends Pdeathsig when the thread ends that started the child, so that thread has to
	// stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_, terminal := foreground(c.Stdin)
	if terminal {
		restore := KeepTerminal(c.Stdin)
		defer restore()
		var stop func()
		ctx, stop = LeaveKeys(ctx)
		defer stop()
	}
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", c.Line)
	cmd.Env = append(cmd.Environ(), c.Environ...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.Stdin, c.Stdout, c.Stderr
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
		return &ExitError{128 + int(status.Signal())}
	}
	return &ExitError{ended.ExitCode()}
}
