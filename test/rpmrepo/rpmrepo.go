// Package rpmrepo makes an RPM distribution for tests. It downloads a closure of Debian packages
// with the host's own apt, converts each into an RPM, adds what RPM distributions have and Debian
// does not (filesystem, setup, a release package), and makes repositories from which dnf and yum
// can install. With it, a bootstrap of the RPM kind, with the real dnf, its solver, scriptlets,
// signatures and a package database, can be tested where no RPM distribution can be reached.
//
// The result boots, and its rpm and dnf work. It is not a distribution for use: packages have the
// names of Fedora and EL only where a recipe uses them, maintainer scripts are replaced with the
// few scriptlets that a booting system requires, and security holes are not fixed.
//
// The package requires dpkg-deb, apt-get, rpmbuild, createrepo_c and, for signatures, gpg and
// rpmsign, but not root.
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

// Base returns a list for Options.Debian: a system that boots, with ssh, a kernel for virtual
// machines, and rpm.
func Base() []string {
	return strings.Fields("systemd systemd-sysv udev dbus kmod openssh-server iproute2 iputils-ping procps bash coreutils sed grep " +
		"findutils gzip tar util-linux hostname login passwd libc-bin libpam-runtime rpm linux-image-cloud-" + runtime.GOARCH)
}

// Tools returns the programs that Build runs.
func Tools() []string {
	return []string{"apt-get", "dpkg-deb", "rpmbuild", "rpmsign", "createrepo_c", "gpg", "gpgconf", "depmod"}
}

// Options describe the content of the repositories.
type Options struct {
	Dir      string    // a new directory for the result
	Debian   []string  // Debian packages; their dependencies are added
	Stubs    []Stub    // packages with little more than a name
	Releases []Release // each gets a repository, and one with updates
	URL      string    // of Dir, for the repositories of the release packages
	Sign     bool      // sign all packages with a new key
}

// Stub is a package with one file. A recipe installs it, but a test does not use it.
type Stub struct {
	Name    string
	Service string // name, without ".service", of a unit that can be enabled; may be empty
}

// Release is a distribution whose release package is in the repositories. The release package
// identifies the distribution.
type Release struct {
	Name    string // name of the package, such as centos-release
	Version string // such as 8
	System  string // name for os-release and /etc/redhat-release, such as CentOS Linux
	ID      string // ID in os-release(5), such as centos
	DBPath  string // directory in which its rpm keeps the database
	Repo    string // directory of the repository below Options.Dir
	Updates string // directory of the updates, with a newer release package
}

// KeyFile is the name of the public key below Options.Dir.
const KeyFile = "RPM-GPG-KEY-test"

// Build makes the repositories. After an error, Dir is kept for inspection.
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
	root string // files of all packages together, with /usr merged
}

func (b *builder) path(name string) string { return filepath.Join(b.work, name) }

// run runs a program. An error includes the last lines of its output.
func (b *builder) run(name string, args ...string) error {
	cmd := exec.CommandContext(b.ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "HOME="+b.work, "GNUPGHOME="+b.path("gnupg"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out[max(0, len(out)-4000):])
	}
	return nil
}

// releases makes the release packages. Each has its own version of the same files, and therefore
// its own run of rpmbuild.
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

// rpmbuild makes all packages in one run, as the binary packages of one source package.
func (b *builder) rpmbuild(packages []*Package) error {
	spec := b.root + ".spec"
	if err := os.WriteFile(spec, []byte(Spec(packages)), 0o644); err != nil {
		return err
	}
	args := []string{"-bb", "--quiet", "--target", rpmArch(runtime.GOARCH), "--noclean", "--buildroot", b.root}
	for _, d := range []string{
		"_topdir " + b.path("top"), "_rpmdir " + b.path("rpms"), "_dbpath " + b.path("db"),
		"_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm",
		"debug_package %{nil}", "__os_install_post %{nil}", "_build_id_links none", "__spec_install_pre %{___build_pre}", // it would empty the build root
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
	// gpg leaves its agent running.
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
	gpg, err := exec.LookPath("gpg") // Debian's rpmsign would use gpg2
	if err != nil {
		return err
	}
	return b.run("rpmsign", append([]string{"--define", "_gpg_name " + id, "--define", "__gpg " + gpg, "--addsign"}, rpms...)...)
}

// publish makes the two repositories of a release: one with every package except those of other
// releases, and one with the update.
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

// Missing returns those of the Tools that the host lacks.
func Missing() []string {
	return slices.DeleteFunc(Tools(), func(tool string) bool {
		_, err := exec.LookPath(tool)
		return err == nil
	})
}

// rpmArch returns RPM's name for a Debian architecture.
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
