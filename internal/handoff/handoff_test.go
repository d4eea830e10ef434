package handoff

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var cmpNet = cmp.Options{
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmpopts.EquateEmpty(),
}

const layerURL = "http://10.0.2.2:8010/v1/layers/sha256:" +
	"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestParse(t *testing.T) {
	nbd := Root{Transport: NBD, Servers: []string{"10.0.2.2"}, Port: 10809, FSType: "squashfs", MountOptions: []string{"ro"}}
	layer := Layer{URL: layerURL, Digest: Digest(layerURL[strings.LastIndex(layerURL, "/")+1:])}
	for _, tt := range []struct {
		line string
		want Boot
	}{
		{"root=nbd:10.0.2.2:10809:squashfs:ro", Boot{Root: nbd}},
		{"quiet root=/dev/sda1 netroot=nbd:10.0.2.2:10809 rootfstype=squashfs rootflags=ro", Boot{Root: nbd}},
		{"root=nbd:boot1:debian12@0123456789ab:squashfs", Boot{Root: Root{Transport: NBD, Servers: []string{"boot1"}, Name: "debian12@0123456789ab", FSType: "squashfs"}}},
		{"root=nbd:boot1:2000/debian12", Boot{Root: Root{Transport: NBD, Servers: []string{"boot1"}, Port: 2000, Name: "debian12"}}},
		{"root=nbd:[fd00::2]:2000:erofs", Boot{Root: Root{Transport: NBD, Servers: []string{"fd00::2"}, Port: 2000, FSType: "erofs"}}},
		{"root=nvme:10.0.0.1,10.0.0.2:4420:squashfs:ro:nqn.2026-11.x:debian12", Boot{Root: Root{Transport: NVMe, Servers: []string{"10.0.0.1", "10.0.0.2"}, Port: 4420, FSType: "squashfs", MountOptions: []string{"ro"}, Name: "nqn.2026-11.x:debian12"}}},
		{"root=nvme:[fd00::1],[fd00::2]::::nqn.y", Boot{Root: Root{Transport: NVMe, Servers: []string{"fd00::1", "fd00::2"}, Name: "nqn.y"}}},
		{"root=iscsi:10.0.0.1::3261::iqn.2026-11.x:debian12 rootfstype=erofs", Boot{Root: Root{Transport: ISCSI, Servers: []string{"10.0.0.1"}, Port: 3261, FSType: "erofs", Name: "iqn.2026-11.x:debian12"}}},
		{"root=iscsi:10.0.0.1:::1:iqn.x", Boot{Root: Root{Transport: ISCSI, Servers: []string{"10.0.0.1"}, LUN: 1, Name: "iqn.x"}}},
		{"root=live:http://10.0.0.1,boot2,[fd00::1]:8010/v1/blobs/sha256:ab", Boot{Root: Root{Transport: HTTP, URL: "http://10.0.0.1:8010/v1/blobs/sha256:ab", Servers: []string{"boot2", "fd00::1"}}}},
		{"root=live:https://[fd00::1],10.0.0.1/a,b?c,d", Boot{Root: Root{Transport: HTTP, URL: "https://[fd00::1]/a,b?c,d", Servers: []string{"10.0.0.1"}}}},
		{"root=live:http://10.0.0.1:8010/v1/blobs/sha256:ab rootfstype=squashfs", Boot{Root: Root{Transport: HTTP, URL: "http://10.0.0.1:8010/v1/blobs/sha256:ab", FSType: "squashfs"}}},
		{"root=nfs:10.0.0.1:/debian12:ro,vers=3,nolock,port=2050,mountport=2050 rootovl", Boot{Root: Root{Transport: NFS, Servers: []string{"10.0.0.1"}, Port: 2050, Name: "/debian12", FSType: "nfs", MountOptions: []string{"ro", "vers=3", "nolock", "port=2050", "mountport=2050"}}, Overlay: Overlay{Enabled: true}}},
		{"audit=0 root=10.0.2.2:/srv/centos7:rw,nolock,nfsvers=3 rootfstype=nfs rd.luks=0", Boot{Root: Root{Transport: NFS, Servers: []string{"10.0.2.2"}, Name: "/srv/centos7", FSType: "nfs", MountOptions: []string{"rw", "nolock", "nfsvers=3"}}}},
		{"root=nfs4:[fd00::1]:/x rootflags=vers=4.2,port=99", Boot{Root: Root{Transport: NFS, Servers: []string{"fd00::1"}, Port: 99, Name: "/x", FSType: "nfs4", MountOptions: []string{"vers=4.2", "port=99"}}}},
		{"root=/dev/nfs nfsroot=10.0.0.1:/x,vers=3,ro", Boot{Root: Root{Transport: NFS, Servers: []string{"10.0.0.1"}, Name: "/x", FSType: "nfs", MountOptions: []string{"vers=3", "ro"}}}},
		{"root=live:nfs://10.0.0.1,[fd00::1]:2050/images/ab rootfstype=squashfs", Boot{Root: Root{Transport: NFSImage, Servers: []string{"10.0.0.1", "fd00::1"}, Port: 2050, Name: "/images/ab", FSType: "squashfs"}}},
		{"root=nbd:a:1 rootovl rd.shell=0 rd.debug", Boot{Root: Root{Transport: NBD, Servers: []string{"a"}, Port: 1}, Overlay: Overlay{Enabled: true}, Debug: true, Shell: true}},
		{"root=nbd:a:1 rd.retry=900", Boot{Root: Root{Transport: NBD, Servers: []string{"a"}, Port: 1}, Retry: 15 * time.Minute}},
		{"root=nbd:a:1 rd.retry=900 rd.retry=soon rd.retry=-1", Boot{Root: Root{Transport: NBD, Servers: []string{"a"}, Port: 1}, Retry: 15 * time.Minute}},
		{"root=nbd:a:1 rootovl=2G init=/bin/sh rd.break", Boot{Root: Root{Transport: NBD, Servers: []string{"a"}, Port: 1}, Overlay: Overlay{Enabled: true, Size: "2G"}, Init: "/bin/sh", Break: true}},
		{"root=nbd:a:1 rootovl=no", Boot{Root: Root{Transport: NBD, Servers: []string{"a"}, Port: 1}}},
		{"root=nbd:a:1 root=nbd:b:2 netroot.layer=" + layerURL, Boot{Root: Root{Transport: NBD, Servers: []string{"b"}, Port: 2}, Layers: []Layer{layer}}},
		{"root=nbd:a:1 rootovl rootovlcfg=a,b rootovlcfg= rootovlcfg=c,,../d", Boot{Root: Root{Transport: NBD, Servers: []string{"a"}, Port: 1}, Overlay: Overlay{Enabled: true}, TreeLayers: []string{"a", "b", "c", "", "../d"}}},
		{"root=nbd:a:1 BOOTIF=01-52-54-00-12-34-AB nameserver=10.0.2.3", Boot{Root: Root{Transport: NBD, Servers: []string{"a"}, Port: 1}, BootMAC: "52:54:00:12:34:ab", Nameservers: []netip.Addr{netip.MustParseAddr("10.0.2.3")}}},
		{`root=nbd:a:1 dyndbg="file drivers/x +p root=nbd:evil:1"`, Boot{Root: Root{Transport: NBD, Servers: []string{"a"}, Port: 1}}},
	} {
		got, err := Parse(tt.line)
		if err != nil {
			t.Errorf("Parse(%q): %v", tt.line, err)
		} else if d := cmp.Diff(tt.want, got, cmpNet); d != "" {
			t.Errorf("Parse(%q) (-want +got):\n%s", tt.line, d)
		}
	}
}

