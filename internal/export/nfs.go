package export

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"strings"
)

// Tree is a root file system in a directory, for the kernel's NFS server.
type Tree struct {
	Label    string
	Path     string         // absolute path
	Clients  []netip.Prefix // machines that may mount it; at least one
	RW       bool           // the only node writes to it
	NoSquash bool           // root of a node is root on the tree, which is required for writing
	Insecure bool           // accept ports above 1023, as of qemu's user network
	Private  []string       // some of the paths in the tree that only root can read
	Cmdline  []string       // kernel arguments of the plan that boots from it
}

// NFS returns a file for /etc/exports.d: exports(5). The kernel's server acknowledges only data
// that is on disk (sync). It identifies the tree by a number (fsid), so that handles stay valid
// when the tree moves to another disk.
func NFS(t Tree) (Set, error) {
	if err := checkPath(t.Path); err != nil {
		return Set{}, err
	}
	if i := strings.IndexAny(t.Path, ":,"); i >= 0 {
		return Set{}, fmt.Errorf("the path %s contains %q, which ends the path in root=nfs:SERVER:PATH:OPTIONS: move the tree to a path without it", t.Path, t.Path[i])
	}
	if len(t.Clients) == 0 {
		return Set{}, fmt.Errorf("label %s: no machine may mount its tree: name the network of the nodes, for example --clients 10.0.0.0/24", t.Label)
	}
	if t.RW && (len(t.Clients) != 1 || !t.Clients[0].IsSingleIP()) {
		return Set{}, fmt.Errorf("label %s: rw allows only one node, because nodes would overwrite each other's files: name that node, for example --clients 10.0.0.7", t.Label)
	}
	name := t.Label + ".exports"
	set := Set{
		Files: []File{{"exports.d/" + name, "/etc/exports.d/" + name, t.line() + "\n"}},
		Steps: []string{
			"Copy the file to the path above, on the machine that has the tree at " + t.Path + ".",
			"exportfs -ra",
		},
		Boots: []Boot{{"", t.Cmdline}},
	}
	if !t.RW && !t.NoSquash && len(t.Private) > 0 {
		set.Steps = append(set.Steps, "Nodes cannot read files that only root can read, because root of a node is mapped to nobody (root_squash): "+
			strings.Join(t.Private, ", ")+".\nWithout /etc/shadow and /root, most systems do not allow a login. --no-root-squash gives nodes read access, and the\nexport stays ro; --packed exports the image instead, which has no such limit.")
	}
	return set, nil
}

// line returns the line for the tree in an exports file.
func (t Tree) line() string {
	options := []string{"ro", "sync", "no_subtree_check", "root_squash"}
	if t.RW {
		options[0] = "rw"
	}
	if t.RW || t.NoSquash {
		options[3] = "no_root_squash"
	}
	if t.Insecure {
		options = append(options, "insecure")
	}
	options = append(options, "fsid="+fsid(t))
	var clients []string
	for _, p := range t.Clients {
		clients = append(clients, network(p)+"("+strings.Join(options, ",")+")")
	}
	return t.Path + " " + strings.Join(clients, " ")
}

// fsid returns a UUID derived from the label and the path, so that every export of a tree has the
// same one (RFC 9562, 5.8).
func fsid(t Tree) string {
	sum := sha256.Sum256([]byte("netroot tree\x00" + t.Label + "\x00" + t.Path))
	sum[6] = sum[6]&0x0f | 0x80
	sum[8] = sum[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}
