// Package rpmrepo makes an RPM distribution for tests: it downloads a closure of Debian packages with the host's own
// apt, turns each into an RPM, adds what RPM distributions have and Debian has not (filesystem, setup, a release
// package), and lays them out as repositories that dnf and yum install from. So a bootstrap of the RPM kind, with the
// real dnf, its solver, scriptlets, signatures and a package database, can be tried where no RPM distribution is within
// reach.
//
// What it makes boots, and its rpm and dnf work. It is no distribution for use: packages are called as on Fedora and EL
// only where a recipe would name them, maintainer scripts are replaced by the few scriptlets that a booting system
// needs, and nobody mends its holes.
//
// It needs dpkg-deb, apt-get, rpmbuild, createrepo_c and, for signatures, gpg and rpmsign; not root.
package rpmrepo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// Base is a list for Options.Debian: a system that boots, with ssh, a kernel for virtual machines, and an rpm of its own.
func Base() []string {
	return strings.Fields("systemd systemd-sysv udev dbus kmod openssh-server iproute2 iputils-ping procps bash coreutils sed grep " +
		"findutils gzip tar util-linux hostname login passwd libc-bin libpam-runtime rpm linux-image-cloud-" + runtime.GOARCH)
}

// Tools are the programs that Build runs.
func Tools() []string {
	return []string{"apt-get", "dpkg-deb", "rpmbuild", "rpmsign", "createrepo_c", "gpg", "gpgconf", "depmod"}
}

// Options say what is in the repositories.
type Options struct {
	Dir      string    // a new directory, where everything goes
	Debian   []string  // Debian packages; what they depend on comes along
	Stubs    []Stub    // packages that are little more than a name
	Releases []Release // each gets a repository, and one with updates
	URL      string    // where Dir will be served: the release packages' own repositories point there
	Sign     bool      // sign all packages with a key made for it
}

// Stub is a package with one file, for what a recipe installs and a test does not use.
type Stub struct {
	Name    string
	Service string // a unit that can be enabled, without ".service"; may be empty
}

// Release is a distribution of which the repositories hold the release package: what tells one from the other.
type Release struct {
	Name    string // centos-release: the package's name
	Version string // 8
	System  string // CentOS Linux: for os-release and /etc/redhat-release
	ID      string // centos: os-release(5)
	DBPath  string // where its rpm keeps the database
	Repo    string // the repository's directory below Options.Dir
	Updates string // that of the updates: a newer release package
}

// KeyFile is the name of the public key below Options.Dir.
const KeyFile = "RPM-GPG-KEY-test"

