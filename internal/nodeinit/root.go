package nodeinit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"netroot/internal/handoff"
)

// Where the parts of an overlaid root are, in the initramfs and afterwards in
// the root itself.
const (
	liveImage = "/live/image" // the packed root, read only
	liveCow   = "/live/cow"   // the memory that takes the writes
)

// attachRoot brings the device that the packed root is on, by the transport that
// root= names.
func (n *node) attachRoot(ctx context.Context) (string, error) {
	attach := map[handoff.Transport]func(context.Context) (string, error){
		handoff.NBD:      n.attachNBD,
		handoff.NVMe:     n.attachNVMe,
		handoff.ISCSI:    n.attachISCSI,
		handoff.NFS:      n.attachNFS,
		handoff.NFSImage: n.attachNFSImage,
		handoff.HTTP:     n.attachHTTP,
	}[n.boot.Root.Transport]
	if attach == nil {
		return "", fmt.Errorf("root=%s: this initramfs has no transport %s", n.boot.Root, n.boot.Root.Transport)
	}
	return attach(ctx)
}

// waitDevice waits for a block device to be there and to have a size.
func waitDevice(ctx context.Context, path string) error {
	size := "/sys/class/block/" + filepath.Base(path) + "/size"
	return poll(ctx, 20*time.Second, path, func() (bool, error) {
		_, err := os.Stat(path)
		sectors := readTrimmed(size)
		return err == nil && sectors != "0" && sectors != "", nil
	})
}

// addresses are those of the root's servers, each once, made of their names now:
// where they are used later, nobody is there to ask. A name that has none is
// told of, and is an error when it was the last.
func (n *node) addresses(ctx context.Context) ([]string, error) {
	var out []string
	var failures []error
	for _, hp := range n.boot.Root.Addresses() {
		host, port, err := net.SplitHostPort(hp)
		if err != nil {
			return nil, err
		}
		found, err := net.DefaultResolver.LookupHost(ctx, host)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		if address := net.JoinHostPort(found[0], port); !slices.Contains(out, address) {
			out = append(out, address)
		}
	}
	if len(out) == 0 {
		return nil, errors.Join(failures...)
	}
	for _, err := range failures {
		n.log.fail("attach", err)
	}
	return out, nil
}

func mib[T int64 | uint64](bytes T) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

// mountRoot mounts the root, and over it, with rootovl, memory to write to.
func (n *node) mountRoot(context.Context) (said string, err error) {
	var u undo
	defer func() { u.onError(err) }()
	m, err := n.rootMount()
	if err != nil {
		return "", err
	}
	target := newRoot
	if n.boot.Overlay.Enabled {
		target = liveImage
	}
	if err := u.mount(m.source, target, m.fstype, m.flags, m.options); err != nil {
		return "", err
	}
	switch {
	case !n.boot.Overlay.Enabled && m.flags&unix.MS_RDONLY == 0:
		return fmt.Sprintf("%s, writable: what is written stays", m.fstype), nil
	case !n.boot.Overlay.Enabled:
		return fmt.Sprintf("%s read-only", m.fstype), nil
	}
	if said, err = n.layOver(&u, m.fstype); err != nil || !n.live() {
		return said, err
	}
	return said, n.keepAddress()
}

// layOver puts memory over what is mounted at liveImage. Both show in the new root.
func (n *node) layOver(u *undo, fstype string) (string, error) {
	size := n.boot.Overlay.Size
	if size == "" {
		size = "50%"
	}
	if err := u.mount("tmpfs", liveCow, "tmpfs", 0, "mode=0755,size="+size); err != nil {
		return "", err
	}
	for _, dir := range []string{liveCow + "/upper", liveCow + "/work"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
	}
	if err := u.mount("overlay", newRoot, "overlay", 0, "lowerdir="+liveImage+",upperdir="+liveCow+"/upper,workdir="+liveCow+"/work"); err != nil {
		return "", err
	}
	for _, dir := range []string{liveImage, liveCow} {
		if err := moveMount(dir, newRoot+dir); err != nil {
			return "", err
		}
		u.add(func() { moveMount(newRoot+dir, dir) })
	}
	return fmt.Sprintf("%s under an overlay in memory, at most %s", fstype, size), nil
}

// undo is what takes a step back that failed half way.
type undo []func()

func (u *undo) add(back func()) { *u = append(*u, back) }

// mount mounts, making the target's directory.
func (u *undo) mount(source, target, fstype string, flags uintptr, options string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, fstype, flags, options); err != nil {
		return fmt.Errorf("mount %s on %s as %s: %w", source, target, fstype, err)
	}
	u.add(func() { unix.Unmount(target, unix.MNT_DETACH) })
	return nil
}

// onError goes back, the last step first.
func (u *undo) onError(err error) {
	for _, back := range slices.Backward(*u) {
		if err == nil {
			return
		}
		back()
	}
}

// mount is what mount(2) takes.
type mount struct {
	source, fstype, options string
	flags                   uintptr
}

// rootMount is how the root is mounted: a packed one always read-only.
func (n *node) rootMount() (mount, error) {
	if n.boot.Root.Transport == handoff.NFS {
		return nfsMount(n.boot.Root, n.server), nil
	}
	fstype, err := n.rootType()
	return mount{n.device, fstype, mountOptions(n.boot.Root), unix.MS_RDONLY}, err
}

// mountOptions are those of the packed file system; ro is a flag, not an option.
func mountOptions(r handoff.Root) string {
	var opts []string
	for _, o := range r.MountOptions {
		if o != "ro" && o != "rw" {
			opts = append(opts, o)
		}
	}
	return strings.Join(opts, ",")
}

// rootType is what root= says, or what the device's first bytes say:
// squashfs (fs/squashfs/squashfs_fs.h) or EROFS (fs/erofs/erofs_fs.h).
func (n *node) rootType() (string, error) {
	if t := n.boot.Root.FSType; t != "" && t != "auto" {
		return t, n.modules.load(t)
	}
	head := make([]byte, 1028)
	f, err := os.Open(n.device)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := io.ReadFull(f, head); err != nil {
		return "", fmt.Errorf("read %s: %w", n.device, err)
	}
	switch {
	case bytes.HasPrefix(head, []byte("hsqs")):
		return "squashfs", nil
	case bytes.HasPrefix(head[1024:], []byte{0xe2, 0xe1, 0xf5, 0xe0}):
		return "erofs", nil
	}
	return "", fmt.Errorf("%s holds neither squashfs nor EROFS; name its type in root= or rootfstype=", n.device)
}
