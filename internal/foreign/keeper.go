package foreign

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"

	"golang.org/x/sys/unix"
)

// keeperName is argv[0] of the process that controls a server: this program, executed again.
const keeperName = "netroot-foreign"

// Main is the keeper. Every main function and TestMain of a program that uses this package must
// call it first. In an ordinary process it returns at once; in a process that this package has
// started it never returns.
//
// The keeper is the first process of a process namespace, and alone in a network namespace. It
// starts the server, whose daemons become its children, and connects clients to it (receive). It
// ends when it has no more children, or when its standard input ends; the namespaces and all their
// processes end with it.
func Main() {
	if len(os.Args) < 4 || os.Args[0] != keeperName {
		return
	}
	os.Exit(keep(os.Args[1], os.Args[2], os.Args[3:]))
}

// keep runs argv, which inherits so many more files, and finally removes dir. It returns the exit
// status of the program.
func keep(dir, files string, argv []string) int {
	defer os.RemoveAll(dir)
	// The signals are handled and not ignored, because the server would inherit ignored
	// signals. The pipe tells when to end.
	signal.Notify(make(chan os.Signal, 1), unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	more, err := strconv.Atoi(files)
	for i := range more {
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(3+i), "inherited"))
	}
	control, err2 := unixConn(os.Stdin)
	if err := errors.Join(err, err2, loopbackUp()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for _, f := range cmd.ExtraFiles {
		f.Close()
	}
	go func() {
		receive(control)
		unix.Kill(-1, unix.SIGKILL) // everything in the namespace but this process
	}()
	code := 0
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil: // no children are left
			return code
		case pid == cmd.Process.Pid:
			code = status.ExitStatus()
		}
	}
}

// loopbackUp sets up the only interface of a new network namespace, which is down at first.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("set up the loopback of a network namespace: %w", err)
	}
	return nil
}
