package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"netroot/internal/build"
	"netroot/internal/sandbox"
)

func execCmd(e *env) *cobra.Command {
	var binds []string
	cmd := &cobra.Command{
		Use:   "exec LABEL -- COMMAND [ARG]...",
		Short: "Run a command inside a label's tree",
		Long: `Exec runs a command inside the tree of a label, in the way %post is run: as root,
with /proc, /sys, /dev and /tmp of its own, the network of this host, and nothing
of this host's files but what --bind shows. What it writes stays in the tree, and
comes to machines with the next image: "netroot build --update LABEL" makes one.

No build, and no other command, gets at the tree meanwhile. The exit status is
the command's, 128 and the signal's number for one that a signal ended.`,
		Example: `  netroot exec debian12 -- apt-get install -y htop
  netroot exec debian12 --bind /srv/rpms:/mnt:ro -- ls /mnt
  netroot exec debian12 -- tar c /etc > etc.tar`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 || cmd.ArgsLenAtDash() > 1 {
				return usage(errors.New(`netroot exec wants a label, "--" and a command; see "netroot exec --help"`))
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
	cmd.Flags().StringArrayVar(binds, "bind", nil, "show `SRC:DST[:ro]`, a file or directory of this host, to "+who+"; DST must be there in the tree; may be repeated")
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
		return errors.New("working in a tree needs root, as building one does: run it with sudo")
	}
	tree, err := build.OpenTree(l.Tree, l.Name, verb)
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
	restore := keepTerminal(e.stdin)
	ctx, stop := leaveKeysToCommand(ctx)
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

// leaveKeysToCommand makes a context that Ctrl-C does not end: the command in
// the foreground gets the keys' signals itself. Other ends stay ends.
func leaveKeysToCommand(ctx context.Context) (context.Context, func()) {
	keys := make(chan os.Signal, 1) // that they are caught is all
	signal.Notify(keys, syscall.SIGINT, syscall.SIGQUIT)
	ctx, stop := signal.NotifyContext(context.WithoutCancel(ctx), syscall.SIGTERM, syscall.SIGHUP)
	return ctx, func() { stop(); signal.Stop(keys) }
}

// tellChanges says whether the tree still is what it was built to be.
func (e *env) tellChanges(tree *build.Tree, label, arg string) {
	changes, known, err := tree.Changes()
	switch {
	case err != nil:
		fmt.Fprintf(e.stderr, "netroot: cannot tell whether the tree has changed: %v\n", err)
	case !known:
		fmt.Fprintf(e.stderr, "netroot: nothing was noted down when the tree of %s was built, so changes cannot be told\n", label)
	case !changes.None():
		fmt.Fprintf(e.stderr, "netroot: the tree of %s is not what its image was made of: %s\n  \"netroot build --update %s\" makes an image of it as it is now\n", label, changes, arg)
	}
}
