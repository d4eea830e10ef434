// Package foreign runs other people's servers of roots, nbd-server and tgtd, for as long as a machine wants them: on a free
// port of 127.0.0.1, with exactly the configuration that package export writes for a site.
//
// It configures no site and stops no server that it did not start. What it starts lives in a process namespace of its own
// and ends with it, daemons of daemons too, however this process ends.
package foreign

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/vm"
)

// Server is a running server of one root.
type Server struct {
	Addr netip.AddrPort
	Name string // of the program

	dir    string // of this run: configuration, sockets; the keeper removes it
	life   io.Closer
	output tail
	done   chan struct{}
}

const (
	readyLimit = 20 * time.Second // for a server to serve
	readyPoll  = 20 * time.Millisecond
	killDelay  = 5 * time.Second // after the keeper was told to end
)

// prepare makes the directory of a run, with one file in it, whose text may name the port that is found.
func prepare(name string, text func(netip.AddrPort) (string, error)) (*Server, error) {
	ports, err := vm.FreePorts(1)
	if err != nil {
		return nil, err
	}
	addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(ports[0]))
	content, err := text(addr)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "netroot-foreign-")
	if err != nil {
		return nil, fmt.Errorf("directory for a server: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	return &Server{Addr: addr, dir: dir, done: make(chan struct{})}, nil
}

// start starts the program in the keeper's hands (Main). It ends when ctx does, when Close is called, and when this
// process is no more: the keeper's standard input is a pipe of which nobody else has the other end.
func (s *Server) start(ctx context.Context, env []string, argv ...string) error {
	program, err := find(argv[0])
	if err != nil {
		os.RemoveAll(s.dir)
		return err
	}
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = append([]string{keeperName, s.dir, program}, argv[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = namespaces(unix.CLONE_NEWPID)
	cmd.SysProcAttr.Setpgid = true // Ctrl-C is for us
	cmd.Stdout, cmd.Stderr = &s.output, &s.output
	life, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	cmd.Cancel, cmd.WaitDelay = life.Close, killDelay
	if err := cmd.Start(); err != nil {
		os.RemoveAll(s.dir)
		return fmt.Errorf("start %s: %w", argv[0], explain(err))
	}
	s.life, s.Name = life, argv[0]
	go func() {
		cmd.Wait()
		close(s.done)
	}()
	return nil
}

// Description names the program and where it listens.
func (s *Server) Description() string { return s.Name + " on " + s.Addr.String() }

// Close ends the server and waits until nothing of it is left.
func (s *Server) Close() {
	s.life.Close()
	<-s.done
}

// Done is closed when the server has ended.
func (s *Server) Done() <-chan struct{} { return s.done }

// ready waits until try succeeds. A server that ends before is an error with its own words.
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

// namespaces are those that a child gets. Who is not root becomes it in a user namespace of the child's own.
func namespaces(flags uintptr) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Cloneflags: flags}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

func explain(err error) error {
	if os.Geteuid() != 0 && (errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EACCES)) {
		return fmt.Errorf("%w: this system gives namespaces to root alone: run it as root", err)
	}
	return err
}

const nfsPackage = "nfs-kernel-server (Debian, Ubuntu, SUSE) or nfs-utils (Fedora, EL)"

// packages name what brings a program.
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

// find finds a program, also where ordinary users do not look.
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

// tail keeps the end of what a server says.
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
