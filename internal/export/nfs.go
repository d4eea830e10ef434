package export

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"strings"
)

// Tree is a root filesystem as a directory, for the kernel's NFS server.
type Tree struct {
	Label    string
	Path     string         // absolute
	Clients  []netip.Prefix // who may mount; at least one
	RW       bool           // one node writes to it
	NoSquash bool           // a node's root is root on the tree, as it must be where it writes
	Insecure bool           // from ports above 1023, which a machine behind a user network comes from
	Private  []string       // paths in the tree that root alone can read, some of them
	Cmdline  []string       // of the plan that boots from it
}

// NFS is for exports(5): a file of /etc/exports.d. The kernel's server acknowledges nothing that is not on disk (sync), and
// knows the tree by a number of its own (fsid), so that handles outlive a move to another disk.
func NFS(t Tree) (Set, error) {
	if err := checkPath(t.Path); err != nil {
		return Set{}, err
	}
	if i := strings.IndexAny(t.Path, ":,"); i >= 0 {
		return Set{}, fmt.Errorf("the path %s has %q, which ends a path in root=nfs:SERVER:PATH:OPTIONS: have the tree where it has none", t.Path, t.Path[i])
	}
	if len(t.Clients) == 0 {
		return Set{}, fmt.Errorf("label %s: nobody may mount its tree yet: name the nodes' network, such as --clients 10.0.0.0/24", t.Label)
	}
	if t.RW && (len(t.Clients) != 1 || !t.Clients[0].IsSingleIP()) {
		return Set{}, fmt.Errorf("label %s: rw is for one node, because nodes would overwrite each other's files: name it, such as --clients 10.0.0.7", t.Label)
	}
	name := t.Label + ".exports"
	set := Set{
		Files: []File{{"exports.d/" + name, "/etc/exports.d/" + name, t.line() + "\n"}},
		Steps: []string{
			"Copy to the path named above, on the machine that has the tree at " + t.Path + ".",
			"exportfs -ra",
		},
		Boots: []Boot{{"", t.Cmdline}},
	}
	if !t.RW && !t.NoSquash && len(t.Private) > 0 {
		set.Steps = append(set.Steps, "Mind that nodes cannot read what is root's alone, as their root counts as nobody here (root_squash): "+
			strings.Join(t.Private, ", ")+".\nWithout /etc/shadow and /root few systems let anybody log in. --no-root-squash gives them read access, the export stays ro;\n--packed exports the image instead, to which it is no matter.")
	}
	return set, nil
}

// line is the tree's line in an exports file.
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

// fsid is a UUID that follows from what the tree is, so that every export of it has the same (RFC 9562, 5.8).
func fsid(t Tree) string {
	sum := sha256.Sum256([]byte("netroot tree\x00" + t.Label + "\x00" + t.Path))
	sum[6] = sum[6]&0x0f | 0x80
	sum[8] = sum[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}
