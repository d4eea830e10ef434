package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"netroot/internal/build"
	"netroot/internal/captive"
	"netroot/internal/sandbox"
)

func execCmd(e *env) *cobra.Command {
	var binds []string
	cmd := &cobra.Command{
		Use:   "exec LABEL|FILE.def -- COMMAND [ARG]...",
		Short: "Run a command inside a label's tree",
		Long: `Exec runs a command inside the tree of a label, in the same way as %post runs: as
root, with its own /proc, /sys, /dev and /tmp, with the network of this host, and
with the files of this host that --bind names. Its changes stay in the tree.
Machines get them with the next image, which "netroot build --update LABEL" makes.

No build and no other command can use the tree at the same time.

Exit status: that of the command, 128 and the signal's number if a signal ended it,
1 if the command could not be started, 2 usage or configuration.`,
		Example: `  netroot exec debian12 -- apt-get install -y htop
  netroot exec debian12 --bind /srv/rpms:/mnt:ro -- ls /mnt
  netroot exec debian12 -- tar c /etc > etc.tar`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 || cmd.ArgsLenAtDash() > 1 {
				return usage(errors.New(`netroot exec requires a label, "--" and a command; see "netroot exec --help"`))
			}
			return nil
		},
		ValidArgsFunction: e.completeLabels,
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.inTree(cmd.Context(), args[0], "exec", binds, func(*build.Tree, *sandbox.Sandbox) ([]string, error) {
				return args[1:], nil
			})
		},
	}
	registerBinds(cmd, &binds, "the command")
	return cmd
}

func registerBinds(cmd *cobra.Command, binds *[]string, who string) {
	cmd.Flags().StringArrayVar(binds, "bind", nil, "show `SRC:DST[:ro]`, a file or directory of this host, to "+who+"; DST must exist in the tree; may be repeated")
}

func parseBinds(list []string) ([]sandbox.Bind, error) {
	var binds []sandbox.Bind
	for _, text := range list {
		b, err := sandbox.ParseBind(text)
		if err != nil {
			return nil, fmt.Errorf("--bind: %w", err)
		}
		binds = append(binds, b)
	}
	return binds, nil
}

// inTree runs a command in a label's tree and says afterwards what has become of
// it. prepare adjusts the sandbox and names the command.
func (e *env) inTree(ctx context.Context, arg, verb string, binds []string, prepare func(*build.Tree, *sandbox.Sandbox) ([]string, error)) error {
	cfg, err := e.config()
	if err != nil {
		return err
	}
	l, err := label(cfg, arg)
	if err != nil {
		return err
	}
	mounts, err := parseBinds(binds)
	if err != nil {
		return usage(err)
	}
	if os.Geteuid() != 0 {
		return errors.New("work in a tree requires root, as a build does: run this command with sudo")
	}
	tree, err := build.OpenTree(l.Tree, l.Name, verb)
	if missing, ok := errors.AsType[*build.NoTreeError](err); ok {
		missing.Arg = arg
	}
	if err != nil {
		return err
	}
	defer tree.Close()
	s := tree.Sandbox()
	s.Name, s.Binds, s.Stdin, s.Stdout, s.Stderr = verb, mounts, e.stdin, e.stdout, e.stderr
	argv, err := prepare(tree, &s)
	if err != nil {
		return err
	}
	restore := captive.KeepTerminal(e.stdin)
	ctx, stop := captive.LeaveKeys(ctx)
	err = s.Run(ctx, argv)
	stop()
	restore()
	ran := (*sandbox.ExitError)(nil)
	if err != nil && !errors.As(err, &ran) {
		return err
	}
	e.tellChanges(tree, l.Name, arg)
	switch {
	case ran == nil:
		return nil
	case ran.Signal != 0:
		return &exitError{code: 128 + int(ran.Signal)}
	}
	return &exitError{code: ran.Code}
}

// tellChanges says whether the tree still is what it was built to be.
func (e *env) tellChanges(tree *build.Tree, label, arg string) {
	changes, known, err := tree.Changes()
	switch {
	case err != nil:
		e.say("cannot find out whether the tree has changed: %v", err)
	case !known:
		e.say("the build of the tree of %s left no record, so changes are not known", label)
	case !changes.None():
		since := "its image was made"
		if !tree.Imaged() {
			since = "it was built"
		}
		e.say("the tree of %s has changed since %s: %s\n  \"netroot build --update %s\" makes an image of it as it is now", label, since, changes, arg)
	}
}
