package main

import (
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"netroot/internal/build"
	"netroot/internal/sandbox"
)

func shellCmd(e *env) *cobra.Command {
	var binds []string
	cmd := &cobra.Command{
		Use:   "shell LABEL",
		Short: "Open a shell inside a label's tree",
		Long: `Shell opens a shell inside the tree of a label, in the way %post is run: as root,
with /proc, /sys, /dev and /tmp of its own, the network of this host, and nothing
of this host's files but what --bind shows. A write to /etc/hosts is one to the
tree's. The shell is the tree's bash, or else its sh.

What is changed stays in the tree, and comes to machines with the next image:
"netroot build --update LABEL" makes one. At the end it is said whether the tree
still is what its image was made of. No build, and no other shell, gets at the
tree meanwhile. The exit status is the shell's.`,
		Example: `  netroot shell debian12
  netroot shell debian12 --bind ~/packages:/mnt:ro
  echo 'passwd -l root' | netroot shell debian12`,
		Args:              oneArg("label"),
		ValidArgsFunction: e.completeLabels,
		RunE: func(cmd *cobra.Command, args []string) error {
			return e.inTree(cmd.Context(), args[0], "shell", binds, func(t *build.Tree, s *sandbox.Sandbox) ([]string, error) {
				shell, err := t.Shell()
				s.Env = append(s.Env, shellEnviron(args[0], shell)...)
				return []string{shell}, err
			})
		},
	}
	registerBinds(cmd, &binds, "the shell")
	return cmd
}

// shellEnviron says in the prompt where one is, in Debian's way and in the
// others', and keeps the history of commands out of the tree.
func shellEnviron(name, shell string) []string {
	return []string{"SHELL=" + shell, "debian_chroot=" + name, `PS1=(` + name + `) \w \$ `, "HISTFILE=/tmp/.history"}
}

// foreground reports whether stdin is a terminal of which we are the foreground.
func foreground(stdin io.Reader) (fd int, ok bool) {
	f, ok := stdin.(*os.File)
	if !ok {
		return 0, false
	}
	group, err := unix.IoctlGetInt(int(f.Fd()), unix.TIOCGPGRP)
	return int(f.Fd()), err == nil && group == unix.Getpgrp()
}

// keepTerminal notes the modes of a terminal that we are the foreground of. The
// function it returns sets both back: a command that was killed leaves raw
// modes, and a shell in a pid namespace of its own its dead group.
func keepTerminal(stdin io.Reader) (restore func()) {
	fd, ok := foreground(stdin)
	if !ok {
		return func() {} // no terminal, or another's
	}
	modes, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return func() {}
	}
	group := unix.Getpgrp()
	return func() {
		// Who is in the background is stopped for setting it, unless this signal is ignored: tcsetpgrp(3).
		signal.Ignore(syscall.SIGTTOU)
		defer signal.Reset(syscall.SIGTTOU)
		// A terminal that is gone needs no setting.
		_ = unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, group)
		_ = unix.IoctlSetTermios(fd, unix.TCSETS, modes)
	}
}
