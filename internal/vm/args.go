package vm

import (
	"fmt"
	"slices"
	"strings"
)

// clashes are arguments of qemu that conflict with those of netroot, and advice for each.
var clashes = map[string]string{
	"-nographic":  "the console of the machine is already this terminal",
	"-daemonize":  "the machine must end with this command",
	"-enable-kvm": "KVM is used if it works; use --accel of netroot to choose",
	"-no-kvm":     "KVM is used if it works; use --accel of netroot to choose",
	"-accel":      "KVM is used if it works; use --accel of netroot to choose",
}

// stdio are the values with which -serial and -monitor use the terminal.
var stdio = []string{"stdio", "mon:stdio"}

// checkArgs refuses arguments that clash.
func checkArgs(args []string) error {
	for i, a := range args {
		if instead := clashes[hyphen(a)]; instead != "" {
			return fmt.Errorf("remove the qemu argument %s: %s", a, instead)
		}
		if next := following(args, i); (hyphen(a) == "-serial" || hyphen(a) == "-monitor") && slices.Contains(stdio, next) {
			return fmt.Errorf("remove the qemu argument %s %s: the console of the machine uses the terminal", a, next)
		}
	}
	return nil
}

// hyphen returns an option with one hyphen. qemu treats one and two hyphens alike.
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

// HasDisplay reports whether the arguments give the machine a display that somebody may look at.
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

// hasVGA reports whether the arguments choose a graphics card.
func hasVGA(args []string) bool {
	for i, a := range args {
		device, _, _ := strings.Cut(following(args, i), ",")
		if hyphen(a) == "-vga" || hyphen(a) == "-device" && (strings.Contains(strings.ToLower(device), "vga") || strings.Contains(device, "-gpu")) {
			return true
		}
	}
	return false
}

// hasDisks reports whether the arguments have drives that require the board's own controller.
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

// board returns the arguments for the machine's board and display, which depend on args.
func board(args []string) []string {
	machine := "q35"
	var out []string
	if HasDisplay(args) {
		if !hasVGA(args) {
			out = append(out, "-vga", "std")
		}
	} else {
		// Without graphics, SeaBIOS and iPXE use the serial console, as on a server.
		machine += ",graphics=off"
		out = append(out, "-display", "none")
	}
	if !hasDisks(args) {
		machine += ",sata=off" // a diskless machine has no controller for disks
	}
	return append(out, "-machine", machine)
}
