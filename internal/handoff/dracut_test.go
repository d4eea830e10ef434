package handoff

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What dracut is told, our half of its initramfs reads back: the first server, and all the rest.
func TestFormatDracut(t *testing.T) {
	for _, test := range []struct {
		root Root
		want string // the first arguments
	}{
		{Root{Transport: NBD, Servers: []string{"a", "b"}, Port: 10809, Name: "debian12@0123456789ab", FSType: "squashfs"}, "root=nbd:a:debian12@0123456789ab:squashfs:ro rootfstype=squashfs"},
		{Root{Transport: NBD, Servers: []string{"fd00::1"}, Port: 99, Name: "x", FSType: "erofs", MountOptions: []string{"noatime"}}, "root=nbd:[fd00::1]:99:erofs:ro,noatime:-N,x rootfstype=erofs rootflags=noatime"},
		{Root{Transport: NBD, Servers: []string{"a"}, Name: "12"}, "root=nbd:a:10809::ro:-N,12"},
		{Root{Transport: NBD, Servers: []string{"a"}, Port: 7}, "root=nbd:a:7::ro"},
		{Root{Transport: ISCSI, Servers: []string{"10.0.0.1", "10.0.0.2"}, Name: "iqn.2026-11.x:y", LUN: 2, FSType: "squashfs"}, "root=/dev/disk/by-path/ip-10.0.0.1:3260-iscsi-iqn.2026-11.x:y-lun-2 netroot=iscsi:10.0.0.1:::2:iqn.2026-11.x:y rootfstype=squashfs"},
		{Root{Transport: NFS, Servers: []string{"a"}, Name: "/debian12", FSType: "nfs", MountOptions: []string{"ro", "vers=3"}}, "root=nfs:a:/debian12:ro,vers=3"},
		{Root{Transport: NFSImage, Servers: []string{"a", "b"}, Port: 2050, Name: "/.images/ab", FSType: "squashfs"}, "root=live:nfs://a,b:2050/.images/ab rootfstype=squashfs"},
		{Root{Transport: HTTP, URL: "http://h/sha256:x", FSType: "squashfs"}, "root=live:http://h/sha256:x rootfstype=squashfs"},
		{Root{Transport: NVMe, Servers: []string{"a", "b"}, Port: 4420, Name: "nqn.x:y", FSType: "squashfs"}, "root=nvme:a,b:4420:squashfs::nqn.x:y rootfstype=squashfs"},
	} {
		b := Boot{Root: test.root, Overlay: Overlay{Enabled: true}, TreeLayers: []string{"a"}}
		args, err := b.FormatDracut()
		if err != nil {
			t.Errorf("%+v: %v", test.root, err)
			continue
		}
		line := strings.Join(args, " ")
		rest := " rd.neednet=1 rd.luks=0 rd.md=0 rd.dm=0 rd.lvm=0 rd.shell=0 rd.emergency=reboot rootovl rootovlcfg=a"
		if line != test.want+rest {
			t.Errorf("got  %s\nwant %s", line, test.want+rest)
		}
		got, err := ParseDracut(line)
		if err != nil {
			t.Fatal(err)
		}
		if test.root.Transport == NBD || test.root.Transport == ISCSI {
			test.root.Servers = test.root.Servers[:1]
		}
		want := b
		want.Root = test.root
		if got.Root.Port == 0 { // one that every server of the kind has
			got.Root.Port = test.root.Port
		}
		if test.root.Port == 0 {
			got.Root.Port = 0
		}
		if test.root.Transport == NBD {
			got.Root.MountOptions = readOnly(got.Root.MountOptions)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", line, diff)
		}
	}
}

func TestFormatDracutRefuses(t *testing.T) {
	b := Boot{Root: Root{Transport: ISCSI, Servers: []string{"boot1"}, Name: "iqn.x"}}
	if _, err := b.FormatDracut(); err == nil || !strings.Contains(err.Error(), `"boot1" is a name`) {
		t.Error(err)
	}
}

// TestDracutShell: a shell is opened only where one is asked for; otherwise the machine restarts.
func TestDracutShell(t *testing.T) {
	for _, b := range []Boot{{Shell: true}, {Debug: true}, {}} {
		b.Root = Root{Transport: HTTP, URL: "http://h/x"}
		args, err := b.FormatDracut()
		line := strings.Join(args, " ")
		if err != nil || strings.Contains(line, "rd.emergency=reboot") == (b.Shell || b.Debug) {
			t.Errorf("%+v: %s, %v", b, line, err)
		}
	}
}

// A root that dracut mounts from another server can have memory and layers over it, too.
func TestParseDracutForeign(t *testing.T) {
	for line, want := range map[string]Boot{
		"root=UUID=ab rootovl=1G": {Overlay: Overlay{Enabled: true, Size: "1G"}},
		"rootovl":                 {Overlay: Overlay{Enabled: true}},
		"root=LABEL=x netroot=iscsi:10.0.0.1::::iqn.x rd.break": {Root: Root{Transport: ISCSI, Servers: []string{"10.0.0.1"}, Name: "iqn.x"}, Break: true},
		"root=nbd:a:1:ext4:rw,noatime:-name,x,-C,2":             {Root: Root{Transport: NBD, Servers: []string{"a"}, Port: 1, FSType: "ext4", MountOptions: []string{"rw", "noatime"}, Name: "x"}},
		"root=nbd:a:1:ext4:rw:-N":                               {Root: Root{Transport: NBD, Servers: []string{"a"}, Port: 1, FSType: "ext4", MountOptions: []string{"rw"}}},
	} {
		got, err := ParseDracut(line)
		if err != nil {
			t.Errorf("%s: %v", line, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", line, diff)
		}
	}
	if _, err := ParseDracut("root=UUID=ab netroot.layer=x"); err == nil {
		t.Error("a layer without a digest is taken")
	}
}
