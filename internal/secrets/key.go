package secrets

import (
	"bytes"
	"regexp"
)

// keyFormats are recognised by a mark, from which on the text must match: programs and manuals also
// contain the marks, but without a key.
var keyFormats = []format{
	// PEM (RFC 7468) and OpenSSH's format: the header, optional attributes (RFC 1421), and 40
	// or more characters of base64. In the JSON of a service account, each line break is the
	// two characters "\n".
	{mark: "-----BEGIN ", kind: PrivateKey, what: "PEM, OpenSSH and OpenPGP (`-----BEGIN … PRIVATE KEY`)",
		pattern: regexp.MustCompile(`^-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY( BLOCK)?-----(\r?\n|\\n)\s*([A-Za-z0-9-]+: [^\n]*\s+)*[A-Za-z0-9+/]{40}`)},
	{mark: "PuTTY-User-Key-File-", kind: PrivateKey, atLine: true, what: "PuTTY (`PuTTY-User-Key-File-`)",
		pattern: regexp.MustCompile(`^PuTTY-User-Key-File-[0-9]: `)},
	{mark: "AGE-SECRET-KEY-", kind: PrivateKey, atLine: true, what: "age (`AGE-SECRET-KEY-`)",
		pattern: regexp.MustCompile(`^AGE-SECRET-KEY-(PQ-)?1[0-9A-Z]{50}`)},
	// The format of BIND, dnssec-keygen(8).
	{mark: "Private-key-format: v1", kind: PrivateKey, atLine: true, what: "DNSSEC (`Private-key-format: v1`)",
		pattern: regexp.MustCompile(`^Private-key-format: v1`)},
	// OpenVPN's static keys, and those of "keepalived" and others that use its format.
	{mark: "-----BEGIN OpenVPN", kind: PrivateKey, atLine: true, what: "OpenVPN (`-----BEGIN OpenVPN Static key`)",
		pattern: regexp.MustCompile(`^-----BEGIN OpenVPN Static key V1-----\r?\n[0-9a-f]{32}`)},
}

// privateKeys returns the lines of a text in which private keys begin.
func privateKeys(text []byte) []int {
	if binary(text[:min(len(text), 512)]) {
		return nil
	}
	if kind, found := distinctive(text); kind == PrivateKey {
		return found
	}
	return nil
}

// lineOf returns the number of the line at a position.
func lineOf(text []byte, at int) int { return 1 + bytes.Count(text[:at], []byte{'\n'}) }
