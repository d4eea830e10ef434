package vm

import (
	"fmt"
	"slices"
	"strings"
)

// clashes are arguments of qemu that would take from a machine what it is run by, and what to do instead.
var clashes = map[string]string{
	"-nographic":  "the machine's console is where you are as it is",
	"-daemonize":  "the machine ends with the command that runs it",
	"-enable-kvm": "KVM is used where it works, and --accel says otherwise",
	"-no-kvm":     "KVM is used where it works, and --accel says otherwise",
	"-accel":      "KVM is used where it works, and --accel says otherwise",
}

// stdio are the values by which -serial and -monitor take the terminal.
var stdio = []string{"stdio", "mon:stdio"}

// checkArgs refuses arguments that clash.
func checkArgs(args []string) error {
	for i, a := range args {
		if instead := clashes[hyphen(a)]; instead != "" {
			return fmt.Errorf("qemu argument %s: leave it out: %s", a, instead)
		}
		if next := following(args, i); (hyphen(a) == "-serial" || hyphen(a) == "-monitor") && slices.Contains(stdio, next) {
			return fmt.Errorf("qemu argument %s %s: leave it out: the machine's console has the terminal", a, next)
		}
	}
	return nil
}

// hyphen is an option with one hyphen, which is the same to qemu as two.
func hyphen(a string) string {
	if strings.HasPrefix(a, "--") {
		return a[1:]
	}
	return a
}

func following(args []string, i int) string {
	if i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

// HasDisplay is whether the arguments give the machine a display that somebody may look at.
func HasDisplay(args []string) bool {
	for i, a := range args {
		switch hyphen(a) {
		case "-display":
			if following(args, i) != "none" {
				return true
			}
		case "-vnc", "-spice", "-sdl", "-gtk", "-curses":
			return true
		}
	}
	return false
}

// hasVGA is whether they give it a graphics card of their own choice.
func hasVGA(args []string) bool {
	for i, a := range args {
		device, _, _ := strings.Cut(following(args, i), ",")
		if hyphen(a) == "-vga" || hyphen(a) == "-device" && (strings.Contains(strings.ToLower(device), "vga") || strings.Contains(device, "-gpu")) {
			return true
		}
	}
	return false
}

// hasDisks is whether they give it drives that want the board's own controller.
func hasDisks(args []string) bool {
	for i, a := range args {
		switch hyphen(a) {
		case "-hda", "-hdb", "-hdc", "-hdd", "-cdrom":
			return true
		case "-drive":
			if o := "," + following(args, i) + ","; !strings.Contains(o, ",if=") || strings.Contains(o, ",if=ide,") {
				return true
			}
		case "-device":
			if strings.HasPrefix(following(args, i), "ide-") {
				return true
			}
		}
	}
	return false
}

// board are the arguments for the machine's board and display, which follow from the wishes in args.
func board(args []string) []string {
	machine := "q35"
	var out []string
	if HasDisplay(args) {
		if !hasVGA(args) {
			out = append(out, "-vga", "std")
		}
	} else {
		// Without graphics SeaBIOS and iPXE speak on the serial console, as they do on a server.
		machine += ",graphics=off"
		out = append(out, "-display", "none")
	}
	if !hasDisks(args) {
		machine += ",sata=off" // a diskless machine has no controller for disks
	}
	return append(out, "-machine", machine)
}
