package distro

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"netroot/internal/nodeinit/report"
)

// Root is a root before the switch to it.
type Root struct {
	Dir         string   // where it is mounted
	Files       *os.Root // the same
	Run         string   // what becomes its /run; empty: /run
	Init        string   // what init= names; empty: nothing
	Overlay     bool     // what is written into it is memory
	OverNetwork bool     // it is lost when the network is
	ISCSIMount  string   // where a disk of iSCSI under the root is mounted; empty: nowhere
}

// Settle writes the files that tell the root's programs, by their paths below /, what they may not
// do here, and takes the disks of an installed system out of its fstab. An error says that the root
// could be lost; what is not necessary is reported.
func (r Root) Settle(out report.Step, files map[string]string) error {
	files = maps.Clone(files)
	if r.Overlay && !HasJournal(r.Files) {
		files[JournalFile] = JournalText
	}
	systemd := r.StartsSystemd()
	for path, text := range files {
		if !systemd && SystemdOnly(path) {
			continue
		}
		if err := r.write(path, text); err != nil {
			return err
		}
	}
	if !systemd {
		r.settleScripts(out)
	}
	if err := r.keepMount(); err != nil {
		out.Fault(fmt.Errorf("open-iscsi may unmount %s: %w", r.ISCSIMount, err))
	}
	if err := r.fitFstab(out); err != nil {
		out.Fault(fmt.Errorf("/etc/fstab stays as it is: %w", err))
	}
	return nil
}

// StartsSystemd reports whether the root's init is systemd. A program that init= names may be a
// wrapper, and then starts the usual init.
func (r Root) StartsSystemd() bool {
	if r.Init != "" && IsSystemd(r.Dir, r.Init) {
		return true
	}
	usual, err := FindInit(r.Dir, "")
	return err == nil && IsSystemd(r.Dir, usual)
}

// settleScripts is for an init that runs scripts. What a layer, or the systemd of another
// initramfs, has where scripts look for systemd goes.
func (r Root) settleScripts(out report.Step) {
	booted := r.below(sdBooted)
	if _, err := os.Stat(booted); err == nil {
		out.Note("/" + sdBooted + " is removed: the init of the root is not systemd")
		if err := os.RemoveAll(booted); err != nil {
			out.Fault(err)
		}
	}
	if r.Overlay && r.OverNetwork && NeedsNetworkMark(r.Files) {
		if err := r.replace(NetworkMark, ""); err != nil {
			out.Fault(fmt.Errorf("the network may go before the root at shutdown: %w", err))
		}
	}
}

// keepMount names the disk under the root to Debian's open-iscsi, whose service unmounts what is
// mounted from iSCSI disks when it stops (/lib/open-iscsi/umountiscsi.sh).
func (r Root) keepMount() error {
	const name = "etc/default/open-iscsi"
	st, err := r.Files.Lstat(name)
	if !r.Overlay || r.ISCSIMount == "" || err != nil || !st.Mode().IsRegular() {
		return nil
	}
	text, err := r.Files.ReadFile(name)
	line := "\n# written by netroot at boot: the root is on this disk\n" +
		`EXCLUDE_MOUNTS_AT_SHUTDOWN="$EXCLUDE_MOUNTS_AT_SHUTDOWN ` + r.ISCSIMount + "\"\n"
	if err != nil || strings.Contains(string(text), line) {
		return err
	}
	return r.replace(name, string(text)+line)
}

// fitFstab replaces /etc/fstab: in the overlay, or, where the root must not change, by a mount.
func (r Root) fitFstab(out report.Step) error {
	const name, ours = "etc/fstab", "run/netroot/fstab"
	if st, err := r.Files.Lstat(name); err != nil || !st.Mode().IsRegular() {
		return nil // without one, or somebody else's business
	}
	text, err := r.Files.ReadFile(name)
	if err != nil {
		return err
	}
	fit := FitFstab(string(text), func(device string) bool {
		_, err := os.Stat(device)
		return err == nil
	})
	switch {
	case !fit.Changed():
		return nil
	case r.Overlay:
		err = r.replace(name, fit.Text)
	default:
		if err = r.write(ours, fit.Text); err == nil {
			err = unix.Mount(r.below(ours), filepath.Join(r.Dir, name), "", unix.MS_BIND, "")
		}
	}
	if err != nil {
		return err
	}
	if len(fit.Left) > 0 {
		out.Note("/etc/fstab: left out, because this machine has no such disk: " + strings.Join(fit.Left, ", "))
	}
	if len(fit.Optional) > 0 {
		out.Note("/etc/fstab: with nofail, because this machine may have no such disk: " + strings.Join(fit.Optional, ", "))
	}
	return nil
}

// below is where a path below /run is now.
func (r Root) below(path string) string {
	if r.Run == "" {
		return "/" + path
	}
	return filepath.Join(r.Run, strings.TrimPrefix(path, "run/"))
}

// write writes a file below /run and the directories above it.
func (r Root) write(path, text string) error {
	path = r.below(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

// replace writes a file into the root, in place of whatever has the name, even a link.
func (r Root) replace(name, text string) error {
	if err := r.Files.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := r.Files.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return r.Files.WriteFile(name, []byte(text), 0o644)
}
