package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// enterHost gives the process a private copy of the host's mounts, with the /proc of its pid
// namespace.
func enterHost() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("separate the mounts from the host's: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

// enterTree makes the Tree the root of this mount namespace and of this process, and mounts the
// file systems that a command requires.
//
// It mounts everything after pivot_root, when a symbolic link in the Tree cannot lead out of it.
// The host is still reachable as the working directory until the last step unmounts it.
func enterTree(root string, binds []Bind) error {
	sources, err := bindSources(binds)
	if err != nil {
		return err
	}
	if err := refuseNoexec(root); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("separate the mounts from the host's: %w", err)
	}
	// pivot_root(2) requires a mount point.
	if err := unix.Mount(root, root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind the tree %s: %w", root, err)
	}
	host, err := os.Open("/")
	if err != nil {
		return err
	}
	defer host.Close()
	if err := os.Chdir(root); err != nil {
		return err
	}
	// With "." twice, the host's root is mounted on top of the Tree's: pivot_root(2),
	// "pivot_root(".", ".")".
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root to %s: %w", root, err)
	}
	if err := host.Chdir(); err != nil {
		return err
	}
	if err := mountSystem(); err != nil {
		return err
	}
	for i, b := range binds {
		if err := bind("."+sources[i], b.Target, b.ReadOnly); err != nil {
			return err
		}
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the host's file systems: %w", err)
	}
	return os.Chdir("/")
}

// moveRootAside changes the root of this process to another directory. The Tree's root stays its
// working directory, and becomes the root of the command. Maintainer scripts, ischroot(1) and the
// systemctl of EL 7 compare / with /proc/1/root. Because the two differ, they know that no init
// runs here, so they do not start services and do not fail without an init. For the kernel the
// command is not in a chroot: its root is that of the namespace.
func moveRootAside() error {
	if err := unix.Chroot("/dev"); err != nil {
		return fmt.Errorf("chroot to the private /dev: %w", err)
	}
	return nil
}

// protectTree makes the Tree read-only for the command, except for the directories that a machine
// running from it has in memory.
func protectTree() error {
	for target, mode := range map[string]string{"/run": "mode=0755", "/var/tmp": "mode=1777"} {
		if fi, err := os.Lstat(target); err != nil || !fi.IsDir() {
			continue
		}
		if err := unix.Mount("tmpfs", target, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, mode); err != nil {
			return fmt.Errorf("mount tmpfs on %s of the tree: %w", target, err)
		}
	}
	return remountTree(unix.MS_RDONLY)
}

// remountTree makes the Tree, which is this process's working directory, read-only or writable.
func remountTree(readOnly uintptr) error {
	var st unix.Statfs_t
	if err := unix.Statfs(".", &st); err != nil {
		return err
	}
	if err := unix.Mount("", ".", "", unix.MS_BIND|unix.MS_REMOUNT|readOnly|lockedFlags(st), ""); err != nil {
		return fmt.Errorf("remount the tree read-only or writable: %w", err)
	}
	return nil
}

// lockedFlags returns the flags of a mount that a remount must repeat: mount(2).
func lockedFlags(st unix.Statfs_t) uintptr {
	return uintptr(st.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME)
}

