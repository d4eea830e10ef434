// Package distro knows what a root has of its own that does not fit a machine without a disk: which
// init it starts, which disks its fstab requires, and where its journal goes. Each function reads
// the root and says what the node should have instead; Root.Settle writes that.
//
// It is not about the network: what its services are told is package network's, and who the machine
// is package nodeinit's.
package distro

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// FindInit returns the program of the root at dir that takes over, as a path inside the root. asked
// is what init= names, or empty.
func FindInit(dir, asked string) (string, error) {
	candidates := []string{"/sbin/init", "/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/etc/init", "/bin/init", "/bin/sh"}
	if asked != "" {
		candidates = []string{asked}
	}
	for _, c := range candidates {
		if _, executable := target(dir, c); executable {
			return c, nil
		}
	}
	if asked != "" {
		return "", fmt.Errorf("init=%s is not in the root", asked)
	}
	return "", errors.New("the root has no init: none of " + strings.Join(candidates, " "))
}

// IsSystemd reports whether init, a path in the root at dir, is systemd, after all links.
func IsSystemd(dir, init string) bool {
	path, _ := target(dir, init)
	return filepath.Base(path) == "systemd"
}

// target follows path with dir as "/", and returns where it ends, which is empty if there is nothing,
// and whether that is a program.
func target(dir, path string) (end string, executable bool) {
	top, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", false
	}
	defer unix.Close(top)
	fd, err := unix.Openat2(top, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if errors.Is(err, unix.ENOSYS) { // before Linux 5.6: only the link itself can be checked
		at := filepath.Join(dir, path)
		if link, err := os.Readlink(at); err == nil {
			return link, true
		}
		_, err := os.Lstat(at)
		return path, err == nil
	}
	if err != nil {
		return "", false
	}
	defer unix.Close(fd)
	end, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return "", false
	}
	var st unix.Stat_t
	return end, unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Mode&0o111 != 0
}

// SystemdOnly reports whether a file below /run must not exist where another init runs: scripts
// test the directory to learn whether systemd does (sd_booted(3)).
func SystemdOnly(path string) bool {
	return path == sdBooted || strings.HasPrefix(path, sdBooted+"/")
}

const sdBooted = "run/systemd/system"

// HasHostname reports whether the root names the machine itself (hostname(5)).
func HasHostname(root *os.Root) bool {
	text, err := root.ReadFile("etc/hostname")
	if err != nil {
		return !os.IsNotExist(err) // not ours to judge
	}
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			return true
		}
	}
	return false
}

// Hostname is the name of a machine that neither DHCP nor the image names: never two machines have
// the same.
func Hostname(mac string) string {
	return "node-" + strings.ToLower(strings.ReplaceAll(mac, ":", ""))
}

// NetworkMark is a file that keeps Debian's /etc/init.d/networking from taking the interfaces down
// at shutdown. Without it the script looks for file systems by the name of their device, and knows
// NBD and NFS alone. Under systemd the unit of the script is told otherwise.
const NetworkMark = "etc/iscsi/iscsi.initramfs"

// NeedsNetworkMark reports whether the root has that script.
func NeedsNetworkMark(root *os.Root) bool {
	_, err := root.Stat("etc/init.d/networking")
	return err == nil
}

// JournalFile and its text keep the journal of systemd in /run, which has a limit: since version 259
// it is persistent by default, and what is persistent on an overlay takes memory without one. The
// name sorts behind those of distributions.
const (
	JournalFile = "run/systemd/journald.conf.d/99-netroot.conf"
	JournalText = "# the root is memory: see journald.conf(5)\n[Journal]\nStorage=volatile\n"
)

// HasJournal reports whether the image or a layer says itself where the journal goes.
func HasJournal(root *os.Root) bool {
	const main = "etc/systemd/journald.conf"
	files := []string{main}
	if d, err := root.Open(main + ".d"); err == nil {
		defer d.Close()
		names, _ := d.Readdirnames(-1)
		for _, name := range names {
			files = append(files, main+".d/"+name)
		}
	}
	return slices.ContainsFunc(files, func(name string) bool {
		text, err := root.ReadFile(name)
		return err == nil && setsStorage(string(text))
	})
}

func setsStorage(text string) bool {
	for line := range strings.Lines(text) {
		key, _, found := strings.Cut(line, "=")
		if found && strings.TrimSpace(key) == "Storage" {
			return true
		}
	}
	return false
}
