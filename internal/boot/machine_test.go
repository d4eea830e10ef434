package boot

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseMachine(t *testing.T) {
	at := func(m Machine) Machine {
		m.Server, m.Ref = "10.0.0.1:8010", "debian12"
		return m
	}
	for query, want := range map[string]struct {
		m    Machine
		told bool
	}{
		"":                           {at(Machine{}), false},
		"virtio=1":                   {at(Machine{Virtio: true}), false},
		"virtio=yes&mac=none&x&%zz=": {at(Machine{}), false},
		"arch=&platform=&mac=&uuid=&serial=&asset=": {at(Machine{}), true},
		"arch=x86_64&platform=efi&mac=52:54:00:12:34:56&uuid=4C4C4544-0042-3510-8053-b4c04f4d4e31&serial=AB%20C%2b+1&asset=rack%207": {
			at(Machine{Arch: "amd64", Firmware: UEFI, MAC: "52:54:00:12:34:56", UUID: "4c4c4544-0042-3510-8053-b4c04f4d4e31", Serial: "AB C++1", Asset: "rack 7"}), true},
		"arch=i386&platform=pcbios":                       {at(Machine{Firmware: BIOS}), true}, // on 64-bit processors too
		"arch=i386":                                       {at(Machine{}), true},
		"platform=efi&arch=i386":                          {at(Machine{Firmware: UEFI, Arch: "386"}), true},
		"arch=x86_64&platform=pcbios":                     {at(Machine{Firmware: BIOS, Arch: "amd64"}), true},
		"arch=arm64&platform=efi&virtio=1":                {at(Machine{Firmware: UEFI, Arch: "arm64", Virtio: true}), true},
		"arch=x86_64&serialhex=61206226632b64&assethex=7": {at(Machine{Arch: "amd64", Serial: "a b&c+d"}), true},
		"arch=vax&platform=prom":                          {at(Machine{}), true},
		"arch=x86_64&mac=80:00:02:08:fe:80:00:00:00:00":   {at(Machine{Arch: "amd64"}), true},
		"arch=x86_64&serial=a%0ab&asset=%c3%a4":           {at(Machine{Arch: "amd64"}), true},
		"arch=x86_64&serial=%zz&mac=52-54-00-AB-CD-EF":    {at(Machine{Arch: "amd64", MAC: "52:54:00:ab:cd:ef"}), true},
		"arch=x86_64&uuid=03000200-0400-0500-0006-000700080009&serial=To%20be%20filled%20by%20O.E.M.&asset=0000000": {at(Machine{Arch: "amd64"}), true},
	} {
		m, told := ParseMachine("10.0.0.1:8010", "debian12", query)
		if diff := cmp.Diff(want.m, m, cmp.Comparer(func(a, b Machine) bool { return a == b })); diff != "" || told != want.told {
			t.Errorf("%s: told %v, %s", query, told, diff)
		}
	}
}

func TestFillers(t *testing.T) {
	for _, s := range []string{"", "not-a-uuid", "00000000-0000-0000-0000-000000000000", "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
		"4c4c4544-0042-3510-8053-b4c04f4d4e3", "4c4c4544-0042-3510-8053-b4c04f4d4e31x", "00020003-0004-0005-0006-000700080009"} {
		if got := ParseUUID(s); got != "" {
			t.Errorf("UUID %q: %q", s, got)
		}
	}
	if got := ParseUUID(" 4C4C4544-0042-3510-8053-B4C04F4D4E31\n"); got != "4c4c4544-0042-3510-8053-b4c04f4d4e31" {
		t.Errorf("%q", got)
	}
	for _, s := range []string{"", " ", "Default string", "SYSTEM SERIAL NUMBER", "xxxx", "........", "a\x00b", "é", strings.Repeat("ab", 33)} {
		if got := ParseSerial(s); got != "" {
			t.Errorf("serial %q: %q", s, got)
		}
	}
	if got := ParseSerial(" CZ-1234 X "); got != "CZ-1234 X" {
		t.Errorf("%q", got)
	}
}

// Whatever a loader sends, what is believed of it is in one form, and a plan can be made with it.
func FuzzParseMachine(f *testing.F) {
	f.Add("arch=x86_64&platform=efi&mac=52:54:00:12:34:56&uuid=4c4c4544-0042-3510-8053-b4c04f4d4e31&serial=%41&asset=")
	f.Add("&&=&arch&mac=%")
	f.Fuzz(func(t *testing.T, query string) {
		m, _ := ParseMachine("10.0.2.2", "debian12", query)
		if mac, err := ParseMAC(m.MAC); err != nil || mac != m.MAC || ParseUUID(m.UUID) != m.UUID || ParseSerial(m.Serial) != m.Serial || ParseSerial(m.Asset) != m.Asset {
			t.Errorf("%q: %+v", query, m)
		}
		m.Arch = ""
		p, err := Decide(m, debian(), Settings{Ports: all})
		if err != nil {
			t.Errorf("%q: %v", query, err)
		}
		checkScript(t, p.IPXE(), 13+map[bool]int{true: -1}[m.Virtio])
	})
}

func TestLoaders(t *testing.T) {
	starts := map[string][]uint16{}
	for _, l := range Loaders() {
		for _, arch := range []string{"386", "amd64", "arm64"} {
			if l.Starts(arch) {
				starts[arch] = append(starts[arch], l.Code)
			}
		}
		if len(l.File) >= 128 || l.Firmware == "" {
			t.Errorf("%+v", l)
		}
	}
	want := map[string][]uint16{"386": {0, 6}, "amd64": {0, 7, 9, 16}, "arm64": {11, 19}}
	if diff := cmp.Diff(want, starts); diff != "" {
		t.Error(diff)
	}
}

func TestParseArch(t *testing.T) {
	for text, want := range map[string]string{
		"": "", "amd64": "amd64", "x86_64": "amd64", "arm64": "arm64", "aarch64": "arm64", "i386": "386", "i686": "386", "riscv64": "riscv64",
	} {
		if got, err := ParseArch(text); err != nil || got != want {
			t.Errorf("ParseArch(%q) = %q, %v, want %q", text, got, err, want)
		}
	}
	if _, err := ParseArch("x86"); err == nil || !strings.Contains(err.Error(), `unknown architecture "x86": choose 386, amd64, arm,`) {
		t.Errorf("error %v", err)
	}
}
