package handoff

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Parse reads a kernel command line, such as /proc/cmdline holds. Arguments
// that are not the initramfs's are passed over. Those that are, and that say
// nothing that a boot needs or cannot be understood, are passed over as well,
// and listed in Boot.PassedOver. Where an argument may be given once and is
// given twice, the last one counts, as in the kernel.
func Parse(cmdline string) (Boot, error) {
	b, p, err := parseArguments(cmdline)
	if err != nil {
		return Boot{}, err
	}
	if b.Root, err = p.rootArgument(); err != nil {
		return Boot{}, err
	}
	return b, nil
}

// parseArguments reads all but the root, whose arguments it returns as they are.
func parseArguments(cmdline string) (b Boot, p parser, err error) {
	for _, arg := range split(cmdline) {
		key, value, given := strings.Cut(arg, "=")
		if err := p.argument(&b, key, value, given); err != nil {
			return Boot{}, p, fmt.Errorf("kernel argument %s: %w", arg, err)
		}
	}
	if b.Debug {
		b.Shell = true
	}
	return b, p, nil
}

// parser holds the arguments that only mean something together.
type parser struct {
	root, netroot, fstype, flags, nfsroot string
}

func (p *parser) argument(b *Boot, key, value string, given bool) error {
	switch key {
	case "root":
		p.root = value
	case "netroot":
		p.netroot = value
	case "nfsroot":
		p.nfsroot = value
	case "rootfstype":
		p.fstype = value
	case "rootflags":
		p.flags = value
	case "init":
		b.Init = value
	case "rd.shell":
		b.Shell = flag(value, given)
	case "rd.debug":
		b.Debug = flag(value, given)
	case "rd.break":
		b.Break = flag(value, given)
	case "rd.retry":
		// A value that is not a number is ignored: no machine stays down for it.
		if seconds, err := strconv.ParseUint(value, 10, 32); err == nil {
			b.Retry = time.Duration(seconds) * time.Second
		}
	case "rootovl":
		b.Overlay = overlay(value, given)
	case "rootovlcfg":
		// Given again it adds to what was there, as getargs of dracut does. The names are not
		// judged here: a bad one must not keep a machine from booting, and whoever applies the
		// layers says what became of each.
		if value != "" {
			b.TreeLayers = append(b.TreeLayers, strings.Split(value, ",")...)
		}
	case "netroot.layer":
		l, err := ParseLayer(value)
		if err != nil {
			return err
		}
		b.Layers = append(b.Layers, l)
	default:
		b.networkArgument(key, value)
	}
	return nil
}

// rootArgument merges root=, netroot=, rootfstype= and rootflags=.
func (p *parser) rootArgument() (Root, error) {
	value := p.netroot
	if value == "" {
		value = p.root
	}
	if value == "" {
		return Root{}, errors.New("the kernel command line has no root=: name one, such as root=nbd:SERVER:PORT:squashfs")
	}
	r, err := ParseRoot(p.nfsRoot(value))
	if err != nil {
		return Root{}, fmt.Errorf("kernel argument root=%s: %w", value, err)
	}
	switch {
	case r.Transport == NFS: // rootfstype= can say no more, and root= has options of its own
		r.MountOptions = append(r.MountOptions, list(p.flags)...)
		if err := r.setNFSPort(); err != nil {
			return Root{}, fmt.Errorf("kernel argument rootflags=%s: %w", p.flags, err)
		}
		return r, nil
	case p.fstype != "":
		r.FSType = p.fstype
	}
	if p.flags != "" {
		r.MountOptions = strings.Split(p.flags, ",")
	}
	return r, nil
}

func overlay(value string, given bool) Overlay {
	if !given || value == "1" || value == "yes" {
		return Overlay{Enabled: true}
	}
	if !flag(value, given) {
		return Overlay{}
	}
	return Overlay{Enabled: true, Size: value}
}

// flag reads a switch as dracut's getargbool does: bare is on, 0, no and off are off.
func flag(value string, given bool) bool {
	return !given || value != "0" && value != "no" && value != "off"
}

// ModuleParameters are those of kernel modules that a command line sets, NAME.PARAMETER=VALUE, as
// finit_module(2) takes them, by the module's name with underscores. The kernel reads them itself
// for what is built in, and leaves them to modprobe for the others
// (Documentation/admin-guide/kernel-parameters.rst).
func ModuleParameters(cmdline string) map[string]string {
	all := map[string]string{}
	for _, arg := range split(cmdline) {
		key, value, given := strings.Cut(arg, "=")
		module, parameter, ok := strings.Cut(key, ".")
		if !ok || module == "" || parameter == "" {
			continue
		}
		module = strings.ReplaceAll(module, "-", "_")
		if strings.ContainsAny(value, " \t") {
			value = `"` + value + `"`
		}
		if given {
			parameter += "=" + value
		}
		all[module] = strings.TrimLeft(all[module]+" "+parameter, " ")
	}
	return all
}

// SplitArguments cuts a kernel command line into arguments at the blanks outside double quotes, as
// next_arg in the kernel's lib/cmdline.c does. The quotes stay, for the kernel reads them; whole is
// false if the last one is not closed.
func SplitArguments(line string) (args []string, whole bool) {
	quoted := false
	args = strings.FieldsFunc(line, func(r rune) bool {
		if r == '"' {
			quoted = !quoted
		}
		return !quoted && strings.ContainsRune(" \t\n\v\f\r", r)
	})
	return args, !quoted
}

// split cuts a command line into arguments without quotes.
func split(line string) []string {
	args, _ := SplitArguments(line) // the kernel has booted with it
	out := args[:0]
	for _, a := range args {
		if a = strings.ReplaceAll(a, `"`, ""); a != "" {
			out = append(out, a)
		}
	}
	return out
}
