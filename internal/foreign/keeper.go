package foreign

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"

	"golang.org/x/sys/unix"
)

// keeperName is argv[0] of the process that controls a server: this program, executed again.
const keeperName = "netroot-foreign"

// Main is the keeper. Every main function and TestMain of a program that uses this package must
// call it first. In an ordinary process it returns at once; in a process that this package has
// started it never returns.
//
// The keeper is the first process of a process namespace. It starts the server, whose daemons
// become its children. It ends when it has no more children, or when its standard input ends; the
// namespace and all its processes end with it.
func Main() {
	if len(os.Args) < 3 || os.Args[0] != keeperName {
		return
	}
	os.Exit(keep(os.Args[1], os.Args[2:]))
}

// keep runs argv and finally removes dir. It returns the exit status of the program.
func keep(dir string, argv []string) int {
	defer os.RemoveAll(dir)
	// The signals are handled and not ignored, because the server would inherit ignored
	// signals. The pipe tells when to end.
	signal.Notify(make(chan os.Signal, 1), unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
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
