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

// passwd and group are the files of the package setup. systemd-sysusers makes the users of
// services.
const (
	passwd = `root:x:0:0:root:/root:/bin/bash
bin:x:1:1:bin:/bin:/sbin/nologin
daemon:x:2:2:daemon:/sbin:/sbin/nologin
mail:x:8:12:mail:/var/spool/mail:/sbin/nologin
sshd:x:74:74:Privilege-separated SSH:/usr/share/empty.sshd:/sbin/nologin
nobody:x:65534:65534:Kernel Overflow User:/:/sbin/nologin
`
	group = `root:x:0:
bin:x:1:
daemon:x:2:
sys:x:3:
adm:x:4:
tty:x:5:
disk:x:6:
lp:x:7:
kmem:x:9:
mail:x:12:
utmp:x:22:
shadow:x:42:
staff:x:50:
audio:x:63:
cdrom:x:11:
dialout:x:18:
tape:x:33:
video:x:39:
floppy:x:19:
input:x:104:
kvm:x:36:
render:x:105:
sgx:x:106:
_ssh:x:73:
sshd:x:74:
users:x:100:
nobody:x:65534:
`
)

// filesystemDirs are the directories of the package filesystem.
var filesystemDirs = func() map[string]fs.FileMode {
	dirs := map[string]fs.FileMode{
		"/proc": 0o555, "/sys": 0o555, "/root": 0o550, "/tmp": 0o777 | fs.ModeSticky, "/var/tmp": 0o777 | fs.ModeSticky,
	}
	for _, name := range strings.Fields(`/boot /dev /etc /home /media /mnt /opt /run /srv /usr /var /usr/bin /usr/sbin /usr/lib
		/usr/lib32 /usr/lib64 /usr/libx32 /usr/libexec /usr/local /usr/share /usr/include /usr/src /usr/games /usr/lib/modules
		/usr/lib/systemd /usr/lib/systemd/system /usr/lib/tmpfiles.d /usr/lib/sysusers.d /usr/lib/x86_64-linux-gnu
		/usr/lib/aarch64-linux-gnu /usr/share/empty.sshd /etc/pam.d /etc/default /etc/systemd /etc/sysconfig /etc/yum.repos.d
		/var/cache /var/empty /var/lib /var/log /var/spool /var/spool/mail /var/adm /var/opt`) {
		dirs[name] = 0o755
	}
	return dirs
}()

