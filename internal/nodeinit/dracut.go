package nodeinit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"netroot/internal/handoff"
)

// Dracut is what the hooks of our dracut module call in an initramfs that dracut
// made. There dracut has the machine: it loads drivers, brings up the network,
// attaches and mounts most roots and switches. The rest is done here, by the
// same steps as in our own initramfs:
//
//	attach CMDLINE     attach the root by a transport that dracut has not, and print its device
//	pivot CMDLINE      lay memory and layers over the root that dracut mounted, and give it its identity
//	initiator CMDLINE  print the name of this node as an iSCSI initiator
//
// CMDLINE is the kernel command line with what dracut's own files add to it. A
// step is tried again for as long as it takes, or, with rd.shell, ends with its
// error: dracut has a shell of its own.
func Dracut(args []string, stdout io.Writer) error {
	if len(args) != 2 {
		return errors.New("want attach, pivot or initiator, and the kernel command line")
	}
	n := &node{log: openConsole(), guest: true}
	if args[0] != "initiator" {
		n.log.begin()
		defer n.log.end()
	}
	var err error
	if n.boot, err = handoff.ParseDracut(args[1]); err != nil {
		n.log.fail(args[0], err)
		return err
	}
	n.log.debug = n.boot.Debug
	ctx := context.Background()
	switch args[0] {
	case "attach":
		return n.dracutAttach(ctx, stdout)
	case "pivot":
		return n.dracutPivot(ctx)
	case "initiator":
		n.net = &netConfig{MAC: n.boot.BootMAC}
		if n.boot.BootMAC == "" && nobody(readTrimmed(productUUID)) {
			return errors.New("neither firmware nor BOOTIF= tells this node from another: dracut makes up a name")
		}
		_, err := fmt.Fprintln(stdout, n.initiator())
		return err
	}
	return fmt.Errorf("%q is no step: want attach, pivot or initiator", args[0])
}

func (n *node) dracutAttach(ctx context.Context, stdout io.Writer) error {
	if err := n.try(ctx, step{"network", n.findNetwork}); err != nil {
		return err
	}
	// The lease is dracut's until the pivot; then a keeper takes it.
	n.net.Lease = nil
	if err := n.try(ctx, step{"attach", n.attachRoot}); err != nil {
		return err
	}
	_, err := fmt.Fprintln(stdout, n.device)
	return err
}

func (n *node) dracutPivot(ctx context.Context) error {
	steps := []step{
		{"network", n.findNetwork},
		{"mount", n.coverRoot},
		{"layers", n.applyLayers},
		{"identity", n.settle},
		{"initiator", n.keepInitiator},
		{"keeper", n.keepDracut},
	}
	if n.boot.Root.Transport == "" { // a root of some other kind, perhaps without a network
		steps = steps[1:3]
	}
	for _, s := range steps {
		if err := n.try(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

// coverRoot lays memory over the root that is mounted at newRoot.
func (n *node) coverRoot(context.Context) (said string, err error) {
	if !n.boot.Overlay.Enabled {
		return "", nil
	}
	fstype, err := mountedType("/proc/self/mountinfo", newRoot)
	if err != nil {
		return "", err
	}
	if fstype == "overlay" {
		return "", nil // an earlier attempt got so far
	}
	// A mount whose parent is shared, as systemd has it, cannot be moved; the
	// switch of the root makes it private all the same.
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE, ""); err != nil {
		return "", fmt.Errorf("make / private: %w", err)
	}
	var u undo
	defer func() { u.onError(err) }()
	if err := moveMount(newRoot, liveImage); err != nil {
		return "", err
	}
	u.add(func() { moveMount(liveImage, newRoot) })
	// Nothing may write to what others read, and access times are writes.
	err = unix.Mount("", liveImage, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|unix.MS_NOATIME, "")
	if err != nil {
		return "", fmt.Errorf("make %s read-only: %w", liveImage, err)
	}
	return n.layOver(&u, fstype)
}

// mountedType is the file system type of what is mounted at a place, on top:
// proc_pid_mountinfo(5).
func mountedType(mountinfo, place string) (string, error) {
	text, err := os.ReadFile(mountinfo)
	if err != nil {
		return "", err
	}
	fstype := ""
	for line := range strings.Lines(string(text)) {
		mount, super, _ := strings.Cut(line, " - ")
		if f := strings.Fields(mount); len(f) > 4 && f[4] == place {
			if s := strings.Fields(super); len(s) > 0 {
				fstype = s[0]
			}
		}
	}
	if fstype == "" {
		return "", fmt.Errorf("nothing is mounted at %s", place)
	}
	return fstype, nil
}

// initiatorFile is where open-iscsi reads the node's name.
const initiatorFile = "etc/iscsi/initiatorname.iscsi"

// keepInitiator writes the name that the root's iSCSI session was begun with into
// the root. The one that the image holds is the same on every node, and two
// nodes of one name end each other's sessions.
func (n *node) keepInitiator(context.Context) (string, error) {
	name := readTrimmed("/run/initiatorname.iscsi")
	if n.boot.Root.Transport != handoff.ISCSI || name == "" || !n.writable() {
		return "", nil
	}
	root, err := os.OpenRoot(newRoot)
	if err != nil {
		return "", err
	}
	defer root.Close()
	if err := root.MkdirAll("etc/iscsi", 0o755); err != nil {
		return "", err
	}
	return name, replace(root, initiatorFile, name+"\n", 0o600)
}

// keepDracut has reads of the root wait for as long as its server is away, and
// starts the keeper for what nobody else keeps: the connection of an NBD root,
// and the lease, whose client dracut ends.
func (n *node) keepDracut(ctx context.Context) (said string, err error) {
	state, kept := keeperState{Net: n.net, Live: n.live()}, []string{}
	switch n.boot.Root.Transport {
	case handoff.NBD:
		if state.NBD, err = n.adoptNBD(ctx); err != nil {
			return "", err
		}
		kept = append(kept, state.NBD.path())
	case handoff.ISCSI:
		if err := waitForTargets("/sys/class/iscsi_session"); err != nil {
			return "", err
		}
	}
	if !state.needed() {
		return "", nil
	}
	if state.Live {
		kept = append(kept, "what is remembered of the tree")
	}
	if state.Net.Lease != nil {
		kept = append(kept, "the lease")
	}
	cmd, err := startKeeper(state)
	if err != nil {
		return "", err
	}
	if err := leaveService(cmd.Process.Pid); err != nil {
		dismiss(cmd)
		return "", fmt.Errorf("the keeper cannot leave the initramfs's service: %w", err)
	}
	return strings.Join(kept, " and ") + " in good hands", nil
}

// waitForTargets has the kernel wait for a lost target without end; its limit is
// two minutes. iscsid(8), in the root, logs in again. A value that is set in
// sysfs stays when iscsid sets its own (drivers/scsi/scsi_transport_iscsi.c,
// recovery_tmo_sysfs_override).
func waitForTargets(sessions string) error {
	files, err := filepath.Glob(filepath.Join(sessions, "*/recovery_tmo"))
	for _, f := range files {
		err = errors.Join(err, os.WriteFile(f, []byte("off"), 0))
	}
	return err
}

// leaveService moves a process out of the control group of the service that it
// was started from, which ends before the switch. Without systemd there is none.
func leaveService(pid int) error {
	for _, file := range []string{"/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/systemd/cgroup.procs"} {
		if _, err := os.Stat(file); err == nil {
			return os.WriteFile(file, []byte(fmt.Sprint(pid)), 0)
		}
	}
	return nil
}
