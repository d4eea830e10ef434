package sandbox

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Main is the inner process of the sandbox. Every main function and TestMain of a program that uses
// this package must call it first. In an ordinary process it returns at once; in a process that
// this package has started it never returns.
func Main() {
	if len(os.Args) == 0 || os.Args[0] != innerName {
		return
	}
	control := os.NewFile(controlFD, "sandbox control")
	closeOnExec()
	signals := make(chan os.Signal, 8)
	// The signals are handled and not ignored, because an ignored signal would stay ignored in
	// the command. Interrupts from the terminal reach the command directly.
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGQUIT, unix.SIGHUP)

	orders := json.NewDecoder(control)
	var o order
	if err := orders.Decode(&o); err != nil {
		// The parent is gone, or this is not its child: no one can receive an error.
		unix.Exit(1)
	}
	orphaned := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, control)
		close(orphaned)
	}()
	out, err := carryOut(o, signals, orphaned)
	if err != nil {
		out.Err = err.Error()
	}
	if json.NewEncoder(control).Encode(out) != nil {
		unix.Exit(1)
	}
	// Unlike os.Exit this runs no exit hooks. Those of a program that measures its coverage would
	// write into the tree, or a warning to the standard error of the command.
	unix.Exit(0)
}

// closeOnExec keeps the control socket from the command, and also files that the program which
// started the parent left open without the close-on-exec flag.
func closeOnExec() {
	open, _ := os.ReadDir("/proc/self/fd")
	for _, e := range open {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd >= controlFD {
			unix.CloseOnExec(fd)
		}
	}
}

// carryOut carries out the order: file systems, script, command, restore. It restores the Tree's
// own files only when no process of the command is left.
func carryOut(o order, signals <-chan os.Signal, orphaned <-chan struct{}) (out outcome, err error) {
	unix.Umask(int(o.Umask.Perm()))
	if o.Root == "" {
		err = enterHost()
	} else {
		host := readHostFiles()
		if err = enterTree(o.Root, o.Binds); err == nil {
			putBack, stageErr := stageFiles(host)
			defer func() { err = errors.Join(err, putBack()) }()
			err = stageErr
			if err == nil && o.ReadOnly {
				err = protectTree()
				defer func() { err = errors.Join(err, remountTree(0)) }()
			}
		}
	}
	if err != nil {
		return out, err
	}
	if o.Script != nil {
		if err := writeScript(*o.Script); err != nil {
			return out, err
		}
		// In a Tree the script is on the private /dev, which ends with the namespace.
		if o.Root == "" {
			defer func() { err = errors.Join(err, os.Remove(o.Script.Path)) }()
		}
	}
	pid, err := start(o)
	if err != nil {
		return out, err
	}
	ws := supervise(pid, o.Grace, signals, orphaned)
	if ws.Signaled() {
		return outcome{Code: -1, Signal: ws.Signal()}, nil
	}
	return outcome{Code: ws.ExitStatus()}, nil
}

func writeScript(s scriptFile) error {
	// O_EXCL: on the host, everyone can write to the directory.
	f, err := os.OpenFile(s.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return fmt.Errorf("write the script of the section: %w", err)
	}
	_, err = f.WriteString(s.Body)
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write the script of the section: %w", err)
	}
	return nil
}

// start starts the command and returns its pid.
func start(o order) (int, error) {
	prog, err := lookPath(o)
	if err != nil {
		return 0, err
	}
	attr := &syscall.ProcAttr{Dir: cmp.Or(o.Dir, "/"), Env: o.Env, Files: []uintptr{0, 1, 2}}
	if fi, err := os.Stat(attr.Dir); err != nil || !fi.IsDir() {
		return 0, fmt.Errorf("working directory %s is not a directory", attr.Dir)
	}
	if o.Root != "" {
		if err := moveRootAside(); err != nil {
			return 0, err
		}
		attr.Sys = &syscall.SysProcAttr{Chroot: "."}
	}
	if o.NoSync {
		// The command inherits the filter of the thread that starts it. The thread is not
		// unlocked again.
		runtime.LockOSThread()
		holdBackSyncs()
	}
	pid, err := syscall.ForkExec(prog, o.Argv, attr)
	switch {
	case errors.Is(err, syscall.ENOEXEC):
		return 0, fmt.Errorf("%s: exec format error: the file is for another architecture than this host's %s, or is a script without a #! line",
			prog, runtime.GOARCH)
	case errors.Is(err, syscall.ENOENT): // lookPath has found the program itself
		return 0, fmt.Errorf("%s: the dynamic loader or interpreter that the program requires is missing", prog)
	case err != nil:
		return 0, fmt.Errorf("%s: %w", prog, err)
	}
	return pid, nil
}

// lookPath finds the program in the command's PATH.
func lookPath(o order) (string, error) {
	name := o.Argv[0]
	for _, kv := range o.Env {
		if path, ok := strings.CutPrefix(kv, "PATH="); ok {
			if err := os.Setenv("PATH", path); err != nil {
				return "", err
			}
		}
	}
	prog, err := exec.LookPath(name)
	switch {
	case err != nil && o.Root == "":
		return "", err
	case err != nil && o.Script != nil:
		return "", fmt.Errorf("the tree has no %s to run the section: install a shell (dash, bash or busybox) into the tree first", name)
	case err != nil:
		return "", fmt.Errorf("the tree has no program %s in PATH=%s", name, os.Getenv("PATH"))
	}
	return prog, nil
}

// supervise waits until the command and every other process of the namespace have ended, and
// returns the status of the command. As the first process of its pid namespace it inherits all
// orphans. kill(-1) reaches every process of the namespace except this one.
func supervise(pid int, grace time.Duration, signals <-chan os.Signal, orphaned <-chan struct{}) syscall.WaitStatus {
	ended, empty := make(chan syscall.WaitStatus, 1), make(chan struct{})
	go reap(pid, ended, empty)

	var status syscall.WaitStatus
	var timeout <-chan time.Time
	for {
		select {
		case status = <-ended:
			if timeout == nil {
				_ = unix.Kill(-1, unix.SIGKILL)
			} else {
				// The command's children also get time to end; some may have
				// started after the first SIGTERM.
				_ = unix.Kill(-1, unix.SIGTERM)
			}
		case sig := <-signals:
			if sig != unix.SIGTERM || timeout != nil {
				continue
			}
			_ = unix.Kill(-1, unix.SIGTERM)
			timeout = time.After(grace)
		case <-timeout:
			_ = unix.Kill(-1, unix.SIGKILL)
		case <-orphaned:
			orphaned = nil
			_ = unix.Kill(-1, unix.SIGKILL)
		case <-empty:
			select {
			case status = <-ended:
			default:
			}
			return status
		}
	}
}

// reap waits for processes until none is left.
func reap(pid int, ended chan<- syscall.WaitStatus, empty chan<- struct{}) {
	for {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil: // ECHILD
			close(empty)
			return
		case got == pid:
			ended <- ws
		}
	}
}
