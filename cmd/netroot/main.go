// Command netroot builds the root filesystem of diskless machines from a
// recipe, keeps every build as an immutable image, and boots machines from it
// over the network. It is wiring only: each verb has a file of its own here and
// does its work in a package under internal.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"netroot/internal/foreign"
	"netroot/internal/sandbox"
)

// Exit codes, named in the help of the root command.
const (
	exitOK     = 0
	exitFailed = 1   // the work failed; the message says why
	exitUsage  = 2   // the command line or the configuration is wrong
	exitSignal = 128 // and the number of the signal that ended us
)

// version is set by the linker.
var version = "unknown"

// env is what a verb needs from the process around it. Tests make their own.
type env struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	configFile     string // --config, empty: search
	stateDir       string // --state, empty: from the configuration
	answered       bool   // --json has printed its document
}

func main() {
	sandbox.Main() // does not return in the processes that run inside a tree
	foreign.Main() // nor in those that keep somebody else's server
	// What a tree, an image or an export holds does not depend on the shell that makes it. What is private is
	// made with a mode of its own.
	unix.Umask(0o022)
	ctx, stop := untilSignal(context.Background())
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	e := &env{stdin: stdin, stdout: stdout, stderr: stderr}
	root := newRoot(e)
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	switch status := (*exitError)(nil); {
	case err == nil:
		return exitOK
	case errors.As(err, &status):
		if status.err != nil {
			e.fail(cmd, args, status.err)
		}
		return status.code
	case ctx.Err() != nil:
		end := endOf(ctx)
		e.fail(cmd, args, end)
		return end.code()
	default:
		e.fail(cmd, args, err)
		return exitFailed
	}
}

// exitError carries an exit code of its own; a nil err means that what there
// was to say has been said.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usage marks err as the caller's mistake: exit code 2.
func usage(err error) error {
	if err == nil {
		return nil
	}
	return &exitError{code: exitUsage, err: err}
}

func newRoot(e *env) *cobra.Command {
	root := &cobra.Command{
		Use:   "netroot",
		Short: "Build the root filesystem of diskless machines and boot them over the network",
		Long: `netroot builds the root filesystem of diskless machines from a recipe, keeps
every build as an immutable image, and boots any number of machines from it.

Exit status: 0 done, 1 the work failed, 2 the command line or the configuration
is wrong, 130 ended by SIGINT, 143 ended by SIGTERM. "netroot vm --run" and
"netroot serve --run" exit with the status of their command.`,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(flagError)
	root.PersistentFlags().StringVar(&e.configFile, "config", "", "configuration `file` (default: netroot.yaml here, then /etc/netroot/netroot.yaml)")
	root.PersistentFlags().StringVar(&e.stateDir, "state", "", "`directory` of trees, images and logs (default: the configuration's, then /var/lib/netroot)")
	root.AddCommand(buildCmd(e), shellCmd(e), execCmd(e), vmCmd(e), serveCmd(e), imageCmd(e), imagesCmd(e), planCmd(e), showCmd(e), layerCmd(e), cacheCmd(e), diffCmd(e), importCmd(e), exportCmd(e), versionCmd(e))
	e.completeFlags(root)
	setHelp(root)
	return root
}
