package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// innerName is argv[0] of the re-executed binary, by which Main knows its part, and the name that ps shows.
const innerName = "netroot-sandbox"

// controlFD is the inner process's end of the control socket: the first of exec.Cmd's ExtraFiles.
const controlFD = 3

// order is what the parent tells the inner process over the control socket, as one JSON value. Root empty means the
// host.
type order struct {
	Name   string
	Root   string
	Binds  []Bind
	Argv   []string
	Env    []string
	Dir    string
	Umask  os.FileMode
	Grace  time.Duration
	Script *scriptFile

	ReadOnly bool // the Tree, for the command
	NoSync   bool
}

// scriptFile is a script that exists for the time of the run.
type scriptFile struct{ Path, Body string }

// outcome is the inner process's answer. Without one it was killed.
type outcome struct {
	Err    string // the command could not be run
	Code   int
	Signal syscall.Signal
}

// launch starts the inner process, gives it the order, and waits for the outcome.
func launch(ctx context.Context, o order, stdin io.Reader, stdout, stderr io.Writer) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", o.Name, err)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("%s: only root can run commands in a tree: use sudo", o.Name)
	}
	if o.Umask == 0 {
		o.Umask = DefaultUmask
	}
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return fmt.Errorf("%s: %w", o.Name, err)
	}
	defer ours.Close()

	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{innerName, o.Name}
	cmd.Env = []string{}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC,
		Setpgid:    stdin == nil,
	}
	if o.Root != "" {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUTS
	}
	// The inner process itself keeps the grace period and then tidies up; only one that hangs is killed from here.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = o.Grace + 5*time.Second

	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return fmt.Errorf("%s: start the sandbox: %w", o.Name, err)
	}
	// A write error means that the inner process is gone already; its outcome, or the lack of one, tells more.
	_ = json.NewEncoder(ours).Encode(o)
	waitErr := cmd.Wait()
	var out outcome
	noAnswer := json.NewDecoder(ours).Decode(&out)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: %w", o.Name, ctx.Err())
	case noAnswer != nil:
		return fmt.Errorf("%s: the sandbox ended early: %w", o.Name, errors.Join(waitErr, noAnswer))
	case out.Err != "":
		return fmt.Errorf("%s: %s", o.Name, out.Err)
	case out.Code != 0 || out.Signal != 0:
		return &ExitError{Name: o.Name, Code: out.Code, Signal: out.Signal}
	case waitErr != nil: // the command succeeded, but its output could not be written
		return fmt.Errorf("%s: %w", o.Name, waitErr)
	}
	return nil
}

// socketPair returns both ends of the control socket. Neither is inherited by other children that this program
// starts: its closing is what tells the inner process that its parent is gone.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("control socket: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "sandbox control"), os.NewFile(uintptr(fds[1]), "sandbox control"), nil
}
