// Package distro knows what a root has of its own that does not fit a machine without a disk: which
// init it starts, which disks its fstab requires, and where its journal goes. Each function reads
// the root, or text of it, and says what the node should have instead.
//
// It decides and does not act: package nodeinit writes the files. What the network services are
// told is package network's.
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

// IsSystemd reports whether init, a path in the root at dir, is systemd. A link is followed in the
// root, as far as it goes.
func IsSystemd(dir, init string) bool {
	return filepath.Base(target(dir, init)) == "systemd"
}

// target is the path of a file after all links, with dir as "/"; "" if there is no such file.
func target(dir, path string) string {
	top, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(top)
	fd, err := unix.Openat2(top, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if errors.Is(err, unix.ENOSYS) { // before Linux 5.6: the link itself has to do
		if link, err := os.Readlink(filepath.Join(dir, path)); err == nil {
			return link
		}
		return path
	}
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	found, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if err != nil {
		return ""
	}
	return found
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
