package devices

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"netroot/internal/handoff"
	"netroot/internal/kmod"
	"netroot/internal/nodeinit/report"
)

// moduleList names the modules that every boot loads, one a line. The generator of the initramfs
// writes it.
const moduleList = "/etc/netroot/modules"

// keptOutList names the modules that the image's modprobe.d(5) keeps from being loaded for a device,
// one a line. The generator of the initramfs writes it if there are any.
const keptOutList = "/etc/netroot/keptout"

// parameters are given to modules that the initramfs loads, before those of the kernel's command
// line. A root needs one NBD device; each more is a device for udev to settle at every boot, and
// the kernel makes further ones on request. Two servers of one NVMe image are two paths to it,
// which EL 8 would take for two disks.
var parameters = map[string]string{"nbd": "nbds_max=1", "nvme_core": "multipath=Y"}

// Loader loads kernel modules, each once.
type Loader struct {
	dir        string // /lib/modules/RELEASE
	index      *kmod.Index
	parameters map[string]string // of the kernel's command line, by module name
	drivers    handoff.Drivers   // the same
	keptOut    map[string]string // what keeps a module from being loaded for a device, by its name
	devices    string            // /sys/devices
	insert     func(path, params string) error

	mu     sync.Mutex
	loaded map[string]func() error // by module name
	seen   map[string]bool         // modaliases that were looked up
}

// NewLoader reads the indexes of the running kernel's modules.
func NewLoader() (*Loader, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, err
	}
	release := unix.ByteSliceToString(uts.Release[:])
	dir := "/lib/modules/" + release
	index, err := kmod.Read(os.DirFS(dir), "netroot")
	if err != nil {
		return nil, fmt.Errorf("the initramfs has no modules for the running kernel %s: "+
			"kernel and initramfs must be of one image: %w", release, err)
	}
	// The kernel may run modprobe before /proc is mounted.
	line, _ := os.ReadFile("/proc/cmdline")
	list, _ := os.ReadFile(keptOutList)
	return newLoader(dir, index, string(line), string(list)), nil
}

func newLoader(dir string, index *kmod.Index, cmdline, keptOut string) *Loader {
	l := &Loader{dir: dir, index: index, parameters: handoff.ModuleParameters(cmdline), drivers: handoff.ParseDrivers(cmdline),
		keptOut: map[string]string{}, devices: "/sys/devices", insert: insert, loaded: map[string]func() error{}, seen: map[string]bool{}}
	for name := range strings.FieldsSeq(keptOut) {
		l.keptOut[name] = "modprobe.d of the image"
	}
	for name, key := range l.drivers.KeptOut {
		l.keptOut[name] = key + "= of the kernel command line"
	}
	return l
}

// Load loads the named module and those it needs. A module that is built into the kernel, or loaded
// already, is not an error.
func (l *Loader) Load(name string) error {
	order, err := l.index.LoadOrder(name)
	if err != nil {
		return err
	}
	for _, m := range order {
		if err := l.loadOnce(m)(); err != nil && !m.Soft {
			return fmt.Errorf("load %s: %w", m.Name, err)
		}
	}
	return nil
}

func (l *Loader) loadOnce(m kmod.Module) func() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, ok := l.loaded[m.Name]
	if !ok {
		params := strings.TrimSpace(parameters[m.Name] + " " + l.parameters[m.Name])
		f = sync.OnceValue(func() error { return l.insert(filepath.Join(l.dir, m.Path), params) })
		l.loaded[m.Name] = f
	}
	return f
}

// Count is the number of modules that were loaded or tried.
func (l *Loader) Count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.loaded)
}

