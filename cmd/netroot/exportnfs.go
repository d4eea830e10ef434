package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"netroot/internal/boot"
	"netroot/internal/export"
	"netroot/internal/handoff"
)

// exportNFSFlags are the flags of "netroot export nfs".
type exportNFSFlags struct {
	exportFlags
	packed, noSquash, forVM bool
}

func exportNFSCmd(e *env) *cobra.Command {
	var f exportNFSFlags
	cmd := &cobra.Command{
		Use:   "nfs LABEL",
		Short: "Entry of exports.d for a label's tree",
		Long: `Writes an entry for the kernel's NFS server: the label's tree, read-only, to the
networks of --clients or of the configuration, or, where the label says rw, to one
node alone, which writes to it.

With root_squash, the default, a node's root counts as nobody on the server. It
then cannot read files that are root's alone, such as /etc/shadow, which the
export names where it finds them; --no-root-squash gives that access.

With --packed it is the directory of packed roots, from which nodes mount one as
a file (the transport nfs-image): what is root's alone is no matter there, and
metadata is the node's own.`,
		Example: `  netroot export nfs debian12 --server 10.0.0.1 --clients 10.0.0.0/24
  netroot export nfs debian12 --server 10.0.0.1 --clients 10.0.0.0/24 -o /srv/netroot
  netroot export nfs debian12 --server 10.0.0.1 --clients 10.0.0.0/24 --packed -o /srv/netroot`,
		Args:              oneArg("label"),
		ValidArgsFunction: e.completeLabels,
		RunE:              func(_ *cobra.Command, args []string) error { return e.exportNFS(args[0], f) },
	}
	f.register(cmd, true)
	cmd.Flags().BoolVar(&f.packed, "packed", false, "the packed root as a file instead of the tree")
	cmd.Flags().BoolVar(&f.noSquash, "no-root-squash", false, "let a node's root read what is root's alone")
	cmd.Flags().BoolVar(&f.forVM, "for-vm", false, "accept ports above 1023 (insecure), as machines behind qemu's user network have them")
	return cmd
}

func (e *env) exportNFS(ref string, f exportNFSFlags) error {
	x, err := e.exported(ref, f.exportFlags)
	if err != nil {
		return err
	}
	clients, err := x.clientsOf()
	if err != nil {
		return err
	}
	t := export.Tree{Label: x.im.Label, Clients: clients, NoSquash: f.noSquash, Insecure: f.forVM}
	transport, elsewhere := handoff.NFS, boot.Elsewhere{}
	switch {
	case f.packed:
		if elsewhere.Path, err = x.root(); err != nil {
			return err
		}
		t.Label, t.Path, transport = "images", filepath.Dir(elsewhere.Path), handoff.NFSImage
	case x.label == nil:
		return usage(fmt.Errorf("no configuration names the label %s, and with it its tree: --packed exports the image instead", x.im.Label))
	default:
		t.Path, t.RW = x.label.Tree, x.label.RW
		if t.Private, err = privatePaths(t.Path); err != nil {
			return fmt.Errorf("the tree of %s: %w", x.im.Label, err)
		}
		elsewhere.Path = t.Path
	}
	plan, err := x.plan(transport, elsewhere)
	if err != nil {
		return err
	}
	t.Cmdline = plan.Cmdline
	set, err := export.NFS(t)
	if err != nil {
		return usage(err)
	}
	return e.put(x.f, set)
}

// privatePaths are paths of the tree that root alone can read or search: the first of them, and how many more.
func privatePaths(tree string) ([]string, error) {
	const shown = 6
	var found []string
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if err != nil && !(path != tree && errors.Is(err, fs.ErrPermission)) {
			return err
		}
		info, ierr := d.Info()
		if ierr != nil {
			return nil // removed meanwhile
		}
		need := os.FileMode(0o004)
		switch {
		case d.IsDir():
			need = 0o005
		case !d.Type().IsRegular():
			return nil
		}
		if st, ok := info.Sys().(*syscall.Stat_t); !ok || st.Uid != 0 || info.Mode()&need == need {
			return nil
		}
		rel, _ := filepath.Rel(tree, path)
		found = append(found, "/"+rel)
		if d.IsDir() {
			return filepath.SkipDir
		}
		return nil
	})
	if more := len(found) - shown; more > 0 {
		found = append(found[:shown], fmt.Sprintf("and %d more", more))
	}
	return found, err
}
