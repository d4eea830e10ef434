package boot

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"netroot/internal/handoff"
)

var update = flag.Bool("update", false, "write the golden files")

func digest(c string) handoff.Digest { return handoff.Digest("sha256:" + strings.Repeat(c, 64)) }

func nbdOn(port uint16) Ports { return SamePort(port, handoff.NBD) }

// all is a server with every transport.
var all = StandardPorts()

func debian() Image {
	return Image{
		Name: "debian12@0123456789ab", Arch: "amd64", KernelRelease: "6.1.0-56-amd64", RootFormat: "squashfs",
		Transports: handoff.Transports(),
		Root:       File{Digest: digest("e"), Size: 131 << 20},
		Dracut:     File{Name: "initramfs-dracut", Digest: digest("f"), Size: 53 << 20},

		DracutTransports: handoff.Transports(),
		Kernel:           File{Name: "vmlinuz", Digest: digest("a"), Size: 8 << 20},
		Initrds: []File{
			{Name: "initramfs", Digest: digest("b"), Size: 4 << 20},
			{Name: "initramfs-hardware", Digest: digest("c"), Size: 12 << 20},
		},
	}
}

func TestGolden(t *testing.T) {
	vm := Machine{Server: "10.0.2.2:8010", Virtio: true, Ref: "debian12"}
	for _, test := range []struct {
		name string
		m    Machine
		s    Settings
	}{
		{"plain", Machine{Server: "boot1.example.org"}, Settings{Ports: nbdOn(handoff.DefaultNBDPort)}},
		{"vm", vm, Settings{Overlay: handoff.Overlay{Enabled: true}, Ports: nbdOn(40001), TreeLayers: []string{"site", "rack7"}, Layers: []handoff.Digest{digest("d")}, Console: []string{"ttyS0,115200"}}},
		{"nvme", vm, Settings{Ports: all, Servers: []string{"10.0.2.2", "10.0.2.3", "2001:db8::3"}}},
		{"iscsi", vm, Settings{Ports: all, Transport: handoff.ISCSI}},
		{"http", vm, Settings{Ports: all, Transport: handoff.HTTP}},
		{"http-servers", vm, Settings{Ports: all, Transport: handoff.HTTP, Servers: []string{"10.0.2.2", "10.0.2.3", "2001:db8::3"}}},
		{"nfs", vm, Settings{Ports: all, Transport: handoff.NFS, Overlay: handoff.Overlay{Enabled: true}, Servers: []string{"10.0.2.2", "10.0.2.3", "2001:db8::3"}}},
		{"nfs-rw", vm, Settings{Ports: all, RW: true, RunLayers: []handoff.Digest{digest("d")}}},
		{"nfs-site", vm, Settings{Ports: all, Transport: handoff.NFS, Elsewhere: Elsewhere{Path: "/srv/trees/debian12"}}},
		{"nfs-kernel", vm, Settings{Ports: SamePort(40001, handoff.NFS), Transport: handoff.NFS, Elsewhere: Elsewhere{Path: "/srv/trees/debian12", MountPort: 40002}}},
		{"nfs-image-site", vm, Settings{Ports: all, Transport: handoff.NFSImage, Elsewhere: Elsewhere{Path: "/srv/images/debian12.squashfs"}}},
		{"iscsi-tgt", vm, Settings{Ports: all, Transport: handoff.ISCSI, Elsewhere: Elsewhere{LUN: 1}}},
		{"nfs-image", vm, Settings{Ports: all, Transport: handoff.NFSImage, Overlay: handoff.Overlay{Enabled: true}}},
		{"dracut-nbd", vm, Settings{Initramfs: handoff.Dracut, Transport: handoff.NBD, Ports: nbdOn(handoff.DefaultNBDPort), Servers: []string{"10.0.2.3"}, Overlay: handoff.Overlay{Enabled: true}, Layers: []handoff.Digest{digest("d")}, Console: []string{"ttyS0"}}},
		{"dracut-nbd-port", vm, Settings{Initramfs: handoff.Dracut, Transport: handoff.NBD, Ports: nbdOn(40001), Debug: true}},
		{"dracut-iscsi", vm, Settings{Initramfs: handoff.Dracut, Transport: handoff.ISCSI, Ports: all, Servers: []string{"10.0.2.3"}}},
		{"dracut-nfs", vm, Settings{Initramfs: handoff.Dracut, Transport: handoff.NFS, Ports: all, Overlay: handoff.Overlay{Enabled: true, Size: "2G"}, TreeLayers: []string{"a", "b"}}},
		{"dracut-nfs-rw", vm, Settings{Initramfs: handoff.Dracut, RW: true, Ports: all, RunLayers: []handoff.Digest{digest("d")}}},
		{"dracut-nfs-image", vm, Settings{Initramfs: handoff.Dracut, Transport: handoff.NFSImage, Ports: all, Servers: []string{"10.0.2.3"}}},
		{"dracut-http", vm, Settings{Initramfs: handoff.Dracut, Transport: handoff.HTTP}},
		{"dracut-nvme", Machine{Server: "boot1.example.org"}, Settings{Initramfs: handoff.Dracut, Ports: all, Servers: []string{"10.0.2.3"}}},
		{"dracut-ipv6", Machine{Server: "[2001:db8::1]:8010"}, Settings{Initramfs: handoff.Dracut, Transport: handoff.ISCSI, Ports: all}},
		{"debug", vm, Settings{Ports: nbdOn(handoff.DefaultNBDPort), Overlay: handoff.Overlay{Enabled: true}, Debug: true, Console: []string{"tty0", "ttyS1"}, Cmdline: []string{"nosmt", `dyndbg="file nbd.c +p"`}}},
		{"known", Machine{Server: "192.0.2.1:8010", Arch: "amd64", Firmware: UEFI, MAC: "52-54-00-AB-CD-EF", UUID: "4c4c4544-0042-3510-8053-b4c04f4d4e31", Serial: "B5SMN1", Asset: "rack 7"}, Settings{Ports: nbdOn(handoff.DefaultNBDPort), Cmdline: []string{"ip=eth1:dhcp"}}},
		{"ipv6", Machine{Server: "[2001:db8::1]:8010"}, Settings{Ports: nbdOn(handoff.DefaultNBDPort), Overlay: handoff.Overlay{Enabled: true}}},
	} {
		p, err := Decide(test.m, debian(), test.s)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		golden(t, test.name+".ipxe", p.IPXE())
		golden(t, test.name+".txt", p.Text())
		js, err := json.MarshalIndent(p, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, test.name+".json", string(js)+"\n")
	}
	golden(t, "ask.ipxe", Ask(ScriptURL("10.0.2.2:8010", "debian12", true)))
	golden(t, "refusal.ipxe", Refusal("no image \"debain12\"; did you mean ${debian12}? # ; || \nreboot", "http://10.0.2.2/boot/debain12.ipxe", 0, 0.5))
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
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), -update writes it anew:\n%s", name, diff)
	}
}