// LoadListed loads the modules that every boot needs, and those of the root's transport. One that
// the command line keeps out is not loaded: whether the boot can do without it turns out later, and
// is then said by who misses it.
func (l *Loader) LoadListed(t handoff.Transport) error {
	list, err := os.ReadFile(moduleList)
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(list)) {
		if l.drivers.KeptOut[name] != "" {
			continue
		}
		if err := l.Load(name); err != nil {
			return err
		}
	}
	for _, m := range t.Modules() {
		// A module without a file is built in, or the transport reports what is missing. The kernel
		// itself requests an optional one.
		if m.Optional || !l.index.Has(m.Name) || l.drivers.KeptOut[m.Name] == "module_blacklist" {
			continue
		}
		if err := l.Load(m.Name); err != nil {
			return err
		}
	}
	return nil
}

// LoadBefore and LoadAfter load what the command line names to be loaded before and after the
// drivers of the devices. One that cannot be loaded is reported and passed over.
func (l *Loader) LoadBefore(step report.Step) { l.loadNamed(step, "rd.driver.pre=", l.drivers.Before) }

// LoadAfter is described there.
func (l *Loader) LoadAfter(step report.Step) { l.loadNamed(step, "rd.driver.post=", l.drivers.After) }

func (l *Loader) loadNamed(step report.Step, argument string, names []string) {
	for _, name := range names {
		if err := l.Load(name); err != nil {
			step.Fault(fmt.Errorf("%s%s: %w", argument, name, err))
		}
	}
}

// Coldplug loads the drivers of all devices that exist, and of those that appear when the driver of
// their bus is loaded. It returns the number of devices that were new. A driver that does not load
// is reported and passed over: the boot may not need it. So is one that is to stay out; what another
// driver depends on is loaded all the same, as modprobe does it.
func (l *Loader) Coldplug(step report.Step) int {
	devices := 0
	for {
		fresh := l.newAliases()
		for _, alias := range fresh {
			for _, name := range l.index.Match(alias) {
				if why := l.keptOut[name]; why != "" {
					step.Note(fmt.Sprintf("%s, for %s, is kept out by %s", name, alias, why))
					continue
				}
				if err := l.Load(name); err != nil {
					step.Detail(fmt.Sprintf("%s, for %s: %v", name, alias, err))
				}
			}
		}
		if len(fresh) == 0 {
			return devices
		}
		devices += len(fresh)
	}
}

// newAliases returns the modaliases below /sys/devices that were not returned before.
func (l *Loader) newAliases() []string {
	var fresh []string
	filepath.WalkDir(l.devices, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "modalias" {
			return nil
		}
		if alias := Attribute(path); alias != "" && !l.seen[alias] {
			l.seen[alias] = true
			fresh = append(fresh, alias)
		}
		return nil
	})
	return fresh
}

// IsModprobe reports whether the kernel started this process to load a module
// (kernel/module/kmod.c): a file system by its name, a crypto algorithm, the driver of a network
// card's PHY.
func IsModprobe(argv0 string) bool { return filepath.Base(argv0) == "modprobe" }

// Modprobe executes the kernel's request, "modprobe -q -- NAME-OR-ALIAS". A name that the initramfs
// does not know is not an error: the kernel also asks for modules that may not exist. Of several
// modules for one alias, such as those of a crypto algorithm, some may be for other processors.
func Modprobe(args []string) error {
	l, err := NewLoader()
	if err != nil {
		return err
	}
	var failures []error
	for _, word := range args {
		if strings.HasPrefix(word, "-") {
			continue
		}
		for _, name := range l.requested(word) {
			failures = append(failures, l.Load(name))
		}
	}
	return errors.Join(failures...)
}

// requested are the modules that a request of the kernel means. A blacklist is for aliases; who
// names a module means it (modprobe.d(5)), unless the kernel refuses it in any case.
func (l *Loader) requested(word string) []string {
	byName := l.index.Has(word)
	return slices.DeleteFunc(l.index.Resolve(word), func(name string) bool {
		return !byName && l.keptOut[name] != "" || l.drivers.KeptOut[name] == "module_blacklist"
	})
}

func insert(path, params string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), params, 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}
