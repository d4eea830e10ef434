package rpmrepo

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// rpmNames are the names of packages on Fedora and EL that recipes use and that differ from
// Debian's.
var rpmNames = map[string]string{
	"libc6":          "glibc",
	"libc-bin":       "glibc-common",
	"openssh-client": "openssh-clients",
	"procps":         "procps-ng",
	"iproute2":       "iproute",
	"iputils-ping":   "iputils",
	"xz-utils":       "xz",
	"passwd":         "shadow-utils",
	"udev":           "systemd-udev",
}

// isDropped reports whether a Debian package has no place in an RPM distribution. Other packages
// require it only in maintainer scripts, which are not converted.
func isDropped(name string) bool {
	switch name {
	case "adduser", "apt", "base-files", "base-passwd", "cdebconf", "dash", "debconf", "debconf-2.0", "debianutils", "debugedit", "dpkg",
		"init-system-helpers", "klibc-utils", "libklibc", "linux-base", "linux-initramfs-tool", "lsb-base", "runit-helper",
		"sensible-utils", "sysvinit-utils", "ucf", "usr-is-merged", "usrmerge":
		return true
	}
	return strings.HasPrefix(name, "perl") || strings.HasPrefix(name, "libperl") || strings.HasPrefix(name, "initramfs-tools") ||
		strings.HasPrefix(name, "linux-image-") && !isKernel(name)
}

// isKernel reports whether a package contains a kernel (linux-image-6.1.0-9-amd64), as opposed to
// the package that depends on the newest one.
func isKernel(name string) bool {
	release, ok := strings.CutPrefix(name, "linux-image-")
	return ok && release[0] >= '0' && release[0] <= '9'
}

// implied has dependencies that RPM distributions state and Debian does not, because the package is
// essential or recommended there.
var implied = map[string][]string{
	"coreutils":      {"/bin/sh", "glibc-common", "sed", "grep", "findutils", "gzip", "tar", "util-linux"},
	"dnf":            {"rpm"}, // its rpmkeys checks signatures
	"openssh-server": {"shadow-utils"},
	"systemd":        {"systemd-sysv", "systemd-udev", "dbus"},
}

// convert makes packages from the wanted .deb files, and unpacks their files below b.root.
func (b *builder) convert(debs []*deb) ([]*Package, error) {
	u := universe{names: map[string]string{}, virtual: map[string][]string{}}
	debs = slices.DeleteFunc(debs, func(d *deb) bool { return isDropped(d.name()) })
	for _, d := range debs {
		name := d.name()
		switch {
		case isKernel(name):
			u.names[name] = "kernel"
		case rpmNames[name] != "":
			u.names[name] = rpmNames[name]
		default:
			u.names[name] = name
		}
		for _, group := range relations(d.control["Provides"]) {
			u.virtual[group[0].name] = append(u.virtual[group[0].name], name)
		}
	}
	var packages []*Package
	for _, d := range wanted(debs, u, b.opt.Debian) {
		p, err := b.fromDeb(d, u)
		if err != nil {
			return nil, err
		}
		packages = append(packages, p)
	}
	return packages, nil
}

// wanted returns the rest of a closure when some of its packages are dropped, and also those that
// only these required.
func wanted(debs []*deb, u universe, roots []string) []*deb {
	byName := map[string]*deb{}
	for _, d := range debs {
		byName[d.name()] = d
	}
	seen := map[string]bool{}
	var visit func(name string)
	visit = func(name string) {
		d := byName[name]
		if d == nil {
			for _, provider := range u.virtual[name] {
				visit(provider)
			}
			return
		}
		if seen[name] {
			return
		}
		seen[name] = true
		for _, group := range relations(d.control["Pre-Depends"] + "," + d.control["Depends"]) {
			for _, r := range group {
				visit(r.name)
			}
		}
	}
	for _, name := range roots {
		visit(name)
	}
	for name := range byName {
		if isKernel(name) { // the package that depends on it is dropped
			visit(name)
		}
	}
	var out []*deb
	for _, name := range slices.Sorted(maps.Keys(seen)) {
		out = append(out, byName[name])
	}
	return out
}

func (b *builder) fromDeb(d *deb, u universe) (*Package, error) {
	name := u.names[d.name()]
	p := &Package{
		Name: name, Arch: rpmArch(d.control["Architecture"]), Summary: d.control["Description"], EVR: evr(d.control["Version"]),
		Requires:  append(u.requires(d.control["Depends"]), implied[name]...),
		Pre:       append(u.requires(d.control["Pre-Depends"]), "setup"),
		Provides:  u.provides(d.control["Provides"]),
		Conflicts: append(u.conflicts(d.control["Conflicts"]), u.conflicts(d.control["Breaks"])...),
	}
	if name != d.name() {
		p.Provides = append(p.Provides, d.name()+" = "+p.EVR.String())
	}
	files, err := b.unpack(d)
	if err != nil {
		return nil, err
	}
	// Directories of the package filesystem need no other owner.
	p.Files = slices.DeleteFunc(files, func(f File) bool { return f.Mode.IsDir() && filesystemDirs[f.Path] != 0 })
	if mend := mends[name]; mend != nil {
		if err := mend(b, p); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return p, checkOwners(p)
}

// checkOwners refuses owners that the package setup does not have: rpm would give the files to
// root, with a warning.
func checkOwners(p *Package) error {
	for _, f := range p.Files {
		if !hasName(passwd, f.User) || !hasName(group, f.Group) {
			return fmt.Errorf("%s: %s belongs to %s:%s, which the package setup does not have: add them there", p.Name, f.Path, f.User, f.Group)
		}
	}
	return nil
}

func hasName(table, name string) bool {
	return strings.HasPrefix(table, name+":") || strings.Contains(table, "\n"+name+":")
}

// add writes a file below b.root and adds it to a package.
func (b *builder) add(p *Package, name string, mode fs.FileMode, text string) error {
	at := filepath.Join(b.root, name)
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(at, []byte(text), 0o644); err != nil {
		return err
	}
	p.Files = append(p.Files, File{Path: name, User: "root", Group: "root", Mode: mode, Config: strings.HasPrefix(name, "/etc/")})
	return nil
}

// link makes a symbolic link below b.root and adds it to a package.
func (b *builder) link(p *Package, name, target string) error {
	if err := os.MkdirAll(filepath.Dir(filepath.Join(b.root, name)), 0o755); err != nil {
		return err
	}
	p.Files = append(p.Files, File{Path: name, User: "root", Group: "root", Mode: fs.ModeSymlink | 0o777})
	return os.Symlink(target, filepath.Join(b.root, name))
}

// drop removes files from a package.
func (p *Package) drop(match func(name string) bool) {
	p.Files = slices.DeleteFunc(p.Files, func(f File) bool { return match(f.Path) })
}
