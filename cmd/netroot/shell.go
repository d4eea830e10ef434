package main

import (
	"github.com/spf13/cobra"

	"netroot/internal/build"
	"netroot/internal/sandbox"
)

func shellCmd(e *env) *cobra.Command {
	var binds []string
	cmd := &cobra.Command{
		Use:   "shell LABEL|FILE.def",
		Short: "Open a shell inside a label's tree",
		Long: `Shell opens a shell inside the tree of a label, in the same way as %post runs: as
root, with its own /proc, /sys, /dev and /tmp, with the network of this host, and
with the files of this host that --bind names. A write to /etc/hosts changes the
tree's file. The shell is the tree's bash, or its sh if there is no bash.

Changes stay in the tree. Machines get them with the next image, which "netroot
build --update LABEL" makes. When the shell ends, netroot tells whether the tree
still is what its image was made of. No build and no other shell can use the tree
at the same time.

Exit status: that of the shell, 128 and the signal's number if a signal ended it, 1
if the shell could not be started, 2 usage or configuration.`,
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
