package bootvm

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// session is a machine that answers questions in turn and may be rebooted in between. Each question
// is a separate login.
type session struct {
	*booted
	t    *testing.T
	ctx  context.Context
	key  string // file with the private key for the login
	port string // port of 127.0.0.1
}

// session boots the machine without a script.
func (m machine) session(ctx context.Context, t *testing.T) *session {
	t.Helper()
	needTools(t, "ssh", "ssh-keygen")
	s := &session{t: t, ctx: ctx, key: filepath.Join(t.TempDir(), "key")}
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", s.key).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen: %v\n%s", err, out)
	}
	_, s.port, _ = net.SplitHostPort(freePort(t))
	s.booted = m.launch(ctx, t, "--ssh-port", s.port, "--set-key", s.key)
	return s
}

// sshFailed is ssh's exit status when it could not log in or was disconnected (ssh(1)).
const sshFailed = 255

// try runs a script once.
func (s *session) try(ctx context.Context, script string) (out string, status int) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "ssh", "-p", s.port, "-i", s.key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=10", "-o", "LogLevel=ERROR", "root@127.0.0.1", script)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return stdout.String(), cmd.ProcessState.ExitCode()
}

// ask runs a script as soon as the machine accepts a login, and returns its output. The script's
// status must be 0.
func (s *session) ask(script string) string {
	s.t.Helper()
	pause := time.NewTicker(time.Second)
	defer pause.Stop()
	for {
		out, status := s.try(s.ctx, script)
		if status == 0 {
			return out
		}
		if status != sshFailed {
			s.end()
			s.t.Fatalf("status %d of %q, which printed %q: %s", status, script, out, s.wait().all())
		}
		select {
		case <-pause.C:
		case <-s.ended:
			s.t.Fatalf("the machine has ended: %s", s.wait().all())
		case <-s.ctx.Done():
			s.t.Fatalf("no login: %s", s.wait().all())
		}
	}
}

// alone asks a machine that has nothing cached, while its server does not run: the whole "netroot
// vm" is stopped, but qemu, which forwards the port, continues. Before the answer, the machine
// prints which connections it has besides this one. Without one, it loses nothing when the server
// is gone for good.
func (s *session) alone(script string) string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, 3*time.Minute)
	defer cancel()
	server := s.cmd.Process
	defer server.Signal(syscall.SIGCONT)
	if err := errors.Join(server.Signal(syscall.SIGSTOP), unix.Waitid(unix.P_PID, server.Pid, nil, unix.WSTOPPED, nil)); err != nil {
		s.t.Fatal(err)
	}
	out, status := s.try(ctx, "ss -Htn state established 'sport != :22'; echo 3 > /proc/sys/vm/drop_caches\n"+script)
	if status != 0 {
		s.t.Errorf("with its server stopped, status %d of %q", status, script)
	}
	return out
}

// greet waits for the machine's first login.
func (s *session) greet() {
	s.t.Helper()
	line := s.ask(greeting)
	s.row.loggedIn(time.Since(s.started), strings.TrimSpace(line))
}

// reboot reboots the machine, and waits until it is back.
func (s *session) reboot() time.Duration {
	s.t.Helper()
	before := s.ask("cat /proc/sys/kernel/random/boot_id")
	s.try(s.ctx, "systemctl reboot")
	began := time.Now()
	for s.ask("cat /proc/sys/kernel/random/boot_id") == before {
		continue
	}
	return time.Since(began)
}

// powerOff makes the machine power off.
func (s *session) powerOff() result {
	s.try(s.ctx, "systemctl poweroff")
	return s.wait()
}
