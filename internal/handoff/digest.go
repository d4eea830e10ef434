package handoff

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"
)

// Digest names bytes by their SHA-256: "sha256:" and 64 hexadecimal digits in lower case, as an OCI
// registry has it. Package store has the type of OCI's own library for the same text; that one
// brings regexp, which would make the node's init 3 % larger.
type Digest string

// digestPrefix is the only algorithm that is known.
const digestPrefix = "sha256:"

// ParseDigest checks the form of a digest.
func ParseDigest(s string) (Digest, error) {
	d := Digest(s)
	if hex := d.Hex(); len(hex) != 2*sha256.Size || strings.Trim(hex, "0123456789abcdef") != "" {
		return "", fmt.Errorf("%q is not a digest: expected sha256: and 64 hexadecimal digits in lower case", s)
	}
	return d, nil
}

// DigestOf is the digest of some bytes.
func DigestOf(b []byte) Digest {
	sum := sha256.Sum256(b)
	return Digest(digestPrefix + hex.EncodeToString(sum[:]))
}

// DigestSum is the digest of what was written to a hash, which is one of SHA-256.
func DigestSum(h hash.Hash) Digest { return Digest(digestPrefix + hex.EncodeToString(h.Sum(nil))) }

// Hex is the hexadecimal digits of a digest; nothing if it has another algorithm.
func (d Digest) Hex() string {
	hex, ok := strings.CutPrefix(string(d), digestPrefix)
	if !ok {
		return ""
	}
	return hex
}

// Short is the first 12 digits, for people.
func (d Digest) Short() string { return d.Hex()[:min(12, len(d.Hex()))] }
