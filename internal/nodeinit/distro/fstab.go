package distro

import (
	"path"
	"slices"
	"strings"
)

// Fstab is a file fstab(5) for a machine without the disks of the system that it was written for.
type Fstab struct {
	Text     string
	Left     []string // mount points, and "swap", of lines that were left out
	Optional []string // mount points of lines that got nofail
}

// Changed reports whether the text differs from the original.
func (f Fstab) Changed() bool { return len(f.Left)+len(f.Optional) > 0 }

// FitFstab leaves out what a system with a disk has on it: the root, /usr, /boot and what is below,
// and swap. Their devices do not exist here, and systemd would wait for each of them for 90 s and
// then start emergency mode. Lines with other mount points on disks are made optional, because the
// machine may have such a disk: it is mounted when it appears, and nothing waits for it.
//
// A line that says what should happen without its device (nofail, noauto, automounts) stays as it
// is, as does one for a device that exists, or of a network.
func FitFstab(text string, exists func(device string) bool) Fstab {
	var f Fstab
	var b strings.Builder
	for line := range strings.Lines(text) {
		e, ok := parseEntry(line)
		switch {
		case !ok || !e.needsDisk(exists):
			b.WriteString(line)
		case e.ofSystem():
			f.Left = append(f.Left, e.name())
			b.WriteString("# left out at boot by netroot: " + line)
		default:
			f.Optional = append(f.Optional, e.name())
			b.WriteString(e.optional())
		}
	}
	f.Text = b.String()
	return f
}

// entry is one line of fstab(5): device, mount point, type, options, and what dump and fsck read.
type entry struct {
	fields  []string
	options []string
}

func parseEntry(line string) (entry, bool) {
	fields := strings.Fields(line)
	if len(fields) < 3 || strings.HasPrefix(fields[0], "#") {
		return entry{}, false
	}
	e := entry{fields: fields}
	if len(fields) > 3 {
		e.options = strings.Split(fields[3], ",")
	}
	return e, true
}

// needsDisk reports whether the boot fails, or waits, for want of the entry's device.
func (e entry) needsDisk(exists func(string) bool) bool {
	harmless := func(o string) bool {
		return o == "nofail" || o == "noauto" || o == "_netdev" || o == "bind" || o == "rbind" ||
			strings.HasPrefix(o, "x-systemd.automount")
	}
	device := e.fields[0]
	switch {
	case strings.HasPrefix(device, "/dev/zram"), strings.HasPrefix(device, "/dev/ram"):
		return false // memory, of a module that the system loads
	case slices.ContainsFunc(e.options, harmless):
		return false
	case e.fields[2] == "swap" && strings.HasPrefix(device, "/"): // a file, or a device
		return !strings.HasPrefix(device, "/dev/") || !exists(device)
	case strings.HasPrefix(device, "/dev/"):
		return !exists(device)
	}
	tag, _, found := strings.Cut(device, "=")
	return found && slices.Contains([]string{"UUID", "LABEL", "PARTUUID", "PARTLABEL", "ID"}, tag)
}

// ofSystem reports whether the entry is part of an installed system, and not somebody's data.
func (e entry) ofSystem() bool {
	at := path.Clean(e.fields[1])
	return e.fields[2] == "swap" || slices.Contains([]string{"/", "/usr", "/boot", "/efi"}, at) || strings.HasPrefix(at, "/boot/")
}

func (e entry) name() string {
	if e.fields[2] == "swap" {
		return "swap"
	}
	return e.fields[1]
}

// optional is the line with nofail.
func (e entry) optional() string {
	fields := slices.Clone(e.fields)
	if len(fields) == 3 {
		fields = append(fields, "defaults")
	}
	fields[3] += ",nofail"
	return strings.Join(fields, " ") + "\n"
}
