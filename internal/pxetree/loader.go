package pxetree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"netroot/internal/boot"
)

// loaders are the paths of pxelinux and of the module that it requires: on Debian and Ubuntu,
// Fedora, EL and SUSE, and Arch.
var loaders = [][2]string{
	{"usr/lib/PXELINUX", "usr/lib/syslinux/modules/bios"},
	{"usr/share/syslinux", "usr/share/syslinux"},
	{"usr/lib/syslinux/bios", "usr/lib/syslinux/bios"},
}

const module = "ldlinux.c32"

// Loader returns the boot file that DHCP names. With http it is lpxelinux.0.
func Loader(http bool) string {
	if http {
		return boot.LPxelinux
	}
	return boot.Pxelinux
}

// installLoader copies the loader into the tree. An existing loader stays, with its module: both
// must have the same version, and the administrator may have chosen it.
func installLoader(dir, root string, http bool) error {
	name := Loader(http)
	hasLoader, err := exists(filepath.Join(dir, name))
	if err != nil {
		return err
	}
	hasModule, err := exists(filepath.Join(dir, module))
	if err != nil {
		return err
	}
	if hasLoader && hasModule {
		return nil
	}
	if hasLoader && !hasModule {
		return fmt.Errorf("%s has %s but no %s, which must have the same version: add the %[3]s of that version, or remove %[2]s and export again", dir, name, module)
	}
	loader, mod, err := findLoader(root, name)
	if err != nil {
		return err
	}
	if !hasModule {
		if err := place(filepath.Join(dir, module), mod); err != nil {
			return err
		}
	} else if same, err := sameFile(filepath.Join(dir, module), mod); err != nil || !same {
		return errors.Join(err, fmt.Errorf("%s has a %s that is not of the same version as %s of this host: remove it and export again", dir, module, name))
	}
	return place(filepath.Join(dir, name), loader)
}

func findLoader(root, name string) (loader, mod string, err error) {
	for _, dirs := range loaders {
		loader, mod = filepath.Join(root, dirs[0], name), filepath.Join(root, dirs[1], module)
		hasLoader, _ := exists(loader)
		hasModule, _ := exists(mod)
		if hasLoader && hasModule {
			return loader, mod, nil
		}
	}
	return "", "", fmt.Errorf("this host has no %s with its %s: install pxelinux and syslinux-common (Debian, Ubuntu), or syslinux and syslinux-nonlinux (Fedora, EL), or syslinux (SUSE, Arch)", name, module)
}

func exists(name string) (bool, error) {
	_, err := os.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func sameFile(a, b string) (bool, error) {
	x, err := os.ReadFile(a)
	if err != nil {
		return false, err
	}
	y, err := os.ReadFile(b)
	return string(x) == string(y), err
}