// What is written here must be what the node reads there.
func TestNodeReadsIt(t *testing.T) {
	m := Machine{Server: "[2001:db8::1]:8010", MAC: "52:54:00:12:34:56"}
	p, err := Decide(m, debian(), Settings{Overlay: handoff.Overlay{Enabled: true}, Debug: true, Ports: nbdOn(2000), TreeLayers: []string{"a", "b"}, Layers: []handoff.Digest{digest("d"), digest("e")}, Console: []string{"ttyS0"}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := handoff.Parse(strings.Join(p.Cmdline, " "))
	if err != nil {
		t.Fatal(err)
	}
	url := "http://[2001:db8::1]:8010/v1/layers/"
	want := handoff.Boot{
		Root:       handoff.Root{Transport: handoff.NBD, Servers: []string{"2001:db8::1"}, Port: 2000, Name: "debian12@0123456789ab", FSType: "squashfs"},
		Overlay:    handoff.Overlay{Enabled: true},
		TreeLayers: []string{"a", "b"},
		Layers:     []handoff.Layer{{URL: url + string(digest("d")), Digest: digest("d")}, {URL: url + string(digest("e")), Digest: digest("e")}},
		Interfaces: got.Interfaces,
		BootMAC:    "52:54:00:12:34:56",
		Shell:      true,
		Debug:      true,
	}
	if len(got.Interfaces) != 1 || got.Interfaces[0].Method != "dhcp" {
		t.Errorf("interfaces: %+v", got.Interfaces)
	}
	got.Interfaces, want.Interfaces = nil, nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDecideRefuses(t *testing.T) {
	ok := Machine{Server: "10.0.2.2"}
	for _, test := range []struct {
		name string
		m    Machine
		im   func(*Image)
		s    Settings
		want string
	}{
		{"no server", Machine{}, nil, Settings{Ports: nbdOn(handoff.DefaultNBDPort)}, "empty"},
		{"a blank in the server", Machine{Server: "a b"}, nil, Settings{Ports: nbdOn(handoff.DefaultNBDPort)}, "host name"},
		{"a command in the server", Machine{Server: "a\nreboot"}, nil, Settings{Ports: nbdOn(handoff.DefaultNBDPort)}, "host name"},
		{"a setting in the server", Machine{Server: "${x}:80"}, nil, Settings{Ports: nbdOn(handoff.DefaultNBDPort)}, "host name"},
		{"a user in the server", Machine{Server: "a@b:80"}, nil, Settings{Ports: nbdOn(handoff.DefaultNBDPort)}, "host name"},
		{"port 0", Machine{Server: "a:0"}, nil, Settings{Ports: nbdOn(handoff.DefaultNBDPort)}, "port"},
		{"port text", Machine{Server: "a:http"}, nil, Settings{Ports: nbdOn(handoff.DefaultNBDPort)}, "port"},
		{"bare IPv6", Machine{Server: "fe80::1"}, nil, Settings{Ports: nbdOn(handoff.DefaultNBDPort)}, "HOST:PORT"},
		{"IPv6 zone", Machine{Server: "[fe80::1%eth0]:80"}, nil, Settings{Ports: nbdOn(handoff.DefaultNBDPort)}, "zone"},
		{"brackets", Machine{Server: "[10.0.0.1]:80"}, nil, Settings{Ports: nbdOn(handoff.DefaultNBDPort)}, "brackets"},
		{"MAC", Machine{Server: "a", MAC: "no"}, nil, Settings{Ports: nbdOn(handoff.DefaultNBDPort)}, "MAC"},
		{"another architecture", Machine{Server: "a", Arch: "arm64"}, nil, Settings{Ports: nbdOn(handoff.DefaultNBDPort)}, "is for amd64"},
		{"no kernel", ok, func(im *Image) { im.Kernel = File{} }, Settings{Ports: nbdOn(handoff.DefaultNBDPort)}, `has no kernel, so no machine can boot it: install a kernel in its recipe, and build it without "kernel: none"`},
		{"no initramfs", ok, func(im *Image) { im.Initrds = nil }, Settings{Ports: nbdOn(handoff.DefaultNBDPort)}, "no initramfs"},
		{"layers on a read-only root", ok, nil, Settings{Ports: nbdOn(handoff.DefaultNBDPort), Layers: []handoff.Digest{digest("d")}}, "overlay: true"},
		{"a tree's layers on a read-only root", ok, nil, Settings{Ports: nbdOn(handoff.DefaultNBDPort), TreeLayers: []string{"a"}}, "overlay: true"},
		{"the name of a tree's layer", ok, nil, Settings{Ports: nbdOn(handoff.DefaultNBDPort), Overlay: handoff.Overlay{Enabled: true}, TreeLayers: []string{"a b"}}, "cannot name a layer"},
		{"a transport that the kernel lacks", ok, func(im *Image) { im.Transports = []handoff.Transport{handoff.NBD} }, Settings{Ports: all, Transport: handoff.NVMe}, "kernel 6.1.0-56-amd64 cannot take a root over nvme"},
		{"a transport that is not served", ok, nil, Settings{Ports: nbdOn(1), Transport: handoff.ISCSI}, "does not serve iscsi"},
		{"a transport that is for others", ok, nil, Settings{Ports: all, Transport: handoff.NFSImage, Withheld: map[handoff.Transport]string{handoff.NFS: "no key"}}, "does not serve nfs-image to nodes: no key"},
		{"nothing but what is for others", ok, nil, Settings{Ports: nbdOn(1), Withheld: map[handoff.Transport]string{handoff.NBD: "TLS"}}, "none of the transports"},
		{"nothing in common", ok, func(im *Image) { im.Transports = []handoff.Transport{handoff.HTTP} }, Settings{Ports: all}, "none of the transports"},
		{"writing through a disk", ok, nil, Settings{Ports: all, Transport: handoff.NVMe, RW: true}, "rw requires the transport nfs"},
		{"writing to both", ok, nil, Settings{Ports: all, Overlay: handoff.Overlay{Enabled: true}, RW: true}, "exclude each other"},
		{"a port with another server", ok, nil, Settings{Ports: all, Servers: []string{"b:80"}}, "servers: \"b:80\" is not"},
		{"a list in another server", ok, nil, Settings{Ports: all, Servers: []string{"b,c"}}, "not a host name"},
		{"no dracut", ok, func(im *Image) { im.Dracut = File{} }, Settings{Ports: all, Initramfs: handoff.Dracut}, "has no initramfs of dracut: set initramfs: dracut"},
		{"what dracut lacks", ok, func(im *Image) { im.DracutTransports = []handoff.Transport{handoff.NBD, handoff.HTTP} }, Settings{Ports: all, Initramfs: handoff.Dracut, Transport: handoff.NFS}, "cannot attach a root over nfs: it has nbd, http"},
		{"nothing in common with dracut", ok, func(im *Image) { im.DracutTransports = []handoff.Transport{handoff.ISCSI} }, Settings{Ports: nbdOn(1), Initramfs: handoff.Dracut}, "over iscsi, and none of these is served"},
		{"a dracut without anything", ok, func(im *Image) { im.DracutTransports = nil }, Settings{Ports: nbdOn(1), Initramfs: handoff.Dracut}, "no transport"},
		{"dracut and a name", Machine{Server: "boot1:8010"}, nil, Settings{Ports: all, Initramfs: handoff.Dracut, Transport: handoff.ISCSI}, `"boot1" is a name`},
		{"no digest", ok, nil, Settings{Ports: nbdOn(handoff.DefaultNBDPort), Overlay: handoff.Overlay{Enabled: true}, Layers: []handoff.Digest{"md5:x"}}, "sha256"},
		{"two lines", ok, nil, Settings{Ports: nbdOn(handoff.DefaultNBDPort), Cmdline: []string{"a\nreboot"}}, "control"},
		{"an expansion", ok, nil, Settings{Ports: nbdOn(handoff.DefaultNBDPort), Cmdline: []string{"a=${net0/ip}"}}, "expand"},
		{"a comment", ok, nil, Settings{Ports: nbdOn(handoff.DefaultNBDPort), Cmdline: []string{"#quiet"}}, "end the line"},
		{"a command", ok, nil, Settings{Ports: nbdOn(handoff.DefaultNBDPort), Cmdline: []string{"a || reboot"}}, "end the line"},
		{"nothing", ok, nil, Settings{Ports: nbdOn(handoff.DefaultNBDPort), Cmdline: []string{" "}}, "empty"},
		{"too long", ok, nil, Settings{Ports: nbdOn(handoff.DefaultNBDPort), Cmdline: []string{strings.Repeat("x", 2000)}}, "shorten"},
	} {
		im := debian()
		if test.im != nil {
			test.im(&im)
		}
		if _, err := Decide(test.m, im, test.s); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// iPXE takes these words for its own wherever they stand, and takes them for text inside of a word.
func TestArguments(t *testing.T) {
	decide := func(args ...string) error {
		_, err := Decide(Machine{Server: "a"}, debian(), Settings{Ports: all, Cmdline: args})
		return err
	}
	for _, word := range []string{"||", "&&", ";", "#", "#x"} {
		for _, arg := range []string{word, word + " a", "a " + word, "a " + word + " b", "a\u00a0" + word} {
			for _, args := range [][]string{{arg}, {"quiet", arg}, {arg, "quiet"}} {
				if err := decide(args...); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("the word %q", word)) {
					t.Errorf("%q: %v", args, err)
				}
			}
		}
		inside := "a" + word + "b"
		if err := decide(inside, "x="+word, `x="a`+word+` b"`); err != nil {
			t.Errorf("%q: %v", inside, err)
		}
	}
	for _, text := range []string{"${", "a${b", "${x}", "", " ", "\t", "a\nb", "\x7f", "a\x00"} {
		if decide("quiet", text) == nil {
			t.Errorf("%q is taken", text)
		}
	}
	for _, text := range []string{"$x", "{x}", "$ {x}", "|", "&", ";;", "|||", "a=b;c"} {
		if err := decide(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// Whatever a machine calls the server, and whatever is configured, a script has the lines that the
// plan gave it.
func FuzzIPXE(f *testing.F) {
	f.Add("10.0.2.2:80", "quiet", "debian12")
	f.Add("[::1]:80", "a=b || reboot", "../x y\n${z}")
	f.Fuzz(func(t *testing.T, server, arg, ref string) {
		p, err := Decide(Machine{Server: server, Ref: ref}, debian(), Settings{Ports: nbdOn(handoff.DefaultNBDPort), Cmdline: []string{arg}})
		if err == nil {
			checkScript(t, p.IPXE(), 13)
			if _, err := handoff.Parse(strings.Join(p.Cmdline[:2], " ")); err != nil {
				t.Errorf("server %q: %v", server, err)
			}
		}
		checkScript(t, Refusal(arg, ScriptURL("10.0.2.2", ref, true), 3, 1), 7)
		checkScript(t, Ask(ScriptURL("10.0.2.2", ref, true)), 6)
	})
}

func checkScript(t *testing.T, script string, want int) {
	t.Helper()
	lines := strings.Split(strings.TrimSuffix(script, "\n"), "\n")
	if len(lines) != want {
		t.Errorf("%d lines, not %d:\n%s", len(lines), want, script)
	}
	script = strings.ReplaceAll(strings.ReplaceAll(script, "${netX/mac:hexhyp}", ""), facts, "")
	if strings.Contains(script, "${") || strings.ContainsRune(script, '\r') {
		t.Errorf("something to expand in:\n%q", script)
	}
	for _, line := range lines {
		for i, word := range strings.Fields(line) {
			end := word == "||" || word == "&&" || word == ";" || i > 0 && word[0] == '#'
			if end && !strings.HasSuffix(line, "|| goto failed") && !strings.HasSuffix(line, "|| goto start") && !pauses.MatchString(line) && !(strings.HasPrefix(line, "chain --replace http://") && len(strings.Fields(line)) == 4 && strings.HasSuffix(line, " ||")) {
				t.Errorf("line ends at %q: %q", word, line)
			}
		}
	}
}

func TestQualifiedNames(t *testing.T) {
	const image = "debian12_x@0123456789ab"
	for _, name := range []string{NQN(image), IQN(image)} {
		if id, ok := ImageOf(name); !ok || id != "0123456789ab" {
			t.Errorf("ImageOf(%q) = %q, %v", name, id, ok)
		}
	}
	for _, name := range []string{"", "nqn", "nqn.2014-08.org.nvmexpress.discovery", "nqn." + naming} {
		if id, ok := ImageOf(name); ok {
			t.Errorf("ImageOf(%q) = %q", name, id)
		}
	}
}

// pauses are lines that may end at "||" because Ctrl-C ends them early.
var pauses = regexp.MustCompile(`^sleep [0-9]+ \|\|$`)

// TestRefusalPause: a machine that is refused asks less and less often, and not in step with others;
// the script that it gets counts on.
func TestRefusalPause(t *testing.T) {
	for refused, want := range [][3]int{{4, 5, 6}, {8, 10, 13}, {15, 20, 25}, {30, 40, 50}, {45, 60, 75}, {45, 60, 75}} {
		if got := [3]int{refusalPause(refused, 0), refusalPause(refused, 0.5), refusalPause(refused, 1)}; got != want {
			t.Errorf("after %d refusals %v, want %v", refused, got, want)
		}
	}
	if got := refusalPause(65535, 0.5); got != longestPause {
		t.Errorf("after 65535 refusals %d", got)
	}
	for query, want := range map[string]int{"": 0, "virtio=1&refused=3&arch=x86_64": 3, "refused=": 0, "refused=-1": 0, "refused=99999": 0, "xrefused=3": 0} {
		if got := RefusedBefore(query); got != want {
			t.Errorf("%q: %d, want %d", query, got, want)
		}
	}
	script := Refusal("no", ScriptURL("10.0.2.2", "a", true), 2, 0.5)
	if !strings.Contains(script, "sleep 20 ||\nchain --replace http://10.0.2.2/boot/a.ipxe?virtio=1&refused=3&arch=") {
		t.Error(script)
	}
}