// extra makes the packages that are not converted from Debian packages.
func (b *builder) extra(packages []*Package) ([]*Package, error) {
	all := []func() (*Package, error){b.filesystem, b.setup}
	for _, s := range b.opt.Stubs {
		all = append(all, func() (*Package, error) { return b.stub(s) })
	}
	if slices.ContainsFunc(packages, func(p *Package) bool { return p.Name == "dnf" }) {
		all = append(all, b.yum)
	}
	var out []*Package
	for _, f := range all {
		p, err := f()
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

func ours(name, summary string, requires ...string) *Package {
	return &Package{Name: name, Arch: "noarch", Summary: summary, EVR: EVR{Version: "1", Release: "1"}, Requires: requires}
}

func (b *builder) filesystem() (*Package, error) {
	p := ours("filesystem", "The basic directory layout")
	for _, name := range slices.Sorted(maps.Keys(filesystemDirs)) {
		if err := os.MkdirAll(filepath.Join(b.root, name), 0o755); err != nil {
			return nil, err
		}
		p.Files = append(p.Files, File{Path: name, User: "root", Group: "root", Mode: filesystemDirs[name] | fs.ModeDir})
	}
	for _, name := range mergedDirs {
		_ = os.Remove(filepath.Join(b.root, name)) // made by depmod
		if err := b.link(p, "/"+name, "usr/"+name); err != nil {
			return nil, err
		}
	}
	for name, target := range map[string]string{"/var/run": "../run", "/var/lock": "../run/lock", "/var/mail": "spool/mail"} {
		if err := b.link(p, name, target); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (b *builder) setup() (*Package, error) {
	p := ours("setup", "A set of system configuration and setup files", "filesystem")
	var shadow strings.Builder
	for line := range strings.Lines(passwd) {
		name, _, _ := strings.Cut(line, ":")
		fmt.Fprintf(&shadow, "%s:*:19000:0:99999:7:::\n", name)
	}
	for name, text := range map[string]string{
		"/etc/passwd":        passwd,
		"/etc/group":         group,
		"/etc/shadow":        shadow.String(),
		"/etc/gshadow":       "root:::\n",
		"/etc/shells":        "/bin/sh\n/bin/bash\n",
		"/etc/profile":       "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin\n",
		"/etc/nsswitch.conf": "passwd: files systemd\ngroup: files systemd\nshadow: files\nhosts: files dns\n",
		"/etc/hosts":         "127.0.0.1   localhost localhost.localdomain\n::1         localhost localhost.localdomain\n",
	} {
		mode := fs.FileMode(0o644)
		if strings.HasSuffix(name, "shadow") {
			mode = 0
		}
		if err := b.add(p, name, mode, text); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// release makes a release package or its update: the package that identifies the distribution. The
// update differs only in its version.
func (b *builder) release(r *Release, update bool) (*Package, error) {
	p := ours(r.Name, "Release files of "+r.System, "setup")
	p.EVR = EVR{Version: r.Version, Release: "1"}
	p.Of, p.Update = r, update
	if update {
		p.EVR.Release = "2"
	}
	p.Provides = []string{"system-release = " + r.Version, "system-release(releasever) = " + r.Version, "redhat-release = " + r.Version}
	full := r.System + " " + r.Version + " (made for tests)"
	check := 0
	if b.opt.Sign {
		check = 1
	}
	var repos strings.Builder
	for _, repo := range []struct{ id, dir string }{{"base", r.Repo}, {"updates", r.Updates}} {
		fmt.Fprintf(&repos, "[%s]\nname=%s %s\nbaseurl=%s/%s\nenabled=1\ngpgcheck=%d\ngpgkey=%s/%s\n\n",
			repo.id, r.System, repo.id, b.opt.URL, repo.dir, check, b.opt.URL, KeyFile)
	}
	for name, text := range map[string]string{
		"/etc/redhat-release": full + "\n",
		"/usr/lib/os-release": fmt.Sprintf("NAME=%q\nVERSION=%q\nID=%s\nID_LIKE=\"rhel fedora\"\nVERSION_ID=%q\nPRETTY_NAME=%q\n",
			r.System, r.Version, r.ID, r.Version, full),
		"/usr/lib/rpm/macros.d/macros.dist":                "%_dbpath " + r.DBPath + "\n",
		"/etc/yum.repos.d/" + r.ID + ".repo":               repos.String(),
		"/usr/lib/systemd/system-preset/90-default.preset": "enable sshd.service\nenable getty@.service\n",
		"/usr/lib/systemd/system-preset/99-disable.preset": "disable *\n",
	} {
		if err := b.add(p, name, 0o644, text); err != nil {
			return nil, err
		}
	}
	return p, b.link(p, "/etc/os-release", "../usr/lib/os-release")
}

func (b *builder) stub(s Stub) (*Package, error) {
	p := ours(s.Name, "A stand-in for "+s.Name, "setup")
	if s.Service != "" {
		unit := "[Unit]\nDescription=A stand-in for " + s.Service + "\n[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
		if err := b.add(p, "/usr/lib/systemd/system/"+s.Service+".service", 0o644, unit); err != nil {
			return nil, err
		}
	}
	return p, b.add(p, "/usr/share/stand-in/"+s.Name, 0o644, s.Name+"\n")
}

func (b *builder) yum() (*Package, error) {
	p := ours("yum", "The old name of dnf", "dnf", "rpm")
	return p, b.link(p, "/usr/bin/yum", "dnf")
}