// Build makes the repositories. On an error Dir is left as it is, for a look.
func Build(ctx context.Context, opt Options) error {
	b := &builder{ctx: ctx, opt: opt, work: filepath.Join(opt.Dir, "work"), root: filepath.Join(opt.Dir, "work", "root")}
	for _, dir := range []string{b.root, b.path("rpms")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	debs, err := b.download()
	if err != nil {
		return err
	}
	packages, err := b.convert(debs)
	if err != nil {
		return err
	}
	extra, err := b.extra(packages)
	if err != nil {
		return err
	}
	packages = append(packages, extra...)
	if err := b.rpmbuild(packages); err != nil {
		return err
	}
	releases, err := b.releases()
	if err != nil {
		return err
	}
	packages = append(packages, releases...)
	if opt.Sign {
		if err := b.sign(); err != nil {
			return err
		}
	}
	for _, r := range opt.Releases {
		if err := b.publish(r, packages); err != nil {
			return err
		}
	}
	return os.RemoveAll(b.work)
}

// builder is the state of one Build.
type builder struct {
	ctx  context.Context
	opt  Options
	work string
	root string // the files of all packages together, with /usr merged
}

func (b *builder) path(name string) string { return filepath.Join(b.work, name) }

// run runs a program; what it said last is part of the error.
func (b *builder) run(name string, args ...string) error {
	cmd := exec.CommandContext(b.ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "HOME="+b.work, "GNUPGHOME="+b.path("gnupg"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out[max(0, len(out)-4000):])
	}
	return nil
}

// releases makes the release packages. Each needs files of its own, and so a run of its own.
func (b *builder) releases() ([]*Package, error) {
	var all []*Package
	for i := range b.opt.Releases {
		for _, update := range []bool{false, true} {
			own := *b
			own.root = b.path(fmt.Sprintf("release%d-%v", i, update))
			p, err := own.release(&b.opt.Releases[i], update)
			if err != nil {
				return nil, err
			}
			if err := own.rpmbuild([]*Package{p}); err != nil {
				return nil, err
			}
			all = append(all, p)
		}
	}
	return all, nil
}

// rpmbuild makes all packages in one run: that of a source package with many binary ones.
func (b *builder) rpmbuild(packages []*Package) error {
	spec := b.root + ".spec"
	if err := os.WriteFile(spec, []byte(Spec(packages)), 0o644); err != nil {
		return err
	}
	args := []string{"-bb", "--quiet", "--target", rpmArch(runtime.GOARCH), "--noclean", "--buildroot", b.root}
	for _, d := range []string{
		"_topdir " + b.path("top"), "_rpmdir " + b.path("rpms"), "_dbpath " + b.path("db"),
		"_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
		"debug_package %{nil}", "__os_install_post %{nil}", "_build_id_links none", "__spec_install_pre %{___build_pre}", // which would empty the build root
		"_unpackaged_files_terminate_build 0", "_binary_payload w1.zstdio", "_buildhost test",
	} {
		args = append(args, "--define", d)
	}
	return b.run("rpmbuild", append(args, spec)...)
}

// sign signs all packages with a new key.
func (b *builder) sign() (err error) {
	if err := os.Mkdir(b.path("gnupg"), 0o700); err != nil {
		return err
	}
	// gpg leaves its agent behind.
	defer func() { err = errors.Join(err, b.run("gpgconf", "--kill", "all")) }()
	const id = "netroot test <test@example.invalid>"
	if err := b.run("gpg", "--batch", "--passphrase", "", "--quick-generate-key", id, "rsa2048", "sign", "never"); err != nil {
		return err
	}
	if err := b.run("gpg", "--armor", "--output", filepath.Join(b.opt.Dir, KeyFile), "--export", id); err != nil {
		return err
	}
	rpms, err := filepath.Glob(b.path("rpms/*.rpm"))
	if err != nil {
		return err
	}
	gpg, err := exec.LookPath("gpg") // Debian's rpmsign would look for gpg2
	if err != nil {
		return err
	}
	return b.run("rpmsign", append([]string{"--define", "_gpg_name " + id, "--define", "__gpg " + gpg, "--addsign"}, rpms...)...)
}

// publish makes a release's two repositories: every package but those of other releases, and the update.
func (b *builder) publish(r Release, packages []*Package) error {
	repos := map[string][]*Package{r.Repo: nil, r.Updates: nil}
	for _, p := range packages {
		switch {
		case p.Of == nil:
			repos[r.Repo] = append(repos[r.Repo], p)
		case *p.Of == r && p.Update:
			repos[r.Updates] = append(repos[r.Updates], p)
		case *p.Of == r:
			repos[r.Repo] = append(repos[r.Repo], p)
		}
	}
	for name, list := range repos {
		dir := filepath.Join(b.opt.Dir, name)
		if err := os.MkdirAll(filepath.Join(dir, "Packages"), 0o755); err != nil {
			return err
		}
		for _, p := range list {
			if err := os.Link(b.path("rpms/"+p.file()), filepath.Join(dir, "Packages", p.file())); err != nil {
				return err
			}
		}
		if err := b.run("createrepo_c", "--quiet", "--no-database", "--general-compress-type=gz", dir); err != nil {
			return err
		}
	}
	return nil
}

// Missing returns which of the Tools the host lacks.
func Missing() []string {
	return slices.DeleteFunc(Tools(), func(tool string) bool {
		_, err := exec.LookPath(tool)
		return err == nil
	})
}

// rpmArch is RPM's name of a Debian architecture.
func rpmArch(debian string) string {
	switch debian {
	case "all":
		return "noarch"
	case "amd64":
		return "x86_64"
	case "arm64":
		return "aarch64"
	}
	return strings.ReplaceAll(debian, "-", "_")
}