func TestURLs(t *testing.T) {
	for line, want := range map[string][]string{
		"root=live:http://a/x":                      {"http://a/x"},
		"root=live:http://a,b:80/x":                 {"http://a:80/x", "http://b:80/x"},
		"root=live:http://[fd00::1],[fd00::2]:80/x": {"http://[fd00::1]:80/x", "http://[fd00::2]:80/x"},
		"root=live:http://a,[fd00::2]/x":            {"http://a/x", "http://[fd00::2]/x"},
	} {
		b, err := Parse(line)
		if err != nil {
			t.Errorf("Parse(%q): %v", line, err)
		} else if got := b.Root.URLs(); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

func TestModuleParameters(t *testing.T) {
	got := ModuleParameters(`quiet nvme_core.multipath=Y usb-storage.quirks=1:2:u nvme-core.io_timeout=60 nbd.nbds_max=2 rd.debug dyndbg.x="a b" .x=1 y.=1 z=a.b`)
	want := map[string]string{
		"nvme_core": "multipath=Y io_timeout=60", "usb_storage": "quirks=1:2:u", "nbd": "nbds_max=2", "rd": "debug", "dyndbg": `x="a b"`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestParseErrors(t *testing.T) {
	for line, want := range map[string]string{
		"quiet":                                 "no root=",
		"root=/dev/sda1":                        "not a transport",
		"root=nbd:":                             "no server is named",
		"root=nvme:a:1:squashfs":                "no subsystem is named",
		"root=iscsi:a::::":                      "no target is named",
		"root=iscsi:u:p@a::::iqn":               "no target is named",
		"root=iscsi:u@a::::iqn":                 "password",
		"root=iscsi:a:::16384:iqn":              "LUN",
		"root=iscsi:a:::b:iqn":                  "LUN",
		"root=live:/dev/sr0":                    "expected live:http://",
		"root=live:http:///x":                   "expected live:http://",
		"root=live:http://,:80/x":               "expected live:http://",
		"root=live:http://a,b:port/x":           "expected live:http://",
		"root=nbd:a:0":                          "not a port",
		"root=nbd:a:70000":                      "not a port",
		"root=nfs:/srv/x":                       "no server is named",
		"root=nfs:a:srv/x":                      "not an absolute path",
		"root=nfs:a:/srv/../x":                  "not an absolute path",
		"root=nfs:a:/x:ro:more":                 "unexpected",
		"root=nfs:a:/x:port=0":                  "not a port",
		"root=live:nfs://a/x":                   "no directory and file",
		"root=live:nfs://a:b/images/x":          "not a port",
		"root=/dev/nfs":                         "not a transport",
		"root=nbd:a:1 netroot.layer=http://h/x": "64 hexadecimal digits",
		"root=nbd:a:1 netroot.layer=ftp://h/x":  "expected http://",
	} {
		if _, err := Parse(line); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q) = %v, want an error with %q", line, err, want)
		}
	}
}

func TestCheckLayerName(t *testing.T) {
	for _, name := range []string{"a", "site", "52:54:00:12:34:56", "Knoten-7.größe", "_x", "..a", "a=b%c~d+e@f", strings.Repeat("x", 255)} {
		if err := CheckLayerName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{
		"", ".", "..", "a/b", "/", "../a", "a b", "a\tb", "a,b", `a"b`, "a'b", "$x", "`id`", "a;b", "a|b", "#a", "a\x00", "a\\b", "*", "a\xff",
		"\u202eab", strings.Repeat("x", 256),
	} {
		if err := CheckLayerName(name); err == nil {
			t.Errorf("%q: accepted", name)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("root=nbd:10.0.2.2:10809/x:squashfs:ro ip=dhcp rootovl=2G BOOTIF=01-52-54-00-12-34-56")
	f.Add("netroot=nbd:[fd00::1]:name rd.debug ip=[fd00::9]::[fd00::1]:64:n1:eth0:none nameserver=1.1.1.1")
	f.Add("root=nbd:a:1 netroot.layer=" + layerURL)
	f.Add("root=nvme:a,b:4420:squashfs:ro:nqn.x:y")
	f.Add("root=iscsi:a:tcp:3260:0:iqn.x:y rootfstype=squashfs rootflags=ro")
	f.Add("root=iscsi:a:::1:iqn.x:y")
	f.Add("root=live:http://h/v1/blobs/x")
	f.Add("root=nbd:a:1 rootovl rootovlcfg=a,,.. rootovlcfg=b")
	f.Add("root=a:/x:ro,vers=3 rootfstype=nfs rootflags=port=3")
	f.Add("root=/dev/nfs nfsroot=a:/x,vers=3")
	f.Add("root=a:/x rootfstype=nfs rootflags=clientaddr=fd00::1")
	f.Add("root=live:http://a,b:80/x")
	f.Add("root=live:nfs://a,b:2050/images/x rootfstype=erofs")
	f.Fuzz(func(t *testing.T, line string) {
		b, err := Parse(line)
		if err != nil {
			return
		}
		text := strings.Join(b.Format(), " ")
		if strings.ContainsAny(line, "\"\t\n\v\f\r\u0085\u00a0[]") {
			return // quoting is the kernel's, and Format never needs it
		}
		again, err := Parse(text)
		if err != nil {
			t.Fatalf("%q formats as %q: %v", line, text, err)
		}
		if d := cmp.Diff(b.Format(), again.Format()); d != "" {
			t.Fatalf("%q: %s", line, d)
		}
	})
}

func TestSplitArguments(t *testing.T) {
	for line, want := range map[string][]string{
		" \n":                                nil,
		"quiet\tro\nx=1":                     {"quiet", "ro", "x=1"},
		`dyndbg="file a.c +p" "b c"=d quiet`: {`dyndbg="file a.c +p"`, `"b c"=d`, "quiet"},
	} {
		if got, whole := SplitArguments(line); !whole || strings.Join(got, "|") != strings.Join(want, "|") {
			t.Errorf("%q: %q, %v, want %q", line, got, whole, want)
		}
	}
	if got, whole := SplitArguments(`a="b c`); whole || len(got) != 1 {
		t.Errorf("an open quote: %q, %v", got, whole)
	}
}

// TestValidLabel holds the names against the expression of image-spec.
func TestValidLabel(t *testing.T) {
	form := regexp.MustCompile(`^[a-z0-9]+(?:[._-][a-z0-9]+)*$`)
	names := []string{"", "debian12", "a", "0", "a.b-c_d", "a..b", "-a", "a-", "a_-b", ".", "A", "a/b", "a b", "a\n", "\u00e4", "a@b"}
	if long := strings.Repeat("a", 128); !ValidLabel(long) || ValidLabel(long+"a") {
		t.Error("the limit is not 128 bytes")
	}
	for _, name := range names {
		for _, other := range names {
			if got, want := ValidLabel(name+other), form.MatchString(name+other); got != want {
				t.Errorf("%q: %v", name+other, got)
			}
		}
	}
}
