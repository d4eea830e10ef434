// Package foreign runs the root servers of other projects, nbd-server and tgtd, for as long as a
// machine requires them. A server has exactly the configuration that package export writes for a
// site, but the address: it serves the connections of a listener that the caller has.
//
// The package does not configure a site, does not stop servers that it did not start, and does not
// say who may connect: the listener does. A server runs in process and network namespaces of its
// own. Nothing reaches it but through the listener, and it ends with its namespace, including
// daemons that it starts, however this process ends.
package foreign

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Server is a running server of one root.
type Server struct {
	Addr netip.AddrPort // of the listener, and of the server in its namespace
	Name string         // name of the program

	dir      string // directory of this run with configuration and sockets; the keeper removes it
	listener net.Listener
	control  *net.UnixConn
	output   tail
	done     chan struct{}
}

const (
	readyLimit = 20 * time.Second // time for a server to become ready
	readyPoll  = 20 * time.Millisecond
	killDelay  = 5 * time.Second // time after the keeper was told to end
)

// prepare makes the directory of a run with one file. The text of the file may contain the address
// of the server.
func prepare(l net.Listener, name string, text func(netip.AddrPort) (string, error)) (*Server, error) {
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	content, err := text(addr)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "netroot-foreign-")
	if err != nil {
		return nil, fmt.Errorf("make a directory for the server: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return &Server{Addr: addr, dir: dir, listener: l, done: make(chan struct{})}, nil
}

// start starts the program under the keeper (Main). It ends when ctx ends, when Close is called,
// and when this process ends: the keeper's standard input is a socket whose other end only this
// process has.
func (s *Server) start(ctx context.Context, env []string, argv ...string) error {
	program, err := find(argv[0])
	if err != nil {
		os.RemoveAll(s.dir)
		return err
	}
	cmd := exec.CommandContext(ctx, program, argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // only this process handles Ctrl-C
	cmd.Stdout, cmd.Stderr = &s.output, &s.output
	cmd.WaitDelay = killDelay
	control, started, err := keepIn(cmd, s.dir)
	if err == nil {
		err = cmd.Start()
		started()
	}
	if err != nil {
		os.RemoveAll(s.dir)
		return fmt.Errorf("start %s: %w", argv[0], explain(err))
	}
	s.control, s.Name = control, argv[0]
	go forward(control, s.listener)
	go func() {
		cmd.Wait()
		s.listener.Close()
		control.Close()
		close(s.done)
	}()
	return nil
}

// keepIn has a command run under the keeper, in namespaces of its own, until the returned socket is
// closed or the command's context ends. The keeper finally removes dir. The caller calls started
// when the command has been started, or not.
func keepIn(cmd *exec.Cmd, dir string) (control *net.UnixConn, started func(), err error) {
	control, theirs, err := controlPair()
	if err != nil {
		return nil, nil, err
	}
	cmd.Args = append([]string{keeperName, dir, strconv.Itoa(len(cmd.ExtraFiles)), cmd.Path}, cmd.Args[1:]...)
	cmd.Path = "/proc/self/exe"
	cmd.Stdin = theirs
	namespaces(cmd.SysProcAttr, unix.CLONE_NEWPID|unix.CLONE_NEWNET)
	cmd.Cancel = control.Close
	return control, func() {
		theirs.Close()
		if cmd.Process == nil {
			control.Close()
		}
	}, nil
}

// Description returns the name of the program and its address.
func (s *Server) Description() string { return s.Name + " on " + s.Addr.String() }

// Close ends the server and waits until its processes and files are gone.
func (s *Server) Close() {
	s.control.Close()
	<-s.done
}

// Done returns a channel that is closed when the server has ended.
func (s *Server) Done() <-chan struct{} { return s.done }

// ready waits until try succeeds. If the server ends before, the error has its output.
func (s *Server) ready(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	tick := time.NewTicker(readyPoll)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
			continue
		case <-s.done:
			err = errors.New("ended at once")
		case <-ctx.Done():
			s.Close()
		}
		return fmt.Errorf("%s: %w%s", s.Name, err, s.output.indented())
	}
}

// namespaces gives a child namespaces. A user who is not root becomes root in a user namespace of
// the child.
func namespaces(attr *syscall.SysProcAttr, flags uintptr) {
	attr.Cloneflags |= flags
	if os.Geteuid() != 0 {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
}

func explain(err error) error {
	if os.Geteuid() != 0 && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EACCES)) {
		return fmt.Errorf("%w: this system allows only root to make namespaces: run the command as root", err)
	}
	return err
}

const nfsPackage = "nfs-kernel-server (Debian, Ubuntu, SUSE) or nfs-utils (Fedora, EL)"

// packages has the package that contains a program.
var packages = map[string]string{
	"nbd-server": "nbd-server (Debian, Ubuntu) or nbd (Fedora, EL, SUSE)",
	"rpcbind":    "rpcbind",
	"rpc.nfsd":   nfsPackage,
	"rpc.mountd": nfsPackage,
	"exportfs":   nfsPackage,
	"tgtd":       "tgt (Debian, Ubuntu) or scsi-target-utils (Fedora, EL)",
	"tgtadm":     "tgt (Debian, Ubuntu) or scsi-target-utils (Fedora, EL)",
	"tgt-admin":  "tgt (Debian, Ubuntu) or scsi-target-utils (Fedora, EL)",
}

// find finds a program, also in directories that only root's PATH has.
func find(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed: install %s", name, packages[name])
}

// tail keeps the last part of a server's output.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if n := len(t.text); n > tailSize {
		t.text = t.text[n-tailSize:]
	}
	return len(p), nil
}

func (t *tail) indented() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	text := strings.TrimSpace(string(t.text))
	if text == "" {
		return ""
	}
	return "\n    " + strings.ReplaceAll(text, "\n", "\n    ")
}
