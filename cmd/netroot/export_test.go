package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"netroot/internal/handoff"
	"netroot/internal/store"
)

// exportSite is a directory with a configuration, a tree, and an image of the label "tiny" whose
// parts are not what they are called: export looks into none.
func exportSite(t *testing.T) (dir string, im *store.Image) {
	t.Helper()
	dir = t.TempDir()
	s, err := store.Create(filepath.Join(dir, "state/images"))
	must(t, err)
	var parts []store.Part
	for _, role := range []store.Role{store.RoleRoot, store.RoleKernel, store.RoleInitramfs, store.RoleInitramfsHardware} {
		part := store.Part{Role: role, Path: filepath.Join(dir, string(role))}
		must(t, os.WriteFile(part.Path, []byte("the "+role), 0o644))
		parts = append(parts, part)
	}
	im, err = s.Commit(t.Context(), "tiny", store.Config{Architecture: "amd64", RootFormat: "squashfs", KernelRelease: "6.1", System: "Tiny", Transports: handoff.Transports()}, parts)
	must(t, err,
		os.MkdirAll(filepath.Join(dir, "tree/etc"), 0o755),
		os.WriteFile(filepath.Join(dir, "tree/etc/shadow"), nil, 0o600),
		os.WriteFile(filepath.Join(dir, "netroot.yaml"), []byte("state: state\nlabels:\n  tiny: {tree: tree, cmdline: quiet}\n"), 0o644))
	return dir, im
}

func TestExport(t *testing.T) {
	dir, im := exportSite(t)
	state := filepath.Join(dir, "state/images/blobs/sha256/")
	out := filepath.Join(dir, "out")
	for _, tt := range []struct {
		args string
		want []string // in what is printed
	}{
		{"nbd tiny --server 10.0.0.1", []string{"[" + im.Name() + "]\n", "exportname = " + state, "root=nbd:10.0.0.1:" + im.Name() + ":squashfs ip=dhcp rootovl quiet\n"}},
		{"nbd tiny --server 10.0.0.1 -o out", []string{out + "/nbd-server/" + im.Name() + ".conf goes to /etc/nbd-server/conf.d/" + im.Name() + ".conf\n"}},
		{"iscsi " + im.ID() + " --server 10.0.0.1:80", []string{"<backing-store " + state, "A node boots from tgt with: root=iscsi:10.0.0.1::3260:1:iqn.", "A node boots from LIO with: root=iscsi:10.0.0.1::3260::iqn."}},
		{"nfs tiny --server [2001:db8::1] --clients 2001:db8::/64", []string{dir + "/tree 2001:db8::/64(ro,sync,", "root=nfs:[2001:db8::1]:" + dir + "/tree:ro,", "root_squash"}},
		{"nfs tiny --server 10.0.0.1 --clients 10.0.0.0/8 --packed -o out", []string{"root=live:nfs://10.0.0.1" + out + "/" + im.Name() + ".squashfs rootfstype=squashfs"}},
		{"dhcp tiny --server 10.0.0.1", []string{"http://10.0.0.1:8010/boot/tiny.ipxe", "undionly.kpxe,,10.0.0.1\n"}},
		{"dhcp tiny --server boot1:80 --tftp 10.0.0.2 --loader pxelinux", []string{"http://boot1:80/boot/tiny.ipxe", "pxelinux.0,,10.0.0.2\n"}},
		{"pxelinux tiny --server 10.0.0.1 --transport nbd --console ttyS0", []string{"DEFAULT tiny\n", "KERNEL netroot/" + im.Name() + "/vmlinuz\n", "/initramfs,netroot/" + im.Name() + "/initramfs-hardware\n", "APPEND root=nbd:10.0.0.1:" + im.Name() + ":squashfs ip=dhcp rootovl console=ttyS0 quiet\n", "MENU LABEL tiny, Tiny, 6.1 (" + im.ID() + ")\n"}},
		{"pxelinux tiny --server 10.0.0.1 --transport iscsi --site --lun 0 --port 3261 --default=false --virtio", []string{"root=iscsi:10.0.0.1::3261::iqn", "/initramfs\n"}},
		{"pxelinux " + im.Name() + " --server 10.0.0.1 --transport nfs --site --http http://10.0.0.1/tftp/", []string{"LABEL " + im.Name() + "\n", "KERNEL http://10.0.0.1/tftp/netroot/" + im.Name() + "/vmlinuz\n", "root=nfs:10.0.0.1:" + dir + "/tree:ro,vers=3,tcp,nolock"}},
		{"pxelinux tiny --server 10.0.0.1 --transport nfs-image --site --packed /srv/roots", []string{"root=live:nfs://10.0.0.1/srv/roots/" + im.Name() + ".squashfs rootfstype=squashfs"}},
	} {
		cmd := netroot(t, dir, append([]string{"export"}, strings.Fields(tt.args)...)...)
		got, err := cmd.Output()
		if err != nil {
			t.Errorf("%s: %v", tt.args, err)
		}
		for _, want := range tt.want {
			if !strings.Contains(string(got), want) {
				t.Errorf("%s: no %q in\n%s", tt.args, want, got)
			}
		}
		if strings.Contains(tt.args, "--default=false") && strings.Contains(string(got), "DEFAULT") {
			t.Errorf("%s:\n%s", tt.args, got)
		}
	}
	root, err := os.ReadFile(filepath.Join(out, im.Name()+".squashfs"))
	if err != nil || string(root) != "the root" {
		t.Errorf("%q, %v", root, err)
	}
}

func TestExportRefuses(t *testing.T) {
	dir, im := exportSite(t)
	must(t, os.MkdirAll(filepath.Join(dir, "taken"), 0o755), os.WriteFile(filepath.Join(dir, "taken", im.Name()+".squashfs"), []byte("else"), 0o644))
	for args, want := range map[string]string{
		"nbd tiny":                   "the address of the server is not known: give --server ADDRESS, or servers: [ADDRESS]",
		"nbd tyni --server 10.0.0.1": `no such image: tyni; did you mean "tiny"?`,
		"nbd tiny --server a/b":      `"a/b" is not a host name`,
		"nbd tiny --server 10.0.0.1 --clients 10.0.0.1/8":         "the address has host bits",
		"nbd tiny --server 10.0.0.1 -o taken":                     im.Name() + ".squashfs exists and is another file",
		"nfs tiny --server 10.0.0.1":                              "no machine may mount its tree",
		"dhcp tiny --server boot1":                                "the TFTP server boot1: DHCP names it by its IPv4 address",
		"dhcp tiny --server 10.0.0.1 --loader grub":               `unknown loader "grub": choose ipxe or pxelinux`,
		"pxelinux tiny --server 10.0.0.1 --site":                  "--site requires --transport nbd, iscsi, nfs or nfs-image",
		"pxelinux tiny --server 10.0.0.1 --site --transport nvme": "--site requires --transport nbd, iscsi, nfs or nfs-image",
		"nothing tiny": `unknown command "nothing"`,
	} {
		cmd := netroot(t, dir, append([]string{"export"}, strings.Fields(args)...)...)
		got, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(got), want) {
			t.Errorf("%s: %v, want %s\n%s", args, err, want, got)
		}
	}
}
