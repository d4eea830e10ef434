package distro

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree makes a root with the given files; a value of "-> X" is a link to X.
func tree(t *testing.T, files map[string]string) (*os.Root, string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(text, "-> "); ok {
			err = os.Symlink(target, path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root, dir
}

// TestIsSystemd: what counts is the program behind the links, and links start at the root of the
// tree, not of this machine.
func TestIsSystemd(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		init  string
		want  bool
	}{
		"Debian":           {map[string]string{"sbin": "-> usr/sbin", "usr/sbin/init": "-> /lib/systemd/systemd", "lib": "-> usr/lib", "usr/lib/systemd/systemd": "#!"}, "/sbin/init", true},
		"EL":               {map[string]string{"sbin": "-> usr/sbin", "usr/sbin/init": "-> ../lib/systemd/systemd", "usr/lib/systemd/systemd": "#!"}, "/sbin/init", true},
		"named":            {map[string]string{"usr/lib/systemd/systemd": "#!"}, "/usr/lib/systemd/systemd", true},
		"sysvinit":         {map[string]string{"sbin/init": "#!", "usr/lib/systemd/systemd": "#!"}, "/sbin/init", false},
		"OpenRC":           {map[string]string{"sbin/init": "-> openrc-init", "sbin/openrc-init": "#!"}, "/sbin/init", false},
		"dangling systemd": {map[string]string{"sbin/init": "-> /lib/systemd/systemd"}, "/sbin/init", false},
		"nothing":          {nil, "/sbin/init", false},
	} {
		t.Run(name, func(t *testing.T) {
			_, dir := tree(t, c.files)
			if got := IsSystemd(dir, c.init); got != c.want {
				t.Errorf("%v, want %v", got, c.want)
			}
		})
	}
}

func TestFindInit(t *testing.T) {
	_, dir := tree(t, map[string]string{
		"usr/lib/systemd/systemd": "#!", "sbin": "-> usr/sbin", "usr/sbin/init": "-> /usr/lib/systemd/systemd",
		"bin/sh": "-> /nowhere", "etc/file": "",
	})
	os.Chmod(dir+"/etc/file", 0o644)
	for asked, want := range map[string]string{
		"": "/sbin/init", "/usr/lib/systemd/systemd": "/usr/lib/systemd/systemd",
		"/bin/sh": "", "/etc/file": "", "/etc": "", "/none": "",
	} {
		got, err := FindInit(dir, asked)
		if got != want || (err == nil) != (want != "") || err != nil && !strings.Contains(err.Error(), asked) {
			t.Errorf("init=%q: %q, %v", asked, got, err)
		}
	}
	if _, empty := tree(t, nil); true {
		if got, err := FindInit(empty, ""); err == nil {
			t.Errorf("an empty root has the init %q", got)
		}
	}
}

func TestSystemdOnly(t *testing.T) {
	for path, want := range map[string]bool{
		"run/systemd/system": true, "run/systemd/system/a.service.d/b.conf": true,
		"run/systemd/network/00-netroot.link": false, "run/systemd/systems": false, "run/network/ifstate": false,
	} {
		if got := SystemdOnly(path); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
}

func TestHostname(t *testing.T) {
	for text, want := range map[string]bool{"": false, "\n": false, "# made at boot\n\n": false, "n1\n": true} {
		root, _ := tree(t, map[string]string{"etc/hostname": text})
		if got := HasHostname(root); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
	if root, _ := tree(t, nil); HasHostname(root) {
		t.Error("a root without the file has a name")
	}
	if got := Hostname("52:54:00:12:34:AB"); got != "node-5254001234ab" {
		t.Error(got)
	}
	// InfiniBand: 20 bytes, and a name has 64 characters (gethostname(2)).
	if got := Hostname(strings.Repeat("ab:", 19) + "cd"); len(got) > 64 {
		t.Errorf("%s has %d characters", got, len(got))
	}
}

// TestHasJournal: what the site says is not changed, whatever file says it.
func TestHasJournal(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  bool
	}{
		"nothing":        {nil, false},
		"the default":    {map[string]string{"etc/systemd/journald.conf": "[Journal]\n#Storage=auto\n"}, false},
		"other settings": {map[string]string{"etc/systemd/journald.conf.d/a.conf": "[Journal]\nForwardToSyslog=yes\n"}, false},
		"the file":       {map[string]string{"etc/systemd/journald.conf": "[Journal]\nStorage = persistent\n"}, true},
		"a drop-in":      {map[string]string{"etc/systemd/journald.conf.d/00-a.conf": "[Journal]\nStorage=none\n"}, true},
		"a distribution": {map[string]string{"usr/lib/systemd/journald.conf.d/a.conf": "[Journal]\nStorage=persistent\n"}, false},
	} {
		root, _ := tree(t, c.files)
		if got := HasJournal(root); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

// TestFitFstab: what an installed system has on its disk goes, somebody's data becomes optional,
// and everything else is untouched to the byte.
func TestFitFstab(t *testing.T) {
	const in = `# <file system> <mount point> <type> <options> <dump> <pass>
UUID=4b62-1 /               ext4    errors=remount-ro 0       1
/dev/mapper/vg-usr	/usr	xfs	defaults	0	0
UUID=A1B2-C3D4  /boot/efi vfat umask=0077 0 1
LABEL=swap none swap sw 0 0
/swapfile none swap sw 0 0
/dev/vdb none swap sw 0 0
/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0
PARTUUID=77 /scratch xfs noatime 0 2
/dev/sdb1 /data ext4
/dev/vda1 /disk ext4 defaults 0 2
LABEL=spool /spool ext4 defaults,nofail 0 2
UUID=9 /lun xfs _netdev 0 0
UUID=9 /lazy xfs x-systemd.automount 0 0
tmpfs /tmp tmpfs size=1G 0 0
nfs1:/home /home nfs defaults 0 0
/dev/zram0 none swap pri=100 0 0
UUID=4 /usr/ ext4 defaults 0 2
/home /export none bind 0 0
broken line
`
	const want = `# <file system> <mount point> <type> <options> <dump> <pass>
# left out at boot by netroot: UUID=4b62-1 /               ext4    errors=remount-ro 0       1
# left out at boot by netroot: /dev/mapper/vg-usr	/usr	xfs	defaults	0	0
# left out at boot by netroot: UUID=A1B2-C3D4  /boot/efi vfat umask=0077 0 1
# left out at boot by netroot: LABEL=swap none swap sw 0 0
# left out at boot by netroot: /swapfile none swap sw 0 0
/dev/vdb none swap sw 0 0
/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto 0 0
PARTUUID=77 /scratch xfs noatime,nofail 0 2
/dev/sdb1 /data ext4 defaults,nofail
/dev/vda1 /disk ext4 defaults 0 2
LABEL=spool /spool ext4 defaults,nofail 0 2
UUID=9 /lun xfs _netdev 0 0
UUID=9 /lazy xfs x-systemd.automount 0 0
tmpfs /tmp tmpfs size=1G 0 0
nfs1:/home /home nfs defaults 0 0
/dev/zram0 none swap pri=100 0 0
# left out at boot by netroot: UUID=4 /usr/ ext4 defaults 0 2
/home /export none bind 0 0
broken line
`
	exists := func(device string) bool { return strings.HasPrefix(device, "/dev/vd") }
	got := FitFstab(in, exists)
	if d := cmp.Diff(Fstab{Text: want, Left: []string{"/", "/usr", "/boot/efi", "swap", "swap", "/usr/"}, Optional: []string{"/scratch", "/data"}}, got); d != "" {
		t.Error(d)
	}
	if again := FitFstab(got.Text, exists); again.Changed() || again.Text != got.Text {
		t.Errorf("the result is changed once more: %+v", again)
	}
}

// FuzzFitFstab: a line is kept, left out as a comment, or gets nofail; none is lost.
func FuzzFitFstab(f *testing.F) {
	f.Add("UUID=1 / ext4 defaults 0 1\n/dev/sdb1 /data ext4\n")
	f.Add("LABEL=a none swap sw")
	f.Fuzz(func(t *testing.T, text string) {
		got := FitFstab(text, func(string) bool { return false })
		if strings.Count(got.Text, "\n") < strings.Count(text, "\n") {
			t.Errorf("%q became %q", text, got.Text)
		}
		if again := FitFstab(got.Text, func(string) bool { return false }); again.Changed() {
			t.Errorf("%q is changed once more to %q", got.Text, again.Text)
		}
	})
}
