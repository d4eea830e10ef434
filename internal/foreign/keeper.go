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

// keeperName is argv[0] of the process that keeps a server: this program, executed again.
const keeperName = "netroot-foreign"

// Main is the keeper. Every main function and TestMain of a program that uses this package calls it first: in an ordinary
// process it returns at once; in one that this package started it never returns.
//
// The keeper is the first process of a process namespace. It starts the server, whose daemons become its children, and
// ends when it has no more, or when its standard input does; with it the namespace ends and all that is in it.
func Main() {
	if len(os.Args) < 3 || os.Args[0] != keeperName {
		return
	}
	os.Exit(keep(os.Args[1], os.Args[2:]))
}

// keep runs argv and removes dir in the end. It returns the program's exit status.
func keep(dir string, argv []string) int {
	defer os.RemoveAll(dir)
	// Handled, not ignored: what is ignored stays so in the server. Its end comes by the pipe.
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
		case err != nil: // no children any more
			return code
		case pid == cmd.Process.Pid:
			code = status.ExitStatus()
		}
	}
}
