package distro

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"netroot/internal/nodeinit/report"
)

// files are what package network gives.
var files = map[string]string{
	"run/systemd/network/00-netroot.link":                  "link",
	"run/network/ifstate":                                  "eth0=eth0\n",
	"run/systemd/system/networking.service.d/netroot.conf": "keep",
}

const diskFstab = "UUID=1 / ext4 defaults 0 1\nLABEL=a /scratch xfs defaults 0 0\n"

// settle settles a root with the given files, and returns it, its /run, and what the console said.
func settle(t *testing.T, r Root, have map[string]string) (dir, run, said string) {
	t.Helper()
	r.Files, r.Dir = tree(t, have)
	r.Run = filepath.Join(t.TempDir(), "run")
	// What a layer, or the systemd of another initramfs, has made.
	if err := os.MkdirAll(filepath.Join(r.Run, "systemd/system/a.service.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	var console bytes.Buffer
	out := report.Step{Name: "identity", To: report.NewConsole(&console)}
	for range 2 { // a step is repeated when a later part of it fails
		if err := r.Settle(out, files); err != nil {
			t.Fatal(err)
		}
	}
	return r.Dir, r.Run, console.String()
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(text)
}

// TestSettle: each init finds what it must, and nothing that makes its scripts believe that another
// one runs.
func TestSettle(t *testing.T) {
	systemd := map[string]string{"sbin/init": "-> /lib/systemd/systemd", "lib/systemd/systemd": "#!", "etc/fstab": diskFstab, "etc/init.d/networking": "#!"}
	sysvinit := map[string]string{"sbin/init": "#!", "lib/systemd/systemd": "#!", "etc/fstab": diskFstab, "etc/init.d/networking": "#!"}
	for name, c := range map[string]struct {
		root    Root
		have    map[string]string
		systemd bool
		marked  bool
	}{
		"systemd":                  {Root{Overlay: true, OverNetwork: true}, systemd, true, false},
		"sysvinit":                 {Root{Overlay: true, OverNetwork: true}, sysvinit, false, true},
		"sysvinit, root in memory": {Root{Overlay: true}, sysvinit, false, false},
		"init=systemd":             {Root{Overlay: true, OverNetwork: true, Init: "/lib/systemd/systemd"}, sysvinit, true, false},
		"a wrapper of systemd":     {Root{Overlay: true, OverNetwork: true, Init: "/sbin/wrapper"}, systemd, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir, run, said := settle(t, c.root, c.have)
			for _, always := range []string{"systemd/network/00-netroot.link", "network/ifstate"} {
				if read(t, run, always) == "" {
					t.Errorf("lacks /run/%s", always)
				}
			}
			_, err := os.Stat(filepath.Join(run, "systemd/system"))
			if got := err == nil; got != c.systemd {
				t.Errorf("/run/systemd/system exists: %v, want %v", got, c.systemd)
			}
			_, err = os.Stat(filepath.Join(dir, NetworkMark))
			if got := err == nil; got != c.marked {
				t.Errorf("%s exists: %v, want %v", NetworkMark, got, c.marked)
			}
			if got := read(t, run, "systemd/journald.conf.d/99-netroot.conf"); got != JournalText {
				t.Errorf("journal: %q", got)
			}
			if got := read(t, dir, "etc/fstab"); got != "# left out at boot by netroot: UUID=1 / ext4 defaults 0 1\nLABEL=a /scratch xfs defaults,nofail 0 0\n" {
				t.Errorf("fstab: %q", got)
			}
			for _, want := range []string{"left out, because this machine has no such disk: /\n", "with nofail, because this machine may have no such disk: /scratch\n"} {
				if strings.Count(said, want) != 1 {
					t.Errorf("the console lacks %q once:\n%s", want, said)
				}
			}
		})
	}
}

// TestSettleJournal: the journal of a root that keeps what is written, or says itself where it goes,
// is left alone.
func TestSettleJournal(t *testing.T) {
	for name, c := range map[string]struct {
		root Root
		have map[string]string
	}{
		"no overlay":       {Root{}, nil},
		"the image's file": {Root{Overlay: true}, map[string]string{"etc/systemd/journald.conf": "[Journal]\nStorage=persistent\n"}},
	} {
		if _, run, _ := settle(t, c.root, c.have); read(t, run, "systemd/journald.conf.d/99-netroot.conf") != "" {
			t.Errorf("%s: written", name)
		}
	}
}

// TestSettleISCSI: open-iscsi leaves the disk under the root mounted, beside what the image says.
func TestSettleISCSI(t *testing.T) {
	const theirs = "LVMGROUPS=\"\"\nEXCLUDE_MOUNTS_AT_SHUTDOWN=/data\n"
	have := map[string]string{"etc/default/open-iscsi": theirs}
	dir, _, _ := settle(t, Root{Overlay: true, ISCSIMount: "/live/image"}, have)
	got := read(t, dir, "etc/default/open-iscsi")
	if !strings.HasPrefix(got, theirs) || strings.Count(got, `EXCLUDE_MOUNTS_AT_SHUTDOWN="$EXCLUDE_MOUNTS_AT_SHUTDOWN /live/image"`) != 1 {
		t.Errorf("%q", got)
	}
	for name, r := range map[string]Root{"another transport": {Overlay: true}, "no overlay": {ISCSIMount: "/live/image"}} {
		if dir, _, _ := settle(t, r, have); read(t, dir, "etc/default/open-iscsi") != theirs {
			t.Errorf("%s: changed", name)
		}
	}
	if dir, _, _ := settle(t, Root{Overlay: true, ISCSIMount: "/live/image"}, nil); read(t, dir, "etc/default/open-iscsi") != "" {
		t.Error("made in a root without open-iscsi")
	}
}

// TestSettleReadOnly: a root that must not change has another fstab over its own.
func TestSettleReadOnly(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting requires root")
	}
	done := make(chan struct{})
	go func() { // its thread is in another namespace and must not be used again
		defer close(done)
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			t.Error(err)
			return
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Error(err)
			return
		}
		dir, _, _ := settle(t, Root{}, map[string]string{"etc/fstab": diskFstab})
		if got := read(t, dir, "etc/fstab"); !strings.HasPrefix(got, "# left out") {
			t.Errorf("the mounted fstab: %q", got)
		}
		if err := unix.Unmount(filepath.Join(dir, "etc/fstab"), 0); err != nil {
			t.Error(err)
		}
		if got := read(t, dir, "etc/fstab"); got != diskFstab {
			t.Errorf("the root's own: %q", got)
		}
	}()
	<-done
}
