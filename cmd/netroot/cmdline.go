package main

import (
	"fmt"
	"os"
	"strings"

	"netroot/internal/nodeinit/distro"
	"netroot/internal/site"
)

// tellCmdline prints what is wrong with kernel arguments, as far as their names and the label's tree
// tell: the node would find out last. A tree that is not there is not consulted.
func (e *env) tellCmdline(args []string, tree string) {
	problems := site.CheckCmdline(args)
	for _, arg := range args {
		if init, ok := strings.CutPrefix(arg, "init="); ok && init != "" && isDir(tree) {
			if _, err := distro.FindInit(tree, init); err != nil {
				problems = append(problems, fmt.Sprintf("kernel argument %s: the tree %s has no such program", arg, tree))
			}
		}
	}
	for _, p := range problems {
		fmt.Fprintln(e.stderr, "netroot: warning: "+p)
	}
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}
