package build

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPackages(t *testing.T) {
	dir := t.TempDir()
	if list, err := packages(t.Context(), dir); list != nil || err != nil {
		t.Errorf("a tree of no distribution has %q, %v", list, err)
	}
	lay(t, dir, map[string]string{
		"var/lib/dpkg/status": `Package: zsh
Status: install ok installed
Version: 5.9-4
Description: a shell
 with: colons

Package: gone
Status: deinstall ok config-files
Version: 1

Package: adduser
Status: hold ok installed
Version: 3.134`,
		"usr/lib/os-release": "NAME=x\nPRETTY_NAME=\"Tiny \"\n", "etc/os-release": "-> /usr/lib/os-release",
	})
	list, err := packages(t.Context(), dir)
	if d := cmp.Diff([]string{"adduser 3.134", "zsh 5.9-4"}, list); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	if name := systemName(dir); name != "Tiny " {
		t.Errorf("system %q", name)
	}
	if name := systemName(t.TempDir()); name != "" {
		t.Errorf("system %q", name)
	}
}

func TestPacmanPackages(t *testing.T) {
	dir := t.TempDir()
	lay(t, dir, map[string]string{
		"var/lib/pacman/local/ALPM_DB_VERSION":      "9\n",
		"var/lib/pacman/local/zlib-1:1.3.1-2/desc":  "%NAME%\nzlib\n\n%VERSION%\n1:1.3.1-2\n\n%BASE%\nzlib\n\n%DESC%\n100% free, and\n\n%LICENSE%\nZlib\nMIT\n",
		"var/lib/pacman/local/zlib-1:1.3.1-2/files": "%FILES%\nusr/\n",
		"var/lib/pacman/local/bash-5.2.037-1/desc":  "%NAME%\nbash\n\n%VERSION%\n5.2.037-1\n\n%CONFLICTS%\n\n",
		"var/lib/pacman/local/half-installed-1-1/":  "",
		"var/lib/pacman/local/no-name-1-1/desc":     "%VERSION%\n1-1\n",
		"var/lib/pacman/local/elsewhere-1-1/desc":   "-> /srv/desc",
		"srv/desc":                    "%NAME%\nelsewhere\n%VERSION%\n1-1\n",
		"var/lib/pacman/sync/core.db": "x",
	})
	list, err := packages(t.Context(), dir)
	if d := cmp.Diff([]string{"bash 5.2.037-1", "elsewhere 1-1", "zlib 1:1.3.1-2"}, list); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
}

func FuzzPacmanPackage(f *testing.F) {
	f.Add("%NAME%\na\n\n%VERSION%\n1-1\n")
	f.Fuzz(func(t *testing.T, text string) {
		if p := pacmanPackage(text); strings.Contains(p, "\n") {
			t.Errorf("%q", p)
		}
	})
}

func FuzzDpkgPackages(f *testing.F) {
	f.Add("Package: a\nStatus: install ok installed\nVersion: 1\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		list, err := dpkgPackages(strings.NewReader(text))
		for _, p := range list {
			if err == nil && strings.Contains(p, "\n") {
				t.Errorf("%q", p)
			}
		}
	})
}
