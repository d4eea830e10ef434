package secrets

import (
	"bytes"
	"regexp"
)

// anyKey finds private keys of the common text formats in a file of any name.
func anyKey(text []byte) (Kind, []int) {
	if binary(text[:min(len(text), 512)]) {
		return "", nil
	}
	for _, f := range keyFormats {
		if !bytes.Contains(text, f.mark) {
			continue
		}
		var found []int
		for _, at := range f.pattern.FindAllIndex(text, -1) {
			start := at[0]
			for start < at[1] && (text[start] == '\n' || text[start] == '\r') {
				start++
			}
			found = append(found, 1+bytes.Count(text[:start], []byte{'\n'}))
		}
		if found != nil {
			return PrivateKey, found
		}
	}
	return "", nil
}

// keyFormats are recognized by a mark that can be found fast, and by the text that must surround
// it: programs and manuals also contain the marks, but without a key.
var keyFormats = []struct {
	mark    []byte
	pattern *regexp.Regexp
}{
	// PEM (RFC 7468) and OpenSSH's format: the header, optional attributes (RFC 1421), and 40
	// or more characters of base64. In the JSON of a service account, each line break is the
	// two characters "\n".
	{[]byte("PRIVATE KEY"), regexp.MustCompile(`-----BEGIN ([A-Z0-9]+ )*PRIVATE KEY( BLOCK)?-----(\r?\n|\\n)\s*([A-Za-z0-9-]+: [^\n]*\s+)*[A-Za-z0-9+/]{40}`)},
	{[]byte("PuTTY-User-Key-File-"), regexp.MustCompile(`(^|\n)PuTTY-User-Key-File-[0-9]: `)},
	{[]byte("AGE-SECRET-KEY-"), regexp.MustCompile(`(^|\n)AGE-SECRET-KEY-(PQ-)?1[0-9A-Z]{50}`)},
	// The format of BIND, dnssec-keygen(8).
	{[]byte("Private-key-format: v1"), regexp.MustCompile(`(^|\n)Private-key-format: v1`)},
}

// binary reports whether a file is not a text.
func binary(text []byte) bool { return bytes.IndexByte(text, 0) >= 0 }
