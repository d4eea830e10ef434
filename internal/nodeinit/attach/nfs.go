package attach

import (
	"context"
	"fmt"
	"net"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/handoff"
	"netroot/internal/nodeinit/devices"
)

// attachNFS finds a server that accepts connections. The rest is the kernel's work: it mounts the
// tree, repeats its requests for as long as a server is away, and continues.
func attachNFS(ctx context.Context, r Request) (*Root, error) {
	server, err := r.findNFS(ctx)
	if err != nil {
		return nil, err
	}
	m := nfsMount(r.Root, server)
	return &Root{Tree: &m, Said: fmt.Sprintf("%s of %s", r.Root.Name, server)}, nil
}

// attachNFSImage makes a read-only loop device of a packed root that is a file on an NFS server.
func attachNFSImage(ctx context.Context, r Request) (*Root, error) {
	server, err := r.findNFS(ctx)
	if err != nil {
		return nil, err
	}
	// The directory is mounted only until the file is open: the loop device keeps the file, and the
	// file keeps the connection to the server.
	const place = "/nfs-images"
	if err := os.MkdirAll(place, 0o755); err != nil {
		return nil, err
	}
	dir, name := path.Split(r.Root.Name)
	m := nfsMount(imageDirectory(r.Root, path.Clean(dir)), server)
	if err := unix.Mount(m.Source, place, m.FSType, m.Flags, m.Options); err != nil {
		return nil, fmt.Errorf("mount %s as %s with %s: %w", m.Source, m.FSType, m.Options, err)
	}
	defer unix.Unmount(place, unix.MNT_DETACH)
	file, err := os.Open(path.Join(place, name))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	device, err := devices.AttachLoop(ctx, file)
	if err != nil {
		return nil, err
	}
	return &Root{Device: device, Said: fmt.Sprintf("%s is %s of %s", device, r.Root.Name, server),
		detach: func() error { return devices.DetachLoop(device) }}, nil
}

// imageDirectory describes the directory of a packed root as a root to mount.
func imageDirectory(r handoff.Root, dir string) handoff.Root {
	out := handoff.Root{Transport: handoff.NFS, FSType: "nfs", Name: dir, MountOptions: []string{"ro", "vers=3", "tcp", "nolock"}}
	if r.Port != 0 { // a port that is named serves MOUNT, too; otherwise a portmapper is asked
		port := strconv.Itoa(int(r.Port))
		out.MountOptions = append(out.MountOptions, "port="+port, "mountport="+port)
	}
	return out
}

// findNFS returns the address of the first server that accepts a connection. The kernel would wait
// minutes, silently, for one that does not.
func (r Request) findNFS(ctx context.Context) (string, error) {
	addresses, err := r.addresses(ctx)
	if err != nil {
		return "", err
	}
	return firstServer(addresses, func(address string) (string, error) {
		conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", address)
		if err != nil {
			return "", err
		}
		conn.Close()
		host, _, err := net.SplitHostPort(address)
		return host, err
	})
}

// nfsFlags are mount options that mount(2) expects as flags (mount(8)).
var nfsFlags = map[string]uintptr{
	"ro": unix.MS_RDONLY, "rw": 0, "defaults": 0, "_netdev": 0, "hard": 0,
	"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME,
	"nodev": unix.MS_NODEV, "nosuid": unix.MS_NOSUID, "noexec": unix.MS_NOEXEC,
}

// nfsMount is the mount of an NFS root. The kernel speaks MOUNT and NFS itself and expects the
// server's address (fs/nfs/fs_context.c); it repeats requests for ever ("hard", its default). The
// root is read-only unless the options say rw.
func nfsMount(r handoff.Root, server string) Mount {
	host := server
	if strings.Contains(server, ":") {
		host = "[" + server + "]"
	}
	m := Mount{Source: host + ":" + r.Name, FSType: r.FSType, Flags: unix.MS_RDONLY}
	options := []string{"addr=" + server}
	for _, o := range r.MountOptions {
		flag, ok := nfsFlags[o]
		switch {
		case o == "rw":
			m.Flags &^= unix.MS_RDONLY
		case ok:
			m.Flags |= flag
		case o != "":
			options = append(options, o)
		}
	}
	m.Options = strings.Join(options, ",")
	return m
}
