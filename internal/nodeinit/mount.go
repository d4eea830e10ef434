package nodeinit

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"netroot/internal/handoff"
	"netroot/internal/nodeinit/attach"
	"netroot/internal/nodeinit/keeper"
	"netroot/internal/nodeinit/report"
)

// Where the parts of an overlaid root are, in the initramfs and afterwards in the root itself.
const (
	liveImage = "/live/image" // the packed root, read-only
	liveCow   = "/live/cow"   // the memory that is written to
)

// mountRoot mounts the root, and over it, with rootovl, memory to write to.
func (n *node) mountRoot(context.Context, report.Step) (said string, err error) {
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
	if err := u.mount(m.Source, target, m.FSType, m.Flags, m.Options); err != nil {
		return "", err
	}
	switch {
	case !n.boot.Overlay.Enabled && m.Flags&unix.MS_RDONLY == 0:
		return fmt.Sprintf("%s, writable: what is written stays", m.FSType), nil
	case !n.boot.Overlay.Enabled:
		return fmt.Sprintf("%s read-only", m.FSType), nil
	}
	if said, err = n.addOverlay(&u, m.FSType); err != nil || !n.live() {
		return said, err
	}
	return said, n.keep(keeper.State{Net: n.net, Live: true})
}

// addOverlay puts memory over what is mounted at liveImage. Both are visible in the new root.
func (n *node) addOverlay(u *undo, fstype string) (string, error) {
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
	const options = "lowerdir=" + liveImage + ",upperdir=" + liveCow + "/upper,workdir=" + liveCow + "/work"
	if err := u.mount("overlay", newRoot, "overlay", 0, options); err != nil {
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

// undo is what reverses a step that failed half way.
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

// onError reverses everything, the last first.
func (u *undo) onError(err error) {
	for _, back := range slices.Backward(*u) {
		if err == nil {
			return
		}
		back()
	}
}

// rootMount is how the root is mounted: a packed root always read-only.
func (n *node) rootMount() (attach.Mount, error) {
	if n.root.Tree != nil {
		return *n.root.Tree, nil
	}
	fstype, err := n.rootType()
	return attach.Mount{Source: n.root.Device, FSType: fstype, Options: mountOptions(n.boot.Root), Flags: unix.MS_RDONLY}, err
}

// mountOptions are those of the packed file system. For mount(2), ro is a flag.
func mountOptions(r handoff.Root) string {
	var opts []string
	for _, o := range r.MountOptions {
		if o != "ro" && o != "rw" {
			opts = append(opts, o)
		}
	}
	return strings.Join(opts, ",")
}

// rootType is the type that root= names, or that the device's first bytes show: squashfs
// (fs/squashfs/squashfs_fs.h) or EROFS (fs/erofs/erofs_fs.h).
func (n *node) rootType() (string, error) {
	if t := n.boot.Root.FSType; t != "" && t != "auto" {
		return t, n.modules.Load(t)
	}
	head := make([]byte, 1028)
	f, err := os.Open(n.root.Device)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := io.ReadFull(f, head); err != nil {
		return "", fmt.Errorf("read %s: %w", n.root.Device, err)
	}
	switch {
	case bytes.HasPrefix(head, []byte("hsqs")):
		return "squashfs", nil
	case bytes.HasPrefix(head[1024:], []byte{0xe2, 0xe1, 0xf5, 0xe0}):
		return "erofs", nil
	}
	return "", fmt.Errorf("%s holds neither squashfs nor EROFS; name its type in root= or rootfstype=", n.root.Device)
}
