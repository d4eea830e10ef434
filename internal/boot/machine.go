package boot

import (
	"encoding/hex"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
)

// Machine is what is known of the machine that asks. All but Server may be empty.
type Machine struct {
	Server   string   `json:"server"`         // host and perhaps port, as in a URL, under which the machine reached us
	Arch     string   `json:"arch,omitempty"` // "amd64", "arm64" (GOARCH names)
	Firmware Firmware `json:"firmware,omitempty"`
	MAC      string   `json:"mac,omitempty"`    // "52:54:00:12:34:56"
	UUID     string   `json:"uuid,omitempty"`   // of SMBIOS, in lower case; never a filler
	Serial   string   `json:"serial,omitempty"` // of the system, of SMBIOS; never a filler
	Asset    string   `json:"asset,omitempty"`  // the asset tag of its chassis, of SMBIOS; never a filler
	Virtio   bool     `json:"virtio,omitempty"` // a virtual machine that has no hardware but virtio devices
	// Address is what it asks from: the one that it has in its boot loader, which may not be the
	// one that it will have.
	Address netip.Addr `json:"address,omitzero"`
	Ref     string     `json:"ref,omitempty"` // the image it asked for, "label" or "label@id"; empty: the image's own name
}

// facts are the parameters of a script's URL by which iPXE says on what machine it runs. iPXE fills
// the settings in when it fetches the URL. What it does not know is left empty. Numbers are in
// hexadecimal: iPXE decodes a URL that it was given and encodes it anew, and a "&" in a number
// (:uristring) comes out of that as one between parameters.
const facts = "arch=${buildarch}&platform=${platform}&mac=${netX/mac}&uuid=${uuid}&serialhex=${serial:hexraw}&assethex=${asset:hexraw}"

// withFacts is a script's URL with the facts of the machine that will fetch it.
func withFacts(script string) string {
	return withQuery(script, facts)
}

func withQuery(url, more string) string {
	if strings.Contains(url, "?") {
		return url + "&" + more
	}
	return url + "?" + more
}

// ParseMachine reads the query of a script's URL. Told says whether iPXE added its facts, even if
// it knew none.
//
// What cannot be right counts as not known, for a boot must not fail because of the words in a
// machine's firmware: a MAC address that is not one of Ethernet, a UUID or number that is a filler.
func ParseMachine(server, ref, query string) (m Machine, told bool) {
	m = Machine{Server: server, Ref: ref}
	platform, buildarch := "", ""
	for pair := range strings.SplitSeq(query, "&") {
		key, value, _ := strings.Cut(pair, "=")
		// A plus sign is one: iPXE writes a blank as %20 (url.ParseQuery would make the first a
		// blank).
		value, err := url.PathUnescape(value)
		if err != nil {
			continue
		}
		switch key {
		case "virtio":
			m.Virtio = value == "1"
		case "arch":
			told, buildarch = true, value
		case "platform":
			platform = value
		case "mac":
			m.MAC, _ = ParseMAC(value)
		case "uuid":
			m.UUID = ParseUUID(value)
		case "serial":
			m.Serial = ParseSerial(value)
		case "serialhex":
			m.Serial = ParseSerial(unhex(value))
		case "asset":
			m.Asset = ParseSerial(value)
		case "assethex":
			m.Asset = ParseSerial(unhex(value))
		}
	}
	m.Firmware = platforms[platform]
	m.Arch = archOf(buildarch, m.Firmware)
	return m, told
}

// unhex returns the text that hexadecimal digits stand for, or nothing.
func unhex(s string) string {
	b, err := hex.DecodeString(s)
	if err != nil {
		return ""
	}
	return string(b)
}

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// fillerUUIDs are those that boards have whose makers wrote none, beside those of one digit. They
// are seen in both byte orders.
var fillerUUIDs = map[string]bool{
	"03000200-0400-0500-0006-000700080009": true,
	"00020003-0004-0005-0006-000700080009": true,
	"12345678-1234-5678-90ab-cddeefaabbcc": true,
	"78563412-3412-7856-90ab-cddeefaabbcc": true,
	"11111111-2222-3333-4444-555555555555": true,
	"01234567-8910-1112-1314-151617181920": true,
}

// ParseUUID returns a machine's UUID in lower case, or nothing if the text is not one or is a
// filler.
func ParseUUID(s string) string {
	s = strings.ToLower(strings.TrimSpace(s))
	if !uuidForm.MatchString(s) || fillerUUIDs[s] || oneCharacter(strings.ReplaceAll(s, "-", "")) {
		return ""
	}
	return s
}

// maxSerial is the longest number that is believed, in bytes.
const maxSerial = 64

// fillers are the words that boards have in place of numbers, in lower case.
var fillers = map[string]bool{
	"default string": true, "system serial number": true, "serial number": true, "chassis serial number": true,
	"base board serial number": true, "asset tag": true, "no asset tag": true, "asset-1234567890": true,
	"to be filled by o.e.m.": true, "to be filled by oem": true, "not specified": true, "not applicable": true,
	"not available": true, "none": true, "n/a": true, "na": true, "unknown": true, "invalid": true, "empty": true, "oem": true,
	"0123456789": true, "123456789": true, "1234567890": true, "01234567": true, "12345678": true,
}

// ParseSerial returns a serial number or asset tag, or nothing if it is a filler, too long, or has
// characters that are not printable ASCII.
func ParseSerial(s string) string {
	s = strings.TrimSpace(s)
	odd := strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
	if odd || len(s) > maxSerial || fillers[strings.ToLower(s)] || oneCharacter(s) {
		return ""
	}
	return s
}

// oneCharacter reports a text that has nothing but repetitions of its first byte.
func oneCharacter(s string) bool { return s == "" || strings.Trim(s, s[:1]) == "" }
