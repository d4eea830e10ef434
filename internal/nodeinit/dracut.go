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
	"netroot/internal/nodeinit/attach"
	"netroot/internal/nodeinit/devices"
	"netroot/internal/nodeinit/keeper"
	"netroot/internal/nodeinit/network"
	"netroot/internal/nodeinit/report"
)

// Dracut is called by the hooks of our dracut module, in an initramfs that dracut made. There
// dracut owns the machine: it loads drivers, brings up the network, attaches and mounts most roots,
// and switches to them. The rest is done here, by the same steps as in our own initramfs:
//
//	attach CMDLINE     attach the root by a transport that dracut does not have, and print its device
//	pivot CMDLINE      put memory and layers over the root, and give it the identity of this node
//	initiator CMDLINE  print the name of this node as an iSCSI initiator
//
// CMDLINE is the kernel command line together with dracut's own files. A step is tried again until
// it succeeds, or, with rd.shell, ends with its error: dracut has a shell of its own. If the root
// cannot be attached for minutes, or its layers cannot be fetched, the machine restarts for a new
// plan.
func Dracut(args []string, stdout io.Writer) error {
	if len(args) != 2 {
		return errors.New("expected attach, pivot or initiator, and the kernel command line")
	}
	n := newNode()
	n.guest = true
	out := report.Step{Name: args[0], To: n.to}
	if args[0] != "initiator" {
		n.console.Open()
		defer n.console.Close()
	}
	var err error
	if n.boot, err = handoff.ParseDracut(args[1]); err != nil {
		out.Fault(err)
		return err
	}
	n.console.Debug = n.boot.Debug
	ctx := context.Background()
	switch args[0] {
	case "attach":
		return n.orRestart(out, n.dracutAttach(ctx, stdout))
	case "pivot":
		return n.orRestart(out, n.dracutPivot(ctx))
	case "initiator":
		n.net = &network.Config{MAC: n.boot.BootMAC}
		if n.boot.BootMAC == "" {
			return errors.New("without BOOTIF= nothing is sure to tell this node from others: dracut makes up a name")
		}
		_, err := fmt.Fprintf(stdout, "InitiatorName=%s\n", attach.InitiatorName(n.hostID()))
		return err
	}
	return fmt.Errorf("%q is not a step: expected attach, pivot or initiator", args[0])
}

// orRestart restarts the machine if err says that it requires a new plan, and returns err
// otherwise: it is dracut's to handle.
func (n *node) orRestart(out report.Step, err error) error {
	if p := (*planError)(nil); errors.As(err, &p) {
		out.Fault(err)
		n.restart(out, p.reason, err)
	}
	return err
}

func (n *node) dracutAttach(ctx context.Context, stdout io.Writer) error {
	if err := n.try(ctx, step{name: "network", run: n.findNetwork}); err != nil {
		return err
	}
	// The lease is dracut's until the pivot, and a keeper's afterwards.
	n.net.Lease = nil
	if err := n.try(ctx, step{name: "attach", run: n.attachRoot, needsPlan: report.AttachFailed}); err != nil {
		return err
	}
	_, err := fmt.Fprintln(stdout, n.root.Device)
	return err
}

func (n *node) dracutPivot(ctx context.Context) error {
	steps := []step{
		{name: "network", run: n.findLease},
		{name: "mount", run: n.coverRoot},
		n.layersStep(),
		{name: "identity", run: n.giveIdentity},
		{name: "initiator", run: n.keepInitiator},
		{name: "keeper", run: n.keepDracut},
	}
	if n.boot.Root.Transport == "" { // a root of another kind, perhaps without a network
		steps = steps[1:3]
	}
	for _, s := range steps {
		if err := n.try(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (n *node) findNetwork(_ context.Context, out report.Step) (said string, err error) {
	if n.net, err = network.FromDracut(n.boot, out); err != nil {
		return "", err
	}
	return n.net.String(), nil
}

// findLease finds the network, and what DHCP offers to the root.
func (n *node) findLease(ctx context.Context, out report.Step) (said string, err error) {
	if n.net, err = network.FromDracut(n.boot, out); err != nil {
		return "", err
	}
	n.net.AskAgain(ctx, n.boot, out)
	return n.net.String(), nil
}

// coverRoot puts memory over the root that is mounted at newRoot.
func (n *node) coverRoot(_ context.Context, out report.Step) (said string, err error) {
	if !n.boot.Overlay.Enabled {
		return "", nil
	}
	fstype, err := mountedType("/proc/self/mountinfo", newRoot)
	if err != nil {
		return "", err
	}
	if fstype == "overlay" {
		return "", nil // an earlier attempt came this far
	}
	// A mount whose parent is shared, as systemd makes it, cannot be moved. The switch of the root
	// makes it private in any case.
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
	return n.addOverlay(out, &u, fstype)
}

// mountedType is the file system type of the topmost mount at a place: proc_pid_mountinfo(5).
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

// keepInitiator writes the name by which the root's iSCSI session was opened into the root. The
// name in the image is the same on every node, and two nodes of one name end each other's sessions.
func (n *node) keepInitiator(context.Context, report.Step) (string, error) {
	name := devices.Attribute("/run/initiatorname.iscsi")
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
	return name, replaceFile(root, initiatorFile, name+"\n", 0o600)
}

// keepDracut makes reads of the root wait for as long as its server is away, and starts the keeper
// for what nothing else keeps: the connection of an NBD root, and the lease, whose client dracut
// ends.
func (n *node) keepDracut(ctx context.Context, out report.Step) (said string, err error) {
	state, kept := keeper.State{Net: n.net, Live: n.live()}, []string{}
	switch n.boot.Root.Transport {
	case handoff.NBD:
		if state.NBD, err = attach.AdoptNBD(ctx, attach.Request{Root: n.boot.Root, HostID: n.hostID(), Report: out}); err != nil {
			return "", err
		}
		kept = append(kept, state.NBD.Path())
	case handoff.ISCSI:
		if err := waitForTargets("/sys/class/iscsi_session"); err != nil {
			return "", err
		}
	}
	if !state.Needed() {
		return "", nil
	}
	if state.Live {
		kept = append(kept, "the freshness of the tree")
	}
	if state.Net.Lease != nil {
		kept = append(kept, "the lease")
	}
	p, err := keeper.Start(state, newRoot)
	if err != nil {
		return "", err
	}
	if err := leaveService(p.PID()); err != nil {
		p.Dismiss()
		return "", fmt.Errorf("the keeper cannot leave the service of the initramfs: %w", err)
	}
	return strings.Join(kept, " and ") + ": a keeper has taken over", nil
}

// waitForTargets makes the kernel wait for a lost target without a limit; its default is two
// minutes. iscsid(8), in the root, logs in again. A value that is set in sysfs stays when iscsid
// sets its own (drivers/scsi/scsi_transport_iscsi.c, recovery_tmo_sysfs_override).
func waitForTargets(sessions string) error {
	files, err := filepath.Glob(filepath.Join(sessions, "*/recovery_tmo"))
	for _, f := range files {
		err = errors.Join(err, os.WriteFile(f, []byte("off"), 0))
	}
	return err
}

// leaveService moves a process out of the control group of the service that started it, which ends
// before the switch. Without systemd there is none.
func leaveService(pid int) error {
	for _, file := range []string{"/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/systemd/cgroup.procs"} {
		if _, err := os.Stat(file); err == nil {
			return os.WriteFile(file, []byte(fmt.Sprint(pid)), 0)
		}
	}
	return nil
}
