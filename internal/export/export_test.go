package export

import (
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netroot/internal/boot"
	"netroot/internal/handoff"
)

var update = flag.Bool("update", false, "write the golden files")

const image = "debian12@0123456789ab"

// cmdline returns the command line of a plan, as the callers of this package do.
func cmdline(t *testing.T, s boot.Settings) []string {
	t.Helper()
	s.Overlay.Enabled = true
	s.Ports = boot.StandardPorts()
	if s.RW {
		s.Overlay.Enabled = false
	}
	p, err := boot.Decide(boot.Machine{Server: "10.0.0.1:8010", Ref: "debian12"}, boot.Image{
		Name: image, Arch: "amd64", KernelRelease: "6.1.0-56-amd64", RootFormat: "squashfs", Transports: handoff.Transports(),
		Root:   boot.File{Name: "root", Digest: handoff.Digest("sha256:" + strings.Repeat("1", 64))},
		Kernel: boot.File{Name: "vmlinuz", Digest: handoff.Digest("sha256:" + strings.Repeat("2", 64))}, Initrds: []boot.File{{Name: "initramfs", Digest: handoff.Digest("sha256:" + strings.Repeat("3", 64))}},
	}, s)
	if err != nil {
		t.Fatal(err)
	}
	return p.Cmdline
}

func prefixes(t *testing.T, texts ...string) []netip.Prefix {
	t.Helper()
	p, err := Clients(texts)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func must(s Set, err error) func(*testing.T) Set {
	return func(t *testing.T) Set {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
}

func TestGolden(t *testing.T) {
	const root = "/srv/netroot/" + image + ".squashfs"
	const tree = "/srv/trees/debian12"
	site := boot.Elsewhere{Path: tree}
	for name, set := range map[string]func(*testing.T) Set{
		"nbd":         must(NBD(Disk{Image: image, Path: root, Cmdline: cmdline(t, boot.Settings{Transport: handoff.NBD})})),
		"nbd-clients": must(NBD(Disk{Image: image, Path: root, Clients: prefixes(t, "10.0.0.0/24", "10.1.0.7", "2001:db8::/64")})),
		"iscsi": must(ISCSI(Disk{Image: image, Path: root, Clients: prefixes(t, "10.0.0.0/24", "10.1.0.7"), Cmdline: cmdline(t, boot.Settings{Transport: handoff.ISCSI, Elsewhere: boot.Elsewhere{LUN: TgtLUN}})},
			cmdline(t, boot.Settings{Transport: handoff.ISCSI}))),
		"nfs": must(NFS(Tree{Label: "debian12", Path: tree, Clients: prefixes(t, "10.0.0.0/24", "2001:db8::/64"), Private: []string{"/etc/shadow"},
			Cmdline: cmdline(t, boot.Settings{Transport: handoff.NFS, Elsewhere: site})})),
		"nfs-rw": must(NFS(Tree{Label: "debian12", Path: tree, Clients: prefixes(t, "10.0.0.7"), RW: true, Private: []string{"/etc/shadow"},
			Cmdline: cmdline(t, boot.Settings{Transport: handoff.NFS, RW: true, Elsewhere: site})})),
		"nfs-vm":        must(NFS(Tree{Label: "debian12", Path: tree, Clients: prefixes(t, "127.0.0.1"), NoSquash: true, Insecure: true})),
		"dhcp":          must(Snippets(DHCP{TFTP: netip.MustParseAddr("10.0.0.1"), Script: "http://10.0.0.1:8010/boot/debian12.ipxe", Loader: IPXE, Arch: "amd64"})),
		"dhcp-arm64":    must(Snippets(DHCP{TFTP: netip.MustParseAddr("10.0.0.1"), Script: "http://10.0.0.1:8010/boot/debian12.ipxe", Loader: IPXE, Arch: "arm64"})),
		"dhcp-pxelinux": must(Snippets(DHCP{TFTP: netip.MustParseAddr("10.0.0.1"), Script: "http://10.0.0.1:8010/boot/debian12.ipxe", Loader: Pxelinux})),
	} {
		golden(t, name+".txt", set(t).Text())
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v: run this test with -update", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), run with -update to write it:\n%s", name, diff)
	}
}

// A text that is read from a pipe has only configuration and comments.
func TestTextIsComments(t *testing.T) {
	s := Set{
		Files: []File{{"a", "/etc/a", "x = 1\n"}}, Steps: []string{"one\ntwo", "three"},
		Boots: []Boot{{"", []string{"root=nbd:a", "rootovl"}}, {"tgt", []string{"root=b"}}},
	}
	for line := range strings.Lines(s.Text()) {
		if line != "x = 1\n" && line != "\n" && !strings.HasPrefix(line, "# ") {
			t.Errorf("%q", line)
		}
	}
}

func TestRefusals(t *testing.T) {
	ok := prefixes(t, "10.0.0.7")
	for name, err := range map[string]error{
		"%":                                   second(NBD(Disk{Image: image, Path: "/srv/%s"})),
		"is not absolute":                     second(NBD(Disk{Image: image, Path: "srv/x"})),
		"' '":                                 second(ISCSI(Disk{Image: image, Path: "/srv/a b"}, nil)),
		`'\n'`:                                second(NFS(Tree{Path: "/srv/a\nb", Clients: ok})),
		"no machine may mount":                second(NFS(Tree{Path: "/srv/a"})),
		"rw allows only one node":             second(NFS(Tree{Path: "/srv/a", RW: true, Clients: prefixes(t, "10.0.0.0/24")})),
		"':', which ends the path":            second(NFS(Tree{Path: "/srv/a:b", Clients: ok})),
		"the IPv4 address of the TFTP server": second(Snippets(DHCP{TFTP: netip.MustParseAddr("2001:db8::1")})),
		"for riscv64, the architecture":       second(Snippets(DHCP{TFTP: netip.MustParseAddr("10.0.0.1"), Arch: "riscv64"})),
		"no loader pxelinux":                  second(Snippets(DHCP{TFTP: netip.MustParseAddr("10.0.0.1"), Arch: "arm64", Loader: Pxelinux})),
		`"10.0.0.1/24": the address has host bits`: second(Clients([]string{"10.0.0.1/24"})),
		`"boot1": not an address`:                  second(Clients([]string{"10.0.0.0/24", "boot1"})),
		`"fe80::1%eth0": not an ad`:                second(Clients([]string{"fe80::1%eth0"})),
	} {
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// The fsid of a tree is unique and does not change.
func TestFsid(t *testing.T) {
	a, b, c := fsid(Tree{Label: "a", Path: "/a"}), fsid(Tree{Label: "a", Path: "/b"}), fsid(Tree{Label: "b", Path: "/a"})
	if a == b || a == c || a != fsid(Tree{Label: "a", Path: "/a", RW: true}) {
		t.Error(a, b, c)
	}
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(a) {
		t.Errorf("%q is not a UUID", a)
	}
}

func TestKeaIsJSON(t *testing.T) {
	rules, err := DHCP{Loader: Pxelinux}.rules()
	if err != nil {
		t.Fatal(err)
	}
	var classes []map[string]string
	if err := json.Unmarshal([]byte(DHCP{TFTP: netip.MustParseAddr("10.0.0.1")}.kea(rules)), &classes); err != nil || len(classes) != len(rules) {
		t.Errorf("%v, %v", classes, err)
	}
}
