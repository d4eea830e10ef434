package nodeinit

import (
	"bytes"
	"cmp"
	"context"
	"errors"
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
func (n *node) mountRoot(_ context.Context, out report.Step) (said string, err error) {
	var u undo
	defer func() { u.onError(err) }()
	m, err := n.rootMount(out)
	if err != nil {
		return "", err
	}
	target := newRoot
	if n.boot.Overlay.Enabled {
		target = liveImage
	}
	flags := strings.Join(n.boot.Root.MountOptions, ",")
	if n.root.Tree != nil {
		err = u.mount(m, target)
	} else {
		_, err = u.mountOr(out, m, target, "", "mount option of "+flags)
	}
	if err != nil {
		return "", err
	}
	switch {
	case !n.boot.Overlay.Enabled && m.Flags&unix.MS_RDONLY == 0:
		return fmt.Sprintf("%s, writable: what is written stays", m.FSType), nil
	case !n.boot.Overlay.Enabled:
		return fmt.Sprintf("%s read-only", m.FSType), nil
	}
	if said, err = n.addOverlay(out, &u, m.FSType); err != nil || !n.live() {
		return said, err
	}
	return said, n.keep(keeper.State{Net: n.net, Live: true})
}

// defaultSize is the most that the memory over the root takes, of that of the machine (tmpfs(5)).
const defaultSize = "50%"

func memoryOptions(size string) string { return "mode=0755,size=" + size }

// addOverlay puts memory over what is mounted at liveImage. Both are visible in the new root.
func (n *node) addOverlay(out report.Step, u *undo, fstype string) (string, error) {
	size := cmp.Or(n.boot.Overlay.Size, defaultSize)
	memory := attach.Mount{Source: "tmpfs", FSType: "tmpfs", Options: memoryOptions(size)}
	asked, err := u.mountOr(out, memory, liveCow, memoryOptions(defaultSize), "size of rootovl="+size)
	if err != nil {
		return "", err
	}
	if !asked {
		size = defaultSize
	}
	for _, dir := range []string{liveCow + "/upper", liveCow + "/work"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return "", err
		}
	}
	const options = "lowerdir=" + liveImage + ",upperdir=" + liveCow + "/upper,workdir=" + liveCow + "/work"
	if err := u.mount(attach.Mount{Source: "overlay", FSType: "overlay", Options: options}, newRoot); err != nil {
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

// mount mounts, making the target's directory. What the kernel does not have, or refuses because of
// how it was asked, is hopeless; a server that is away is another error.
func (u *undo) mount(m attach.Mount, target string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(m.Source, target, m.FSType, m.Flags, m.Options); err != nil {
		text := fmt.Errorf("mount %s on %s as %s: %w", m.Source, target, m.FSType, err)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) {
			return hopelessError{text}
		}
		return text
	}
	u.add(func() { unix.Unmount(target, unix.MNT_DETACH) })
	return nil
}

// mountOr mounts with m's options, which somebody wrote on the command line, or, where the kernel
// refuses them, with others. It reports whether m's options are in force, and names what was
// refused.
func (u *undo) mountOr(out report.Step, m attach.Mount, target, others, what string) (asked bool, err error) {
	if err = u.mount(m, target); err == nil || m.Options == others || !errors.Is(err, unix.EINVAL) {
		return err == nil, err
	}
	m.Options = others
	if u.mount(m, target) != nil {
		return false, err // it was not the options
	}
	out.Fault(fmt.Errorf("the kernel does not know a %s for %s: mounted without", what, m.FSType))
	return false, nil
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
func (n *node) rootMount(out report.Step) (attach.Mount, error) {
	if n.root.Tree != nil {
		return *n.root.Tree, nil
	}
	fstype, err := n.rootType(out)
	options, flags := mountOptions(n.boot.Root)
	return attach.Mount{Source: n.root.Device, FSType: fstype, Options: options, Flags: flags | unix.MS_RDONLY}, err
}

// mountOptions are those of the packed file system. For mount(2) those that every file system has
// are flags; it does not know their names.
func mountOptions(r handoff.Root) (options string, flags uintptr) {
	general := map[string]uintptr{
		"ro": 0, "rw": 0, "defaults": 0, "auto": 0, // a packed root is read-only
		"nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
		"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME,
	}
	var own []string
	for _, o := range r.MountOptions {
		flag, found := general[o]
		if !found {
			own = append(own, o)
		}
		flags |= flag
	}
	return strings.Join(own, ","), flags
}

// rootType is the type that root= names, or, if this kernel does not have it, that the device's
// first bytes show.
func (n *node) rootType(out report.Step) (string, error) {
	asked := n.boot.Root.FSType
	if asked == "" || asked == "auto" {
		return recognise(n.root.Device)
	}
	err := n.modules.Load(asked)
	if err == nil {
		return asked, nil
	}
	found, unknown := recognise(n.root.Device)
	if unknown != nil || found == asked {
		return "", err
	}
	out.Fault(fmt.Errorf("rootfstype=%s: %w; %s holds %s", asked, err, n.root.Device, found))
	return found, nil
}

// recognise tells squashfs (fs/squashfs/squashfs_fs.h) from EROFS (fs/erofs/erofs_fs.h).
func recognise(device string) (string, error) {
	head := make([]byte, 1028)
	f, err := os.Open(device)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := io.ReadFull(f, head); err != nil {
		return "", fmt.Errorf("read %s: %w", device, err)
	}
	switch {
	case bytes.HasPrefix(head, []byte("hsqs")):
		return "squashfs", nil
	case bytes.HasPrefix(head[1024:], []byte{0xe2, 0xe1, 0xf5, 0xe0}):
		return "erofs", nil
	}
	return "", hopelessError{fmt.Errorf("%s holds neither squashfs nor EROFS; name its type in root= or rootfstype=", device)}
}