// mountSystem mounts proc, sys, dev and tmp.
func mountSystem() error {
	const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	mounts := []struct {
		fstype, target string
		flags          uintptr
		data           string
	}{
		{"proc", "/proc", quiet, ""},
		{"sysfs", "/sys", quiet | unix.MS_RDONLY, ""},
		{"tmpfs", "/dev", unix.MS_NOSUID, "mode=0755"},
		{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"},
		{"tmpfs", "/dev/shm", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"tmpfs", "/tmp", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	}
	for _, m := range mounts {
		if strings.HasPrefix(m.target, "/dev/") {
			if err := os.Mkdir(m.target, 0o755); err != nil {
				return err
			}
		}
		if err := unix.Mount(m.fstype, m.target, m.fstype, m.flags, m.data); err == unix.ENOENT {
			return fmt.Errorf("the tree has no directory %s: create it first", m.target)
		} else if err != nil {
			return fmt.Errorf("mount %s on %s of the tree: %w", m.fstype, m.target, err)
		}
	}
	if err := makeDevices(); err != nil {
		return err
	}
	return protectProc()
}

// protectProc keeps what /proc shows of the whole host, and not of the namespace, from being written
// or read: a sysctl of %post would otherwise change the kernel that runs the build. The entries are
// those that runc and Docker protect by default.
func protectProc() error {
	for _, target := range []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"} {
		if _, err := os.Lstat(target); errors.Is(err, fs.ErrNotExist) {
			continue // not every kernel has it
		}
		if err := bind(target, target, true); err != nil {
			return err
		}
	}
	for _, target := range []string{"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
		"/proc/scsi", "/proc/timer_list", "/sys/firmware", "/sys/devices/virtual/powercap"} {
		if err := cover(target); err != nil {
			return err
		}
	}
	return nil
}

// cover puts an empty directory over a directory, and /dev/null over a file. An entry that does not
// exist needs nothing.
func cover(target string) error {
	fi, err := os.Lstat(target)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && fi.IsDir() {
		err = unix.Mount("tmpfs", target, "tmpfs", unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=0,mode=0555")
	} else if err == nil {
		err = unix.Mount("/dev/null", target, "", unix.MS_BIND, "")
	}
	if err != nil {
		return fmt.Errorf("cover %s: %w", target, err)
	}
	return nil
}

// makeDevices makes the devices in the private /dev. Their numbers are in the kernel's
// Documentation/admin-guide/devices.txt.
func makeDevices() error {
	for _, d := range []struct {
		name         string
		major, minor uint32
	}{
		{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
	} {
		p := "/dev/" + d.name
		if err := unix.Mknod(p, unix.S_IFCHR, int(unix.Mkdev(d.major, d.minor))); err != nil {
			return fmt.Errorf("make %s: %w", p, err)
		}
		if err := os.Chmod(p, 0o666); err != nil { // mknod applied the umask
			return err
		}
	}
	for _, l := range [][2]string{
		{"pts/ptmx", "ptmx"}, {"/proc/self/fd", "fd"},
		{"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"}, {"/proc/self/fd/2", "stderr"},
	} {
		if err := os.Symlink(l[0], "/dev/"+l[1]); err != nil {
			return err
		}
	}
	return nil
}

// bindSources resolves the sources of the binds while the host's root is the root.
func bindSources(binds []Bind) ([]string, error) {
	var out []string
	for _, b := range binds {
		if !filepath.IsAbs(b.Target) {
			return nil, fmt.Errorf("bind %s: the target %q must be an absolute path in the tree", b.Source, b.Target)
		}
		p, err := filepath.Abs(b.Source)
		if err == nil {
			p, err = filepath.EvalSymlinks(p)
		}
		if err != nil {
			return nil, fmt.Errorf("bind onto %s: %w", b.Target, err)
		}
		out = append(out, p)
	}
	return out, nil
}

func bind(source, target string, readOnly bool) error {
	if _, err := os.Stat(target); err != nil {
		return fmt.Errorf("bind: the tree has no %s: create it in the recipe first", target)
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind onto %s: %w", target, err)
	}
	if !readOnly {
		return nil
	}
	// The flags of a bind mount require a second call.
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		return err
	}
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|lockedFlags(st), ""); err != nil {
		return fmt.Errorf("make the bind on %s read-only: %w", target, err)
	}
	return nil
}

func refuseNoexec(root string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return fmt.Errorf("%s: %w", root, err)
	}
	if st.Flags&unix.ST_NOEXEC != 0 {
		return fmt.Errorf("the tree %s lies on a file system mounted noexec: choose another directory for it", root)
	}
	return nil
}
