package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// yum installs an RPM distribution with the host's dnf (4 or 5) or yum and --installroot:
// coreutils, the package that provides /etc/redhat-release, and the packages of Include. The Tree
// keeps the configuration as etc/bootstrap-yum.conf, as with Apptainer, because old recipes use it
// in %post. The Tree does not keep downloads and logs.
//
// The Tree's own rpm finds the package database even if the host's rpm uses another place or
// format: rpmdb.go.
func yum(ctx context.Context, j Job) error {
	prog, err := findDNF()
	if err != nil {
		return err
	}
	r, err := rpmFrom(j)
	if err != nil {
		return err
	}
	db, err := openRPMDB(ctx, j)
	if err != nil {
		return err
	}
	defer db.close()
	if r.gpg == "" {
		j.logf("no GPG key is given: the signatures of the packages are not checked")
	}
	if err := rpmRoot(j.Root, r.conf()); err != nil {
		return err
	}
	if err := db.job.run(ctx, r.args(prog, j.Root)); err != nil {
		return err
	}
	if err := forgetDNF(j.Root); err != nil {
		return err
	}
	return db.handOver(ctx)
}

// findDNF finds dnf or yum. Some hosts have dnf 5 only under the name dnf5.
func findDNF() (string, error) {
	prog, err := find(rpmTools...)
	if err == nil {
		return prog, nil
	}
	if five, missing := exec.LookPath("dnf5"); missing == nil {
		return five, nil
	}
	return "", err
}

// forgetDNF removes the files that the host's dnf or yum leaves in a Tree, except for the packages
// and their history.
func forgetDNF(tree string) error {
	root, err := os.OpenRoot(tree)
	if err != nil {
		return err
	}
	defer root.Close()
	// dnf 5 has a separate setting for its cache.
	names := []string{rpmCache, "var/cache/libdnf5"}
	for _, log := range []string{"dnf.log", "dnf.librepo.log", "dnf.rpm.log", "dnf5.log", "hawkey.log", "yum.log"} {
		names = append(names, "var/log/"+log)
	}
	for _, name := range names {
		if err := root.RemoveAll(name); err != nil {
			return err
		}
	}
	return nil
}

const (
	rpmConf  = "etc/bootstrap-yum.conf"
	rpmCache = "var/cache/yum-bootstrap"
)

// rpm is the parsed header of a yum or dnf recipe.
type rpm struct {
	base, updates repo // updates may be empty
	version       string
	include       []string
	setopt        []string
	gpg           string // URL of the key; empty: signatures are not checked
}

// repo is the place of a repository: its own URL or the URL of a metalink.
type repo struct{ url, metalink string }

// osVersion matches the placeholder of OSVersion in a mirror's URL. Singularity 2 also accepted it
// without braces.
var osVersion = regexp.MustCompile(`(?i)%\{OSVERSION\}|%OSVERSION`)

func rpmFrom(j Job) (rpm, error) {
	r := rpm{version: j.header("OSVersion"), setopt: settingsOf(j.header("Setopt")), gpg: j.header("GPG")}
	if r.gpg == "" {
		r.gpg = j.getenv("GPG")
	}
	if r.gpg != "" && !strings.HasPrefix(r.gpg, "https://") && !strings.HasPrefix(r.gpg, "file:///") {
		return r, fmt.Errorf("GPG: %s is not a safe source for a key: use an https:// or file:/// URL", r.gpg)
	}
	var err error
	if r.include, err = j.include(); err != nil {
		return r, err
	}
	for _, f := range []struct {
		key string
		to  *string
	}{
		{"MirrorURL", &r.base.url},
		{"MetaLink", &r.base.metalink},
		{"UpdateURL", &r.updates.url},
		{"UpdateMetaLink", &r.updates.metalink},
	} {
		url := j.header(f.key)
		if osVersion.MatchString(url) && r.version == "" {
			return r, fmt.Errorf("%s: uses %%{OSVERSION}, but OSVersion: is missing: add it", f.key)
		}
		*f.to = osVersion.ReplaceAllLiteralString(url, r.version)
	}
	if r.base == (repo{}) {
		return r, errors.New("MirrorURL: (or MetaLink:) is missing: set it to the URL of the distribution's base repository")
	}
	return r, nil
}

// settingsOf parses NAME=VALUE settings separated by blanks. A word without "=" continues the value
// before it: excludepkgs=a b.
func settingsOf(text string) []string {
	var out []string
	for _, word := range strings.Fields(text) {
		if n := len(out); n > 0 && !strings.Contains(word, "=") {
			out[n-1] += " " + word
			continue
		}
		out = append(out, word)
	}
	return out
}

// conf returns the configuration for dnf and yum: dnf.conf(5), yum.conf(5).
func (r rpm) conf() string {
	var b strings.Builder
	check := "gpgcheck=0\n"
	if r.gpg != "" {
		check = "gpgcheck=1\ngpgkey=" + r.gpg + "\n"
	}
	b.WriteString("[main]\ncachedir=/" + rpmCache + "\nkeepcache=0\ndebuglevel=2\nlogfile=/var/log/yum.log\n" +
		"syslog_device=/dev/null\nexactarch=1\nobsoletes=1\nplugins=1\nreposdir=/dev/null\ndeltarpm=0\n" + check)
	section := func(id, name string, at repo) {
		if at == (repo{}) {
			return
		}
		fmt.Fprintf(&b, "\n[%s]\nname=%s\n", id, name)
		if at.url != "" {
			b.WriteString("baseurl=" + at.url + "\n")
		}
		if at.metalink != "" {
			b.WriteString("metalink=" + at.metalink + "\n")
		}
		b.WriteString("enabled=1\n" + check)
	}
	section("base", "Linux $releasever - $basearch", r.base)
	section("updates", "Linux $releasever - $basearch updates", r.updates)
	return b.String()
}

// args returns a command line that dnf 4, dnf 5 and yum understand. It always has --releasever,
// because the default is the host's own release.
func (r rpm) args(prog, root string) []string {
	argv := []string{
		prog, "--config=" + filepath.Join(root, rpmConf), "--installroot=" + root, "--releasever=" + r.version, "-y",
		"--setopt=plugins=0",
	}
	for _, s := range r.setopt {
		argv = append(argv, "--setopt="+s)
	}
	return append(append(argv, "install", "/etc/redhat-release", "coreutils"), r.include...)
}

// rpmRoot makes the files that the Tree must have before the first package: the configuration, and
// the devices that the scripts of packages open.
func rpmRoot(root, conf string) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer r.Close()
	for _, d := range []string{"etc", "dev"} {
		if err := r.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := r.WriteFile(rpmConf, []byte(conf), 0o644); err != nil {
		return err
	}
	return rpmDevices(r)
}

// rpmDevices makes the devices that the scripts of packages open, in the Tree's dev.
func rpmDevices(r *os.Root) error {
	dev, err := r.Open("dev")
	if err != nil {
		return err
	}
	defer dev.Close()
	for _, d := range []struct {
		name         string
		major, minor uint32
	}{{"null", 1, 3}, {"zero", 1, 5}, {"random", 1, 8}, {"urandom", 1, 9}} {
		err := unix.Mknodat(int(dev.Fd()), d.name, unix.S_IFCHR, int(unix.Mkdev(d.major, d.minor)))
		if err == unix.EEXIST {
			continue
		}
		if err == nil {
			err = r.Chmod("dev/"+d.name, 0o666) // independent of the umask
		}
		if err != nil {
			return fmt.Errorf("make /dev/%s in the tree: %w", d.name, err)
		}
	}
	return nil
}
