// Package guest writes the initial file system of a small machine that runs programs of this host
// under the kernel of a tree: busybox, the programs with their libraries, modules, and a shell
// script as its init. A server or client that the host's kernel does not support can thus run
// beside it, without its own image.
//
// The package does not start a machine; package vm does. The content is as trusted as the host's
// own programs.
package guest

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"netroot/internal/initramfs"
	"netroot/internal/kmod"
	"netroot/internal/pack"
)

// Guest describes the content of a machine.
type Guest struct {
	ModuleDir string            // directory of the kernel's modules and their index
	Modules   []string          // names of modules; their dependencies are added
	Programs  []string          // names of programs of this host; they are copied to /bin
	Files     map[string]string // further files by their absolute paths
	Script    string            // shell script to run after mounting and loading modules
}

// prologue mounts the file systems that programs expect, loads the modules in the order of their
// names, and configures the network for qemu's user network.
const prologue = `#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin:/usr/sbin:/usr/bin
mkdir -p /proc /sys /dev /tmp /run
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for m in /modules/*.ko; do insmod $m || exit; done
ip link set lo up
ip link set eth0 up
ip addr add 10.0.2.15/24 dev eth0
`

// Busybox returns an error if the host lacks busybox, which every guest requires.
func Busybox() error {
	if _, err := exec.LookPath("busybox"); err != nil {
		return errors.New("busybox is not installed: install busybox-static (Debian, Ubuntu) or busybox (Fedora)")
	}
	return nil
}

// Write writes the file system as an archive that a kernel accepts as its initial RAM file system.
func (g Guest) Write(w io.Writer) error {
	a := archive{pack.NewCPIO(w), map[string]bool{}}
	for _, program := range append([]string{"busybox"}, g.Programs...) {
		if err := a.program(program); err != nil {
			return err
		}
	}
	if err := a.modules(g.ModuleDir, g.Modules); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(g.Files)) {
		if err := a.add(name, []byte(g.Files[name])); err != nil {
			return err
		}
	}
	if err := a.add("init", []byte(prologue+g.Script)); err != nil {
		return err
	}
	return a.cpio.Close()
}

// archive is an archive that is being written.
type archive struct {
	cpio *pack.CPIO
	done map[string]bool
}

func (a archive) add(name string, content []byte) error {
	name = strings.TrimPrefix(name, "/")
	if a.done[name] {
		return nil
	}
	a.done[name] = true
	return a.cpio.WriteFile(name, 0o755, int64(len(content)), strings.NewReader(string(content)))
}

var library = regexp.MustCompile(`(/\S+) \(0x`) // in the output of ldd

// program adds a program of the host and the libraries that it is linked with. It also searches
// directories that only root's PATH has.
func (a archive) program(name string) error {
	source, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if err != nil {
			source, err = exec.LookPath(filepath.Join(dir, name))
		}
	}
	if err != nil {
		return err
	}
	files := [][2]string{{"bin/" + name, source}}
	out, _ := exec.Command("ldd", source).Output() // fails for a statically linked program
	for _, m := range library.FindAllStringSubmatch(string(out), -1) {
		files = append(files, [2]string{m[1], m[1]})
	}
	for _, f := range files {
		b, err := os.ReadFile(f[1])
		if err != nil {
			return err
		}
		if err := a.add(f[0], b); err != nil {
			return err
		}
	}
	return nil
}

// modules adds modules and their dependencies. Their file names sort in the order of loading.
func (a archive) modules(dir string, names []string) error {
	index, err := kmod.Read(os.DirFS(dir), ".")
	if err != nil {
		return err
	}
	n := 0
	for _, name := range names {
		order, err := index.LoadOrder(name)
		if err != nil {
			return err
		}
		for _, m := range order {
			if a.done[m.Path] {
				continue
			}
			a.done[m.Path] = true
			data, err := initramfs.ReadFile(os.DirFS(dir), m.Path)
			if err != nil {
				return err
			}
			n++
			if err := a.add(fmt.Sprintf("modules/%03d-%s.ko", n, m.Name), data); err != nil {
				return err
			}
		}
	}
	return nil
}
