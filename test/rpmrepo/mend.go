package rpmrepo

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// mends change a package as its Debian maintainer scripts would, or make it match the package of
// the same name on Fedora and EL.
var mends = map[string]func(*builder, *Package) error{
	// It has the only shell; Debian's /bin/sh is dash's.
	"bash": func(b *builder, p *Package) error {
		p.Provides = append(p.Provides, "/bin/sh", "/bin/bash")
		return b.link(p, "/usr/bin/sh", "bash")
	},
	"glibc-common": func(_ *builder, p *Package) error {
		p.Scriptlets = []Scriptlet{{"%transfiletriggerin", "/sbin/ldconfig", []string{"/usr/lib", "/usr/lib64"}}}
		return nil
	},
	"iputils": func(_ *builder, p *Package) error {
		for i, f := range p.Files {
			if f.Path == "/usr/bin/ping" {
				p.Files[i].Caps = "cap_net_raw=ep"
				return nil
			}
		}
		return errors.New("it has no /usr/bin/ping")
	},
	"kernel": mendKernel,
	"libpam-runtime": func(b *builder, p *Package) error {
		for name, line := range map[string]string{
			"auth":     "auth required pam_unix.so",
			"account":  "account required pam_unix.so",
			"password": "password required pam_unix.so yescrypt",
			"session":  "session required pam_unix.so\nsession optional pam_systemd.so",

			"session-noninteractive": "session required pam_unix.so",
		} {
			if err := b.add(p, "/etc/pam.d/common-"+name, 0o644, line+"\n"); err != nil {
				return err
			}
		}
		return nil
	},
	"openssh-server": mendSSH,
	"systemd": func(_ *builder, p *Package) error {
		p.Scriptlets = []Scriptlet{
			{"%post", "systemd-machine-id-setup >/dev/null 2>&1 || :", nil},
			{"%transfiletriggerin", "systemd-sysusers || :", []string{"/usr/lib/sysusers.d"}},
		}
		return nil
	},
}

// mendKernel moves the kernel to its place in kernel-core since EL 8, and makes the index of the
// modules, which Debian makes on the machine where the package is installed.
func mendKernel(b *builder, p *Package) error {
	images, err := filepath.Glob(filepath.Join(b.root, "boot/vmlinuz-*"))
	if err != nil || len(images) != 1 {
		return fmt.Errorf("want one kernel, got %q %v", images, err)
	}
	release := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	modules := "/usr/lib/modules/" + release
	for i, f := range p.Files {
		name, ok := strings.CutPrefix(f.Path, "/boot/")
		if !ok {
			continue
		}
		to := modules + "/" + strings.TrimSuffix(name, "-"+release)
		if err := os.Rename(filepath.Join(b.root, f.Path), filepath.Join(b.root, to)); err != nil {
			return err
		}
		p.Files[i].Path = to
	}
	// depmod searches /lib.
	if err := os.Symlink("usr/lib", filepath.Join(b.root, "lib")); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := b.run("depmod", "-b", b.root, release); err != nil {
		return err
	}
	lists, err := filepath.Glob(filepath.Join(b.root, modules, "modules.*"))
	if err != nil {
		return err
	}
	has := map[string]bool{}
	for _, f := range p.Files {
		has[f.Path] = true
	}
	for _, l := range lists {
		if name := modules + "/" + filepath.Base(l); !has[name] {
			p.Files = append(p.Files, File{Path: name, User: "root", Group: "root", Mode: 0o644})
		}
	}
	v := p.EVR.String()
	p.Provides = append(p.Provides, "kernel-core = "+v, "kernel-modules = "+v, "kernel-modules-extra = "+v)
	return nil
}

// mendSSH adds EL's units to the server: sshd.service, and units that make keys when the machine
// first boots.
func mendSSH(b *builder, p *Package) error {
	config, err := os.ReadFile(filepath.Join(b.root, "usr/share/openssh/sshd_config"))
	if err != nil {
		return err
	}
	p.drop(func(name string) bool { return strings.HasPrefix(name, "/usr/lib/systemd/") })
	for name, text := range map[string]string{
		"/etc/ssh/sshd_config": string(config),
		"/usr/lib/systemd/system/sshd.service": `[Unit]
Description=OpenSSH server daemon
After=network.target sshd-keygen.target
Wants=sshd-keygen.target

[Service]
Type=notify
RuntimeDirectory=sshd
ExecStart=/usr/sbin/sshd -D
KillMode=process
Restart=on-failure

[Install]
WantedBy=multi-user.target
`,
		"/usr/lib/systemd/system/sshd-keygen.target": `[Unit]
Description=Keys of the OpenSSH server
Wants=sshd-keygen@ed25519.service
PartOf=sshd.service
`,
		"/usr/lib/systemd/system/sshd-keygen@.service": `[Unit]
Description=%i key of the OpenSSH server
ConditionFileNotEmpty=!/etc/ssh/ssh_host_%i_key
Before=sshd-keygen.target

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -q -t %i -N "" -f /etc/ssh/ssh_host_%i_key
`,
	} {
		if err := b.add(p, name, 0o644, text); err != nil {
			return err
		}
	}
	p.Scriptlets = []Scriptlet{{"%post", "systemctl --no-reload preset sshd.service >/dev/null 2>&1 || :", nil}}
	return nil
}
