package handoff

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

// nfsModules are the kernel's NFS client. The kernel asks for the part that speaks a version of the
// protocol by itself (fs/nfs/client.c, get_nfs_version).
var nfsModules = []Module{
	{Name: "nfs", Option: "NFS_FS"},
	{Name: "nfsv3", Option: "NFS_V3"},
	{Name: "nfsv4", Option: "NFS_V4", Optional: true},
}

// Writable tells whether what a node writes reaches the root itself.
func (r Root) Writable() bool {
	return r.Transport == NFS && slices.Contains(r.MountOptions, "rw")
}

// parseNFS reads dracut's nfs:SERVER:PATH:OPTIONS, with options as in nfs(5).
func parseNFS(fstype string, f []string) (Root, error) {
	const form = "expected nfs:SERVER:/PATH:OPTIONS"
	r, err := servers(NFS, field(f, 0))
	if err != nil {
		return Root{}, fmt.Errorf("%w: %s", err, form)
	}
	if strings.HasPrefix(field(f, 0), "/") {
		return Root{}, errors.New("no server is named: " + form)
	}
	r.FSType, r.Name = fstype, field(f, 1)
	if err := checkNFSPath(r.Name); err != nil {
		return Root{}, fmt.Errorf("%w: %s", err, form)
	}
	if len(f) > 3 {
		return Root{}, fmt.Errorf("unexpected %q: %s", strings.Join(f[3:], ":"), form)
	}
	r.MountOptions = list(field(f, 2))
	return r, r.setNFSPort()
}

// setNFSPort reads the port that mount options name.
func (r *Root) setNFSPort() (err error) {
	r.Port = 0
	for _, o := range r.MountOptions {
		if port, ok := strings.CutPrefix(o, "port="); ok {
			r.Port, err = parsePort(port)
		}
	}
	return err
}

// parseNFSImage reads what follows live:nfs:// - servers, with a port behind the last, and the path
// of a packed root.
func parseNFSImage(where string) (Root, error) {
	const form = "expected live:nfs://SERVER:PORT/PATH/FILE"
	hosts, name, _ := strings.Cut(where, "/")
	f := splitColons(hosts)
	r, err := servers(NFSImage, f[0])
	if err == nil {
		r.Port, err = parsePort(field(f, 1))
	}
	if err == nil && len(f) > 2 {
		err = fmt.Errorf("%q is not a server and a port", hosts)
	}
	r.Name = "/" + name
	if err == nil {
		err = checkNFSPath(r.Name)
	}
	if err == nil && path.Dir(r.Name) == "/" {
		err = errors.New("no directory and file are named")
	}
	if err != nil {
		return Root{}, fmt.Errorf("%w: %s", err, form)
	}
	return r, nil
}

func checkNFSPath(name string) error {
	if !path.IsAbs(name) || path.Clean(name) != name {
		return fmt.Errorf("%q is not an absolute path", name)
	}
	return nil
}

// nfsRoot turns the other ways to say where an NFS root is into root=nfs:... They are
// SERVER:PATH:OPTIONS beside rootfstype=nfs, and, the kernel's own
// (Documentation/admin-guide/nfs/nfsroot.rst), root=/dev/nfs with nfsroot=SERVER:PATH,OPTIONS.
func (p *parser) nfsRoot(value string) string {
	word, _, _ := strings.Cut(value, ":")
	switch {
	case value == "/dev/nfs" && p.nfsroot != "":
		where, options, _ := strings.Cut(p.nfsroot, ",")
		return "nfs:" + where + ":" + options
	case (p.fstype == "nfs" || p.fstype == "nfs4") && word != "nfs" && word != "nfs4":
		return p.fstype + ":" + value
	}
	return value
}
