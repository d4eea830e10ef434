// Package kernel finds the kernels in a tree: their image, their modules and their configuration,
// the newest first, in the order of versions of the distribution. Links in the tree are followed as
// on a system that runs from it, and never lead out to the host.
//
// The package does not read modules (package kmod does) and does not install anything.
package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
)

// Kernel is a kernel with all its modules.
type Kernel struct {
	Release   string   // as printed by uname -r: "6.1.0-56-amd64"
	Image     string   // path relative to the tree, without links: "boot/vmlinuz-6.1.0-56-amd64"
	ModuleDir string   // path of the modules, likewise: "usr/lib/modules/6.1.0-56-amd64"
	Config    Config   // configuration; nil if the tree has none
	Skipped   []error  // why newer kernels were skipped
	Others    []string // releases of the other kernels in the tree, if none was asked for
}

// moduleDirs are the directories of modules. With a merged /usr, the first leads to the second.
var moduleDirs = []string{"lib/modules", "usr/lib/modules"}

// Find returns the kernel with the given release. If release is empty, it returns the newest
// version, and of the kernels with that version the one for most machines ("amd64", not
// "cloud-amd64"). A
// kernel without modules or without their index (modules.dep) is an error. If release is empty,
// such a kernel is skipped for an older complete one.
func Find(treeDir, release string) (*Kernel, error) {
	root, err := os.OpenRoot(treeDir)
	if err != nil {
		return nil, fmt.Errorf("search for kernels: %w", err)
	}
	defer root.Close()
	t := &tree{root: root, dir: treeDir}
	t.identify()
	images := t.images()
	releases := make([]string, 0, len(images))
	for r := range images {
		releases = append(releases, r)
	}
	slices.SortFunc(releases, func(a, b string) int { return t.newer(b, a) })

	switch {
	case len(releases) == 0:
		return nil, fmt.Errorf("no kernel in %s: install %s in the recipe", t.dir, t.kernelPackage)
	case release == "":
		return t.newest(releases, images)
	case images[release] == "":
		return nil, fmt.Errorf("no kernel %s in %s: it has %s", release, t.dir, strings.Join(releases, ", "))
	}
	return t.complete(release, images[release])
}

func (t *tree) newest(releases []string, images map[string]string) (*Kernel, error) {
	var skipped []error
	for i, r := range releases {
		k, err := t.complete(r, images[r])
		if err == nil {
			k.Skipped, k.Others = skipped, releases[i+1:]
			return k, nil
		}
		skipped = append(skipped, err)
	}
	return nil, errors.Join(skipped...)
}

// images returns the paths of the kernel images by release.
func (t *tree) images() map[string]string {
	found := map[string]string{}
	add := func(release, name string) {
		if release != "" && found[release] == "" {
			if file, ok := t.file(name); ok {
				found[release] = file
			}
		}
	}
	for _, name := range t.list("boot") {
		if r, ok := strings.CutPrefix(name, "vmlinuz-"); ok {
			add(r, "boot/"+name)
		}
	}
	for _, name := range t.list("boot") { // arm64
		if r, ok := strings.CutPrefix(name, "Image-"); ok {
			add(strings.TrimSuffix(r, ".gz"), "boot/"+name)
		}
	}
	for _, dir := range moduleDirs { // Fedora, EL, SUSE, Arch
		for _, release := range t.list(dir) {
			add(release, path.Join(dir, release, "vmlinuz"))
			add(release, path.Join(dir, release, "Image"))
		}
	}
	return found
}

// complete returns the kernel if it has its modules and their index.
func (t *tree) complete(release, image string) (*Kernel, error) {
	k := &Kernel{Release: release, Image: image}
	for _, dir := range moduleDirs {
		if real, err := t.resolve(path.Join(dir, release)); err == nil && t.isDir(real) {
			k.ModuleDir = real
			break
		}
	}
	if k.ModuleDir == "" {
		return nil, fmt.Errorf("kernel %s in %s has no modules: lib/modules/%s is missing: install the complete package in the recipe, %s",
			release, t.dir, release, t.kernelPackage)
	}
	if _, ok := t.file(path.Join(k.ModuleDir, "modules.dep")); !ok {
		return nil, fmt.Errorf("kernel %s in %s has no index of its modules: %s/modules.dep is missing: run `depmod %s` in the recipe",
			release, t.dir, k.ModuleDir, release)
	}
	for _, name := range []string{"boot/config-" + release, path.Join(k.ModuleDir, "config")} {
		file, ok := t.file(name)
		if !ok {
			continue
		}
		config, err := t.config(file)
		if err != nil {
			return nil, fmt.Errorf("read the configuration of kernel %s in %s: %s: %w", release, t.dir, file, err)
		}
		k.Config = config
		break
	}
	return k, nil
}

func (t *tree) config(name string) (Config, error) {
	f, err := t.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return ParseConfig(f)
}

// identify determines the family of the distribution, which decides the order of versions and the
// name of the kernel package.
func (t *tree) identify() {
	t.compare = compareRPM
	if _, ok := t.file("var/lib/dpkg/status"); ok {
		t.compare = compareDebian
	}
	t.arch = t.architecture()
	t.kernelPackage = kernelPackage(t.osRelease(), t.arch)
}

// kernelPackage returns the name of the package with the newest kernel. ids are ID and ID_LIKE of
// os-release.
func kernelPackage(ids []string, arch string) string {
	for _, id := range ids {
		switch id {
		case "ubuntu":
			return "linux-image-generic"
		case "debian":
			return "linux-image-" + arch
		case "fedora", "rhel", "centos":
			return "kernel"
		case "suse", "opensuse":
			return "kernel-default"
		case "arch":
			return "linux"
		}
	}
	return "the kernel package (linux-image-" + arch + " on Debian, kernel on Fedora and EL)"
}

// osRelease returns the distribution's ID, followed by its ID_LIKE.
func (t *tree) osRelease() []string {
	for _, name := range []string{"etc/os-release", "usr/lib/os-release"} {
		file, ok := t.file(name)
		if !ok {
			continue
		}
		raw, err := t.root.ReadFile(file)
		if err != nil {
			continue
		}
		var id, like []string
		for line := range strings.Lines(string(raw)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			switch words := strings.Fields(strings.Trim(value, `"'`)); key {
			case "ID":
				id = words
			case "ID_LIKE":
				like = words
			}
		}
		return append(id, like...)
	}
	return nil
}

// architecture returns the architecture of the tree, as dpkg names it.
func (t *tree) architecture() string {
	if file, ok := t.file("var/lib/dpkg/arch"); ok {
		if raw, err := t.root.ReadFile(file); err == nil {
			if names := strings.Fields(string(raw)); len(names) > 0 {
				return names[0]
			}
		}
	}
	return runtime.GOARCH // for the architectures of netroot, dpkg and Go use the same names
}

// list returns the sorted names in a directory, or nothing if the directory is missing.
func (t *tree) list(name string) []string {
	dir, err := t.resolve(name)
	if err != nil {
		return nil
	}
	entries, err := fs.ReadDir(t.root.FS(), dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}
