package nodeinit

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/handoff"
)

// attachNFS finds a server that answers. The rest is the kernel's: it mounts
// (mountRoot), asks again for as long as a server is away, and goes on.
func (n *node) attachNFS(ctx context.Context) (string, error) {
	if err := n.findNFS(ctx); err != nil {
		return "", err
	}
	said := fmt.Sprintf("%s of %s", n.boot.Root.Name, n.server)
	if n.live() {
		return said, nil // the keeper begins when there is an overlay
	}
	return said, n.keepAddress()
}

// live tells of an overlay over a tree that changes.
func (n *node) live() bool { return n.boot.Root.Transport == handoff.NFS && n.boot.Overlay.Enabled }

// attachNFSImage makes a read-only loop device of a packed root that lies on a server.
func (n *node) attachNFSImage(ctx context.Context) (string, error) {
	if err := n.findNFS(ctx); err != nil {
		return "", err
	}
	// The directory is mounted for as long as it takes to open the file: the loop
	// device keeps the file, and the file keeps the server's connection.
	const place = "/nfs-images"
	if err := os.MkdirAll(place, 0o755); err != nil {
		return "", err
	}
	dir, name := path.Split(n.boot.Root.Name)
	m := nfsMount(imageDirectory(n.boot.Root, path.Clean(dir)), n.server)
	if err := unix.Mount(m.source, place, m.fstype, m.flags, m.options); err != nil {
		return "", fmt.Errorf("mount %s as %s with %s: %w", m.source, m.fstype, m.options, err)
	}
	defer unix.Unmount(place, unix.MNT_DETACH)
	file, err := os.Open(path.Join(place, name))
	if err != nil {
		return "", err
	}
	defer file.Close()
	if n.device, err = attachLoop(ctx, file); err != nil {
		return "", err
	}
	said := fmt.Sprintf("%s is %s of %s", n.device, n.boot.Root.Name, n.server)
	return said, n.keepAddress()
}

// imageDirectory is the mount of the directory that a packed root lies in.
func imageDirectory(r handoff.Root, dir string) handoff.Root {
	out := handoff.Root{Transport: handoff.NFS, FSType: "nfs", Name: dir, MountOptions: []string{"ro", "vers=3", "tcp", "nolock"}}
	if r.Port != 0 { // one that is named answers for MOUNT, too; else a portmapper is asked
		port := strconv.Itoa(int(r.Port))
		out.MountOptions = append(out.MountOptions, "port="+port, "mountport="+port)
	}
	return out
}

// findNFS takes the first server that accepts a connection. The kernel would
// wait minutes for one that does not, without a word.
func (n *node) findNFS(ctx context.Context) error {
	addresses, err := n.addresses(ctx)
	if err != nil {
		return err
	}
	var failures []error
	for _, address := range addresses {
		d := net.Dialer{Timeout: 5 * time.Second}
		conn, err := d.DialContext(ctx, "tcp", address)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		conn.Close()
		n.server, _, err = net.SplitHostPort(address)
		return err
	}
	return errors.Join(failures...)
}

// nfsFlags are mount options that mount(2) takes as flags (mount(8)).
var nfsFlags = map[string]uintptr{
	"ro": unix.MS_RDONLY, "rw": 0, "defaults": 0, "_netdev": 0, "hard": 0,
	"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME,
	"nodev": unix.MS_NODEV, "nosuid": unix.MS_NOSUID, "noexec": unix.MS_NOEXEC,
}

// nfsMount is the mount of an NFS root. The kernel speaks MOUNT and NFS itself
// and is told the server's address (fs/nfs/fs_context.c); it retries for ever
// ("hard", its default). Without a word to the contrary the root is read-only.
func nfsMount(r handoff.Root, server string) mount {
	host := server
	if strings.Contains(server, ":") {
		host = "[" + server + "]"
	}
	m := mount{source: host + ":" + r.Name, fstype: r.FSType, flags: unix.MS_RDONLY}
	options := []string{"addr=" + server}
	for _, o := range r.MountOptions {
		flag, ok := nfsFlags[o]
		switch {
		case o == "rw":
			m.flags &^= unix.MS_RDONLY
		case ok:
			m.flags |= flag
		case o != "":
			options = append(options, o)
		}
	}
	m.options = strings.Join(options, ",")
	return m
}
