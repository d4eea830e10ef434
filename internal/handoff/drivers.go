package handoff

import "strings"

// Drivers is what a command line says about the kernel modules of devices. Names have underscores.
type Drivers struct {
	// KeptOut has the argument that keeps a module from being loaded for a device: that of kmod,
	// modprobe.blacklist=, that of dracut, rd.driver.blacklist=, or that of the kernel,
	// module_blacklist=, by which the kernel refuses the module altogether.
	KeptOut map[string]string
	Before  []string // rd.driver.pre=, loaded before those of the devices
	After   []string // rd.driver.post=, loaded after them
}

// ParseDrivers reads them; each argument may be given several times, with names between commas.
func ParseDrivers(cmdline string) Drivers {
	d := Drivers{KeptOut: map[string]string{}}
	for _, arg := range split(cmdline) {
		key, value, _ := strings.Cut(arg, "=")
		for name := range strings.SplitSeq(strings.ReplaceAll(value, "-", "_"), ",") {
			switch {
			case name == "":
			case key == "modprobe.blacklist", key == "rd.driver.blacklist", key == "rdblacklist", key == "module_blacklist":
				d.KeptOut[name] = key
			case key == "rd.driver.pre", key == "rdloaddriver":
				d.Before = append(d.Before, name)
			case key == "rd.driver.post", key == "rdinsmodpost":
				d.After = append(d.After, name)
			}
		}
	}
	return d
}
