package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"netroot/internal/pack"
)

// What is mounted below the directory of a localimage is named, also where the kernel is missing
// for that reason.
func TestMountsBelowLocalImage(t *testing.T) {
	s := newSite(t)
	golden := filepath.Join(s.dir, "golden")
	lay(t, golden, map[string]string{"boot/": "", "srv/data/": "", "proc/": ""})
	for _, at := range []string{"boot", "srv/data", "proc"} {
		at := filepath.Join(golden, at)
		must(t, unix.Mount("tmpfs", at, "tmpfs", 0, "size=64k"))
		t.Cleanup(func() { must(t, unix.Unmount(at, 0)) })
	}
	where := golden + "/boot, " + golden + "/srv/data"
	_, err := Run(t.Context(), s.options(t, "Bootstrap: localimage\nFrom: golden\n", nil))
	if want := "what was mounted at " + where + " was not copied"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("without a kernel: %v, want %q", err, want)
	}
	if want := "what is mounted below it is not copied: " + where + "\n"; !strings.Contains(s.out.String(), want) {
		t.Errorf("no warning %q:\n%s", want, &s.out)
	}
}

// Lines of fstab that make a boot wait for a disk are named, with the files that have them.
func TestDisksInFstab(t *testing.T) {
	s := newSite(t)
	lay(t, s.dir, map[string]string{
		"kernel/etc/fstab": "UUID=1 / ext4 defaults 0 1\nUUID=2 /boot/efi vfat umask=0077 0 1\nUUID=3 none swap sw 0 0\n" +
			"UUID=4 /srv ext4 nofail 0 0\n/dev/sdb1 /scratch xfs noauto 0 0\ntmpfs /tmp tmpfs size=1g 0 0\nserver:/home /home nfs defaults 0 0\n",
		"kernel/etc/rootovl/lab/etc/fstab":   "LABEL=scratch /scratch xfs defaults 0 0\n",
		"kernel/etc/rootovl/quiet/etc/fstab": "LABEL=scratch /scratch xfs nofail 0 0\n",
	})
	s.build(t, tiny, nil)
	for _, want := range []string{
		"/etc/fstab names disks that a machine may not have, for /, /boot/efi, swap: ",
		"/etc/rootovl/lab/etc/fstab names disks that a machine may not have, for /scratch: ",
	} {
		if !strings.Contains(s.out.String(), "warning: "+want) {
			t.Errorf("no warning %q:\n%s", want, &s.out)
		}
	}
	if n := strings.Count(s.out.String(), "names disks"); n != 2 {
		t.Errorf("%d warnings:\n%s", n, &s.out)
	}
}

// Of several kernels the one taken and those left are named.
func TestOtherKernelsAreNamed(t *testing.T) {
	s := newSite(t)
	const other = "0-cloud-other"
	lay(t, s.dir, map[string]string{"kernel/boot/vmlinuz-" + other: "another"})
	s.build(t, tiny, nil)
	if want := "the image boots kernel " + release + "; the tree also has " + other + ": "; !strings.Contains(s.out.String(), want) {
		t.Errorf("no message %q:\n%s", want, &s.out)
	}
	s.build(t, tiny, func(o *Options) { o.Kernel = release; o.Force = true })
	if strings.Contains(s.out.String(), other) {
		t.Errorf("a message although a kernel was asked for:\n%s", &s.out)
	}
	if _, err := os.Stat(s.tree); err != nil {
		t.Error(err)
	}
}

// A file that is mostly holes is copied and packed without them, and named.
func TestSparseFileIsNamed(t *testing.T) {
	s := newSite(t)
	name := filepath.Join(s.dir, "kernel/big")
	must(t, os.WriteFile(name, []byte("data"), 0o644), os.Truncate(name, 20<<30))
	s.build(t, tiny, nil)
	if want := "/big: 20.0 GiB, but 4.0 KiB on disk; its holes take no space in the image"; !strings.Contains(s.out.String(), want) {
		t.Errorf("no message %q:\n%s", want, &s.out)
	}
	if sparse, err := pack.FindSparse(s.tree); err != nil || len(sparse) != 1 || sparse[0].Read() != "" || sparse[0].Size != 20<<30 || sparse[0].Used > 1<<20 {
		t.Errorf("in the tree: %+v, %v", sparse, err)
	}

	// mksquashfs would read the file of the second name.
	must(t, os.Link(filepath.Join(s.tree, "big"), filepath.Join(s.tree, "again")))
	if sparse, err := pack.FindSparse(s.tree); err != nil || len(sparse) != 2 || !strings.Contains(sparse[1].Read(), "several names") {
		t.Errorf("with a second name: %+v, %v", sparse, err)
	}
}
