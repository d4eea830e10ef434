package nodeinit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"netroot/internal/handoff"
	"netroot/internal/kmod"
)

// moduleList names the modules every boot loads, one a line; the generator
// writes it.
const moduleList = "/etc/netroot/modules"

// parameters are given to modules that the initramfs loads, before those of the
// kernel's command line. One NBD device is all a root needs: each more is a device
// for udev to settle at every boot; the kernel makes further ones when they are
// asked for. Two servers of one NVMe image are two paths to it, which EL 8 would
// take for two disks.
var parameters = map[string]string{"nbd": "nbds_max=1", "nvme_core": "multipath=Y"}

// loader loads kernel modules, each once.
type loader struct {
	dir        string // /lib/modules/RELEASE
	index      *kmod.Index
	parameters map[string]string // of the kernel's command line, by module name

	mu     sync.Mutex
	loaded map[string]func() error // by module name
	seen   map[string]bool         // modaliases that were looked up
}

func newLoader() (*loader, error) {
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
	line, _ := os.ReadFile("/proc/cmdline") // the kernel may ask for a module before /proc is mounted
	return &loader{dir: dir, index: index, parameters: handoff.ModuleParameters(string(line)), loaded: map[string]func() error{}, seen: map[string]bool{}}, nil
}

// load loads the named module and what it needs. A module that is built into
// the kernel, or loaded already, is no error.
func (l *loader) load(name string) error {
	order, err := l.index.LoadOrder(name)
	if err != nil {
		return err
	}
	for _, m := range order {
		if err := l.once(m)(); err != nil && !m.Soft {
			return fmt.Errorf("load %s: %w", m.Name, err)
		}
	}
	return nil
}

func (l *loader) once(m kmod.Module) func() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	f, ok := l.loaded[m.Name]
	if !ok {
		params := strings.TrimSpace(parameters[m.Name] + " " + l.parameters[m.Name])
		f = sync.OnceValue(func() error { return insert(filepath.Join(l.dir, m.Path), params) })
		l.loaded[m.Name] = f
	}
	return f
}

// count is the number of modules loaded or tried.
func (l *loader) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.loaded)
}

// IsModprobe tells whether the kernel started this process to load a module for
// it (kernel/module/kmod.c): a file system by its name, a crypto algorithm, the
// driver of a network card's PHY.
func IsModprobe(argv0 string) bool { return filepath.Base(argv0) == "modprobe" }

// Modprobe does what the kernel asks, "modprobe -q -- NAME-OR-ALIAS". A name
// that the initramfs knows nothing of is no error: the kernel asks on suspicion.
// Of several modules for one alias, as those of a crypto algorithm, some may be
// for other processors.
func Modprobe(args []string) error {
	l, err := newLoader()
	if err != nil {
		return err
	}
	var failures []error
	for _, word := range args {
		if strings.HasPrefix(word, "-") {
			continue
		}
		for _, name := range l.index.Resolve(word) {
			failures = append(failures, l.load(name))
		}
	}
	return errors.Join(failures...)
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

// loadModules loads what every boot needs beside what this machine's devices
// ask for, the two at the same time.
func (n *node) loadModules(context.Context) (string, error) {
	if n.modules == nil {
		l, err := newLoader()
		if err != nil {
			return "", err
		}
		n.modules = l
	}
	transports := make(chan error, 1)
	go func() { transports <- n.loadListed() }()
	devices := n.coldplug()
	if err := <-transports; err != nil {
		return "", err
	}
	return fmt.Sprintf("%d loaded, %d devices asked", n.modules.count(), devices), nil
}

func (n *node) loadListed() error {
	list, err := os.ReadFile(moduleList)
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(list)) {
		if err := n.modules.load(name); err != nil {
			return err
		}
	}
	for _, m := range n.boot.Root.Transport.Modules() {
		// Built in, or the transport will say what it misses; an optional one the kernel asks for.
		if m.Optional || !n.modules.index.Has(m.Name) {
			continue
		}
		if err := n.modules.load(m.Name); err != nil {
			return err
		}
	}
	return nil
}

// coldplug loads the drivers of all devices that are there, and of those which
// appear when their bus's driver is loaded. It returns the number of devices
// that were new. A driver that does not load is reported and passed over: it
// may be one that the boot does not need.
func (n *node) coldplug() int {
	devices := 0
	for {
		fresh := n.modules.unseen()
		for _, alias := range fresh {
			for _, name := range n.modules.index.Match(alias) {
				if err := n.modules.load(name); err != nil {
					n.log.detail("modules", fmt.Sprintf("%s, for %s: %v", name, alias, err))
				}
			}
		}
		if len(fresh) == 0 {
			return devices
		}
		devices += len(fresh)
	}
}

// unseen returns the modaliases below /sys/devices that were not returned before.
func (l *loader) unseen() []string {
	var fresh []string
	filepath.WalkDir("/sys/devices", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "modalias" {
			return nil
		}
		if alias := readTrimmed(path); alias != "" && !l.seen[alias] {
			l.seen[alias] = true
			fresh = append(fresh, alias)
		}
		return nil
	})
	return fresh
}
