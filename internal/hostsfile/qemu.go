package hostsfile

import (
	"slices"
	"strconv"
	"strings"
)

// dropped are arguments of qemu that "netroot vm" does not need, because it does what they are for.
// The number is that of the words to drop.
var dropped = map[string]struct {
	words int
	why   string
}{
	"-nographic":  {1, "the terminal is the machine's console as it is"},
	"-enable-kvm": {1, "KVM is used where it works (--accel says otherwise)"},
	"-no-kvm":     {1, "KVM is used where it works (--accel says otherwise)"},
	"-accel":      {2, "KVM is used where it works (--accel says otherwise)"},
	"-daemonize":  {1, "the machine ends with the command"},
}

// qemu takes from the words what netroot.yaml has a key for, and leaves out what is not needed,
// with a note for each.
func (f *File) qemu(words []string, line int) (kept []string, memory int64) {
	for i := 0; i < len(words); i++ {
		w := words[i]
		if strings.HasPrefix(w, "--") { // as good as one hyphen
			w = w[1:]
		}
		next := ""
		if i+1 < len(words) {
			next = words[i+1]
		}
		if d, ok := dropped[w]; ok {
			gone := words[i:min(i+d.words, len(words))]
			f.note(line, "qemu's %s is left out: %s", strings.Join(gone, " "), d.why)
			i += len(gone) - 1
			continue
		}
		switch mib, ok := memoryOf(next); {
		case w == "-m" && ok:
			memory = mib
			i++
		case (w == "-serial" || w == "-monitor") && (next == "stdio" || next == "mon:stdio"):
			f.note(line, "qemu's %s %s is left out: the terminal is the machine's console as it is", w, next)
			i++
		case w == "-drive" && next != "":
			kept = append(kept, words[i], f.drive(next, line))
			i++
		default:
			kept = append(kept, words[i])
		}
	}
	return kept, memory
}

// drive drops boot=, which qemu had until version 1.
func (f *File) drive(options string, line int) string {
	all := strings.Split(options, ",")
	left := slices.DeleteFunc(slices.Clone(all), func(o string) bool { return strings.HasPrefix(o, "boot=") })
	if len(left) < len(all) {
		f.note(line, "boot= of qemu's -drive is left out: qemu no longer has it, and the machine boots from the network")
	}
	return strings.Join(left, ",")
}

// memoryOf reads what -m takes, in MiB: a number of MiB or one with a unit, perhaps as size=.
func memoryOf(s string) (mib int64, ok bool) {
	s = strings.TrimPrefix(s, "size=")
	unit := int64(1)
	if n := len(s); n > 0 {
		switch s[n-1] {
		case 'M', 'm':
			s = s[:n-1]
		case 'G', 'g':
			s, unit = s[:n-1], 1024
		}
	}
	n, err := strconv.ParseInt(s, 10, 32)
	return n * unit, err == nil && n > 0
}
