package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"github.com/spf13/cobra"

	"netroot/internal/config"
	"netroot/internal/hostsfile"
)

func importCmd(e *env) *cobra.Command {
	var out string
	var force bool
	cmd := &cobra.Command{
		Use:   "import HOSTS-FILE",
		Short: "Turn a live_netroot_hosts file into netroot.yaml",
		Long: `Import reads live_netroot_hosts, the configuration of the shell scripts called
fedora-live-netroot, and writes it as a netroot.yaml: each label with its recipe,
its tree (NETROOT), rw, debug, kernel arguments and arguments for qemu.

Import does not run the file in a shell. It understands assignments, quotes, $NAME,
and "case $label in" with its patterns. If a label depends on anything else, such as
the output of a command, that is an error with the line. Import lists what it could
carry over only with a change, and checks the new file before it writes it.

Exit status: 0 done, 1 a failure, 2 usage, or the file cannot be understood.`,
		Example: `  netroot import live_netroot_hosts
  netroot import /srv/live/live_netroot_hosts -o /etc/netroot/netroot.yaml
  netroot import live_netroot_hosts -o -`,
		Args: oneArg("hosts file"),
		RunE: func(_ *cobra.Command, args []string) error { return e.importHosts(args[0], out, force) },
	}
	cmd.Flags().StringVarP(&out, "output", "o", "netroot.yaml", "`file` to write, \"-\" for standard output")
	cmd.Flags().BoolVar(&force, "force", false, "replace an existing file")
	return cmd
}

func (e *env) importHosts(path, out string, force bool) error {
	src, err := readText(path)
	if err != nil {
		return usage(err)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	hosts, err := hostsfile.Parse(path, filepath.Dir(abs), src)
	if err != nil {
		return usage(err)
	}
	target, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	text := []byte(hosts.YAML(filepath.Base(path), filepath.Dir(target)))
	if _, err := config.Parse(target, text); err != nil {
		return fmt.Errorf("what %s says cannot be a netroot.yaml: %w", path, err)
	}
	for _, n := range hosts.Notes {
		e.say("%s:%d: %s", path, n.Line, n.Text)
	}
	if out == "-" {
		_, err := e.stdout.Write(text)
		return err
	}
	if _, err := os.Lstat(target); err == nil && !force {
		return usage(fmt.Errorf("%s exists: --force replaces it, -o names another file", out))
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := renameio.WriteFile(target, text, 0o644); err != nil {
		return err
	}
	e.importedNext(out, hosts)
	return nil
}

// importedNext says what to do with what was imported.
func (e *env) importedNext(out string, hosts *hostsfile.File) {
	what, it, first := "the label "+hosts.Labels[0].Name, "it", hosts.Labels[0].Name
	if n := len(hosts.Labels); n > 1 {
		what, it = fmt.Sprintf("%d labels", n), "one"
	}
	e.say("%s has %s; \"netroot build %s\" builds %s, \"netroot vm %[3]s\" boots it", out, what, first, it)
	for _, l := range hosts.Labels {
		if info, err := os.Stat(cmp.Or(l.Tree, os.DevNull)); err == nil && info.IsDir() {
			e.say("the tree of %s exists: \"netroot build --update %[1]s\" packs it as it is", l.Name)
		}
	}
}
