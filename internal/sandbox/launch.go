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

// innerName is argv[0] of the inner process. Main recognizes it, and ps shows it.
const innerName = "netroot-sandbox"

// controlFD is the inner process's end of the control socket: the first of exec.Cmd's ExtraFiles.
const controlFD = 3

// order is the message that the parent sends to the inner process over the control socket, as one
// JSON value. An empty Root means the host.
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

	ReadOnly bool // the command must not write to the Tree
	NoSync   bool
}

// scriptFile is a script that exists during the run.
type scriptFile struct{ Path, Body string }

// outcome is the answer of the inner process. If there is none, the inner process was killed.
type outcome struct {
	Err    string // error that kept the command from running
	Code   int
	Signal syscall.Signal
}

// launch starts the inner process, sends the order, and waits for the outcome.
func launch(ctx context.Context, o order, stdin io.Reader, stdout, stderr io.Writer) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", o.Name, err)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("%s: running commands in a tree requires root: use sudo", o.Name)
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
	// The inner process itself waits for the grace period and then cleans up. The parent kills
	// it only if it hangs.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = o.Grace + 5*time.Second

	err = cmd.Start()
	theirs.Close()
	if err != nil {
		return fmt.Errorf("%s: start the sandbox: %w", o.Name, err)
	}
	// A write error means that the inner process has already ended. Its outcome or exit status
	// is the better error.
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

// socketPair returns both ends of the control socket. Other children of this program inherit
// neither end, because its closing tells the inner process that the parent has died.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make the control socket: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "sandbox control"), os.NewFile(uintptr(fds[1]), "sandbox control"), nil
}
